"""Relaxation of cell and positions, and the one flag that says whether it converged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from chemloop.physics.batching import Batching, check_reasons
from chemloop.physics.calculator import Results, evaluate
from chemloop.physics.limits import Limits, find_flaw
from chemloop.physics.stepping import Run, step_side_by_side
from chemloop.physics.structures import set_results
from chemloop.physics.symmetry import Symmetry, find_symmetry
from chemloop.physics.throughput import measure
from chemloop.runtime.errors import ConfigError, ItemFailed

ENGINES = ("ase", "torchsim")


@dataclass
class Relaxed:
    """The end of one relaxation.

    atoms: the last structure that was evaluated, with `mlff_*` results and `converged`; the input if there is none
    n_steps: optimiser steps taken; n_coarse_steps: those of them in a first, coarse part
    rejection: None, or `exploded|collapsed|evaporated|not finite|out of memory|failed: ...`
    """

    atoms: Atoms
    n_steps: int
    rejection: str | None
    n_coarse_steps: int = 0


def relax(
    structures: Sequence[Atoms],
    potential: Any,
    fmax: float,
    max_steps: int,
    energy_frame: str,
    engine: str = "ase",
    batching: Batching | int | str = 8,
    displacement: float = 0.0,
    limits: Limits | None = None,
    symprec: float | None = None,
) -> list[Relaxed]:
    """Relax cells and positions; `converged` means residual_force <= fmax, nothing else. Inputs are not changed.

    fmax: eV/A
    engine: `ase`, RFO on any device; `torchsim`, FIRE for many structures on a GPU
    batching: structures per batch, or `auto`: measured on these structures. A `Batching` is measured once and keeps
        what it learned for the next call; a batch that does not fit into memory is taken in halves
    displacement: A, standard deviation of random displacements before the first step, the same ones at every call.
        A symmetric crystal that is not at a minimum leaves its symmetry when rounding errors have grown large enough,
        so without it single precision and the batch decide where and when it does
    symprec: A; structures that are so close to a space group above P1 keep it and are not displaced; None: none does
    Raises: ConfigError; ItemFailed where the GPU fails, or the potential for all of several structures alike
    """
    if not (fmax > 0 and max_steps > 0 and displacement >= 0):
        raise ConfigError(
            f"{fmax = }, {max_steps = }, {displacement = }: the first two must be above 0, the last 0 or above"
        )
    if engine not in ENGINES:
        raise ConfigError(f"engine = {engine}: allowed are {', '.join(ENGINES)}")
    batching = Batching.of(batching)
    if symprec is not None and engine != "ase":
        raise ConfigError(f"engine = {engine} keeps no symmetry; choose engine = ase, or symprec = null")
    runs = [
        Run(atoms, fmax, potential.cutoff, limits or Limits(), symmetry=symmetry)
        for atoms, symmetry in (_prepared(atoms, displacement, symprec) for atoms in structures)
    ]
    begun = [run for run in runs if run.is_moving]
    measure(batching, [run.atoms for run in begun], potential)
    if engine == "ase":
        step_side_by_side(runs, lambda chosen: evaluate(chosen, potential, batching), max_steps)
    else:
        from chemloop.physics.torchsim import step_in_batches

        step_in_batches(runs, potential, max_steps, batching)
    check_reasons([None if run.n_evaluated else run.rejection for run in begun])
    return [_end(run, energy_frame) for run in runs]


def relax_trajectory(
    atoms: Atoms, calculator: Calculator, fmax: float, max_steps: int, interval: int = 1, limits: Limits | None = None
) -> list[Atoms]:
    """The ionic steps of a relaxation with any ASE calculator: the first, every interval-th, and the last.

    Each carries energy, forces and stress in a `SinglePointCalculator`; the last one carries `converged`.
    Raises: ItemFailed where the structure is rejected
    """

    def compute(structures: Sequence[Atoms]) -> list[Results]:
        (present,) = structures
        copy = present.copy()
        copy.calc = calculator
        return [Results(copy.get_potential_energy(), copy.get_forces(), copy.get_stress(voigt=False))]

    run = Run(atoms, fmax, np.inf, limits or Limits(), keeps_steps=True)
    step_side_by_side([run], compute, max_steps)
    if run.rejection:
        raise ItemFailed(run.rejection)
    frames = run.steps[:-1:interval] + run.steps[-1:]
    frames[-1].info["converged"] = run.is_converged
    return frames


def _prepared(atoms: Atoms, displacement: float, symprec: float | None) -> tuple[Atoms, Symmetry | None]:
    """The structure to begin with, and the symmetry that it keeps."""
    symmetric = None if symprec is None else find_symmetry(atoms, symprec)
    if symmetric is not None:
        return symmetric
    return (atoms if displacement == 0 else _displaced(atoms, displacement)), None


def _displaced(atoms: Atoms, displacement: float) -> Atoms:
    copy = atoms.copy()
    copy.positions += np.random.default_rng(0).normal(scale=displacement, size=(len(atoms), 3))
    return copy


def _end(run: Run, energy_frame: str) -> Relaxed:
    atoms = run.atoms
    if run.steps:
        atoms = run.steps[-1]
        results = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)
        set_results(atoms, "mlff", *results, energy_frame)
        run.rejection = run.rejection or find_flaw(atoms, results[1], run.cutoff, run.limits)
    atoms.calc = None
    atoms.info["converged"] = run.is_converged and run.rejection is None
    return Relaxed(atoms, max(run.n_evaluated - 1, 0), run.rejection)
