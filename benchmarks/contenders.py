"""The ways to relax that `benchmarks.relaxation` compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ase import Atoms

BATCHED = {"mattersim": "BatchRelaxer", "mace": "TorchSim's MaceModel"}
"""Models that bring, or for which TorchSim brings, a batched relaxation of their own."""


class Outcome(NamedTuple):
    """atoms: the end; n_calls: force calls, 0 where they cannot be counted; failure: why there is no end, or None."""

    atoms: Atoms
    n_calls: int
    failure: str | None


Relaxer = Callable[[Sequence[Atoms]], list[Outcome]]


def warm_up() -> list[Atoms]:
    """A few crystals that take a few steps, in which TorchScript compiles."""
    from ase.build import bulk

    crystals = [bulk("LiS", "rocksalt", a=5.2, cubic=True) for _ in range(4)]
    for seed, atoms in enumerate(crystals):
        atoms.rattle(0.05, seed=seed)
    return crystals


def our_relaxer(force_field: Any, fmax: float, max_steps: int) -> Relaxer:
    from chemloop.physics.batching import Batching
    from chemloop.physics.relaxation import relax

    potential = force_field.load("cpu", "float32")
    relax(warm_up(), potential, fmax, max_steps, "benchmark", batching=4)
    batching = Batching()

    def relax_ours(structures: Sequence[Atoms]) -> list[Outcome]:
        # the measurement of the batch size is part of the first item's time
        ends = relax(structures, potential, fmax, max_steps, "benchmark", batching=batching)
        return [Outcome(_bare(end.atoms), end.n_steps + 1, end.rejection) for end in ends]

    return relax_ours


def ase_relaxer(force_field: Any, fmax: float, max_steps: int) -> Relaxer:
    """FIRE and FrechetCellFilter with the backend's own calculator, one structure after the other."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    calculator = force_field.reference_calculator()

    def relax_ase(structures: Sequence[Atoms]) -> list[Outcome]:
        outcomes = []
        for structure in structures:
            atoms = structure.copy()
            atoms.calc = calculator
            optimizer = FIRE(FrechetCellFilter(atoms), logfile=None)
            failure = None
            try:
                optimizer.run(fmax, max_steps)
            except (ArithmeticError, ValueError, RuntimeError) as error:
                failure = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            outcomes.append(Outcome(_bare(atoms), optimizer.nsteps + 1, failure))
        return outcomes

    relax_ase(warm_up())
    return relax_ase


def own_relaxer(force_field: Any, fmax: float, max_steps: int) -> Relaxer:
    """The backend's own batches."""
    calculator: Any = force_field.reference_calculator()
    name = type(calculator).__name__
    if name == "MatterSimCalculator":
        relaxer = _batch_relaxer(calculator.potential, fmax, max_steps)
    elif name == "MACECalculator":
        relaxer = _torchsim_relaxer(calculator.models[0], fmax, max_steps)
    else:
        raise ValueError(f"{name} has no batched relaxation; there are {', '.join(BATCHED)}")
    relaxer(warm_up())
    return relaxer


def _batch_relaxer(potential: Any, fmax: float, max_steps: int) -> Relaxer:
    from ase.filters import FrechetCellFilter
    from mattersim.applications.batch_relax import BatchRelaxer

    def relax_own(structures: Sequence[Atoms]) -> list[Outcome]:
        relaxer = BatchRelaxer(potential, "FIRE", FrechetCellFilter, fmax, max_n_steps=max_steps)
        paths = relaxer.relax(list(structures))
        return [Outcome(_bare(paths[k][-1]), len(paths[k]), None) for k in range(len(structures))]

    return relax_own


def _torchsim_relaxer(network: Any, fmax: float, max_steps: int, batch_size: int = 16) -> Relaxer:
    import torch
    import torch_sim
    from torch_sim.io import atoms_to_state
    from torch_sim.models.mace import MaceModel
    from torch_sim.runners import generate_force_convergence_fn

    model = MaceModel(model=network, device=torch.device("cpu"), dtype=torch.float32)

    def relax_own(structures: Sequence[Atoms]) -> list[Outcome]:
        outcomes = []
        for start in range(0, len(structures), batch_size):
            batch = list(structures[start : start + batch_size])
            final = torch_sim.optimize(
                atoms_to_state(batch, model.device, model.dtype),
                model,
                optimizer=torch_sim.frechet_cell_fire,
                convergence_fn=generate_force_convergence_fn(fmax),
                max_steps=max_steps,
            )
            outcomes += [Outcome(_bare(atoms), 0, None) for atoms in final.to_atoms()]
        return outcomes

    return relax_own


def _bare(atoms: Atoms) -> Atoms:
    """Without calculator and results, to be sent to another process."""
    return Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=True)
