"""Energies, forces and stresses of structures from any `Potential`, in batches or through ASE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress


class Results(NamedTuple):
    """energy eV per cell; forces (n_atoms, 3) eV/A; stress (3, 3) eV/A^3, tension positive; double precision."""

    energy: float
    forces: np.ndarray
    stress: np.ndarray


def evaluate(structures: Sequence[Atoms], potential: Any, batch_size: int = 8) -> list[Results]:
    """Results in the order of the structures, computed in evaluation mode.

    batch_size: structures per batch; those of similar size share one, so batches cost about the same
    """
    results: list[Results | None] = [None] * len(structures)
    by_size = sorted(range(len(structures)), key=lambda index: len(structures[index]))
    was_training = potential.training
    potential.eval()
    try:
        for start in range(0, len(by_size), batch_size):
            chosen = by_size[start : start + batch_size]
            prediction = potential(potential.collate([structures[index] for index in chosen]))
            energies, forces, stresses = (tensor.detach().cpu().numpy().astype(float) for tensor in prediction)
            ends = np.cumsum([len(structures[index]) for index in chosen])
            for index, energy, own, stress in zip(chosen, energies, np.split(forces, ends[:-1]), stresses, strict=True):
                results[index] = Results(float(energy), own, stress)
    finally:
        potential.train(was_training)
    return [result for result in results if result is not None]


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
