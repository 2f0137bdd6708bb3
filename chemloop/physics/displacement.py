"""How far atoms went while a crystal relaxed."""

from __future__ import annotations

import numpy as np
from ase import Atoms


def rmsd_to_relaxed(before: Atoms, after: Atoms) -> float:
    """A, root mean square over the atoms of their displacement, in the relaxed cell.

    Displacements are those of fractional coordinates, the nearest images, without what all atoms have in common; so
    neither a shift nor a rotation of the crystal counts, nor a strain under which the atoms keep their places. The
    atoms must be in the same order.

    Raises: ValueError for crystals of other atoms
    """
    if not np.array_equal(before.numbers, after.numbers):
        raise ValueError(f"{before.symbols} and {after.symbols} are not the same atoms in the same order")
    moved = after.get_scaled_positions(wrap=False) - before.get_scaled_positions(wrap=False)
    # Which images are nearest depends on the common shift; the circular mean knows it before they are found.
    moved -= np.angle(np.exp(2j * np.pi * moved).mean(axis=0)) / (2 * np.pi)
    moved -= np.rint(moved)
    moved -= moved.mean(axis=0)
    return float(np.sqrt(((moved @ after.cell.array) ** 2).sum(axis=1).mean()))
