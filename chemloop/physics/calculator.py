"""Energies, forces and stresses of structures from any `Potential`, in batches or through ASE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from chemloop.physics.batching import Batching, out_of_memory, release_memory


class Results(NamedTuple):
    """energy eV per cell; forces (n_atoms, 3) eV/A; stress (3, 3) eV/A^3, tension positive; double precision."""

    energy: float
    forces: np.ndarray
    stress: np.ndarray


def evaluate(structures: Sequence[Atoms], potential: Any, batching: Batching | int = 8) -> list[Results]:
    """Results in the order of the structures, computed in evaluation mode.

    A batch that does not fit into memory is taken in halves, and `batching` remembers it.
    batching: or a number of structures per batch
    Raises: OutOfMemory for a structure that does not fit alone
    """
    batching = Batching.of(batching)
    results: dict[int, Results] = {}
    was_training = potential.training
    potential.eval()
    try:
        for chosen in batching.cut([len(atoms) for atoms in structures]):
            found = _evaluate_batch([structures[index] for index in chosen], potential, batching)
            results |= dict(zip(chosen, found, strict=True))
    finally:
        potential.train(was_training)
    return [results[index] for index in range(len(structures))]


def _evaluate_batch(structures: Sequence[Atoms], potential: Any, batching: Batching) -> list[Results]:
    try:
        prediction = potential(potential.collate(structures))
        energies, forces, stresses = (tensor.detach().cpu().numpy().astype(float) for tensor in prediction)
    except (RuntimeError, MemoryError) as error:
        reason = out_of_memory(error)
        if reason is None:
            raise
    else:
        ends = np.cumsum([len(atoms) for atoms in structures])
        parts = zip(energies, np.split(forces, ends[:-1]), stresses, strict=True)
        return [Results(float(energy), own, stress) for energy, own, stress in parts]
    # outside of the handler, whose traceback keeps the tensors of the failed batch alive
    release_memory()
    batching.lower(len(structures), sum(len(atoms) for atoms in structures), reason)
    half = len(structures) // 2
    first, second = structures[:half], structures[half:]
    return [*_evaluate_batch(first, potential, batching), *_evaluate_batch(second, potential, batching)]


class PotentialCalculator(Calculator):
    """Any `Potential` as an ASE calculator."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 - as ASE declares it

    def __init__(self, potential: Any):
        super().__init__()
        self.potential = potential

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        (result,) = evaluate([self.atoms], self.potential)
        self.results = {
            "energy": result.energy,
            "free_energy": result.energy,
            "forces": result.forces,
            "stress": full_3x3_to_voigt_6_stress(result.stress),
        }
