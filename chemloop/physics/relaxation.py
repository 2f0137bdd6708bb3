"""Relaxation of cell and positions, and the one flag that says whether it converged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from chemloop.physics.calculator import Results, evaluate
from chemloop.physics.limits import Limits, find_flaw
from chemloop.physics.stepping import Run, step_side_by_side
from chemloop.physics.structures import set_results
from chemloop.runtime.errors import ConfigError, ItemFailed


@dataclass
class Relaxed:
    """The end of one relaxation.

    atoms: the last structure that was evaluated, with `mlff_*` results and `converged`; the input if there is none
    n_steps: optimiser steps taken
    rejection: None, or `exploded|collapsed|evaporated|not finite|failed: ...`
    """

    atoms: Atoms
    n_steps: int
    rejection: str | None


def relax(
    structures: Sequence[Atoms],
    potential: Any,
    fmax: float,
    max_steps: int,
    energy_frame: str,
    engine: str = "ase",
    batch_size: int = 8,
    max_atoms: int = 2000,
    limits: Limits | None = None,
) -> list[Relaxed]:
    """Relax cells and positions; `converged` means residual_force <= fmax, nothing else. Inputs are not changed.

    fmax: eV/A
    engine: `ase`, RFO on any device, batches of batch_size structures; `torchsim`, FIRE for many structures on a
        GPU, batches of at most max_atoms atoms
    Raises: ConfigError
    """
    if not (fmax > 0 and max_steps > 0 and batch_size > 0 and max_atoms > 0):
        raise ConfigError(f"{fmax = }, {max_steps = }, {batch_size = }, {max_atoms = }: all must be above 0")
    runs = [Run(atoms, fmax, potential.cutoff, limits or Limits()) for atoms in structures]
    if engine == "ase":
        step_side_by_side(runs, lambda chosen: evaluate(chosen, potential, batch_size), max_steps)
    elif engine == "torchsim":
        from chemloop.physics.torchsim import step_in_batches

        step_in_batches(runs, potential, max_steps, max_atoms)
    else:
        raise ConfigError(f"engine = {engine}: allowed are ase, torchsim")
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
