"""Heredity: a slab of one crystal and a slab of another one make a crystal, whatever their compositions and sizes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase import Atoms

from chemloop.physics.variation import reduced

SMALLEST_SHARE = 0.25  # of the child's cell, for the slab of either parent


class Splice(NamedTuple):
    """All atoms of both parents in the child's cell.

    atoms: those of the first parent, then those of the second
    depths: (n_atoms,) how far an atom is inside the slab of its parent, as a fraction of the cell; below 0 outside
    share: of the cell, for the first parent
    """

    atoms: Atoms
    depths: np.ndarray
    share: float


def splice(first: Atoms, second: Atoms, rng: np.random.Generator) -> Splice:
    """Two crystals, each turned and shifted at random, cut at the same planes.

    The cell is the mean of both, with the shares of the slabs as weights.
    Source: doi:10.1016/j.cpc.2006.07.020
    """
    share = float(rng.uniform(SMALLEST_SHARE, 1 - SMALLEST_SHARE))
    (cell, scaled), (other_cell, other_scaled) = (_placed(atoms, rng) for atoms in (first, second))
    atoms = Atoms(
        np.concatenate([first.numbers, second.numbers]),
        scaled_positions=np.concatenate([scaled, other_scaled]),
        cell=share * cell + (1 - share) * other_cell,
        pbc=True,
    )
    depths = [_depths(scaled, 0.0, share), _depths(other_scaled, share, 1.0)]
    return Splice(atoms, np.concatenate(depths), share)


def _placed(atoms: Atoms, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(3, 3) A: the reduced cell with its edges in random order, as a right-handed lower triangle, and (n_atoms, 3) the
    fractional positions, shifted at random."""
    child = reduced(atoms)
    axes = rng.permutation(3)
    cell = child.cell.array[axes]
    scaled = child.get_scaled_positions()[:, axes]
    if np.linalg.det(cell) < 0:
        cell, scaled = -cell, -scaled
    # Cholesky factor of the metric: the cell, turned so that the first edge lies along x and the second in the xy plane
    return np.linalg.cholesky(cell @ cell.T), (scaled + rng.random(3)) % 1.0


def _depths(scaled: np.ndarray, begin: float, end: float) -> np.ndarray:
    """(n_atoms,) fractional distance from the nearer face of a slab across the first axis; below 0 outside."""
    from_middle = np.abs((scaled[:, 0] - (begin + end) / 2 + 0.5) % 1.0 - 0.5)
    return (end - begin) / 2 - from_middle


def taken(pieces: Splice, counts: np.ndarray, numbers: np.ndarray) -> Atoms:
    """The child: of each element those atoms that are deepest inside the slab of their parent.

    counts: (n_species,) atoms wanted of each element of `numbers`; no more than both parents have together. Those that
    lie inside their slabs give the pure cut (`cut_counts`); other numbers take atoms from beyond the faces, or leave
    out atoms next to them.
    """
    kept: list[int] = []
    for number, count in zip(numbers, counts, strict=True):
        candidates = np.flatnonzero(pieces.atoms.numbers == number)
        kept += candidates[np.argsort(-pieces.depths[candidates], kind="stable")][:count].tolist()
    return pieces.atoms[kept]


def cut_counts(pieces: Splice, numbers: np.ndarray) -> np.ndarray:
    """(n_species,) atoms of each element that lie inside the slab of their parent."""
    inside = pieces.atoms.numbers[pieces.depths > 0]
    return np.array([(inside == number).sum() for number in numbers])
