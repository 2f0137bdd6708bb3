"""The space group of a crystal, and forces and stress that respect it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms


@dataclass(frozen=True)
class Symmetry:
    """Operations that map a crystal onto itself.

    rotations: (n_operations, 3, 3) integers, acting on fractional coordinates
    images: (n_operations, n_atoms) the atom onto which each operation maps each atom
    """

    rotations: np.ndarray
    images: np.ndarray

    def forces(self, forces: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """(n_atoms, 3) eV/A, averaged over the operations; cell: (3, 3) A, rows are lattice vectors."""
        turned = np.einsum("nij,aj->nai", self._cartesian(cell), forces)
        averaged = np.zeros_like(forces)
        np.add.at(averaged, self.images, turned)
        return averaged / len(self.rotations)

    def stress(self, stress: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """(3, 3) eV/A^3, averaged over the operations; cell as above."""
        turns = self._cartesian(cell)
        return np.einsum("nij,jk,nlk->il", turns, stress, turns) / len(turns)

    def _cartesian(self, cell: np.ndarray) -> np.ndarray:
        return cell.T @ self.rotations @ np.linalg.inv(cell.T)


def find_symmetry(atoms: Atoms, symprec: float) -> tuple[Atoms, Symmetry] | None:
    """The crystal made exactly symmetric, and its operations; None where nothing but the identity is found.

    symprec: A, by which atoms may be away from their symmetric places
    Source: spglib (doi:10.1080/27660400.2024.2384822), the refinement of ASE
    """
    import spglib
    from ase.spacegroup.symmetrize import IntermediateDatasetError, get_symmetrized_atoms, prep_symmetry

    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        return None  # spglib ends the process
    cell = atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers
    try:
        found = spglib.get_symmetry_dataset(cell, symprec=symprec)
    except spglib.SpglibError:
        return None
    if found is None or len(found.rotations) == 1:
        return None
    try:
        refined, _ = get_symmetrized_atoms(atoms, symprec)
    # the tolerance lies between two groups: which one it is depends on where the atoms are moved first
    except (IntermediateDatasetError, AssertionError):
        return None
    rotations, _, images = prep_symmetry(refined, symprec)
    return refined, Symmetry(np.array(rotations), np.array(images))
