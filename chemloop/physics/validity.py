"""Whether a proposed crystal is worth relaxing: its elements, its size, its volume and its distances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from chemloop.physics.geometry import KnownGeometry, overlap

OUTSIDE = "outside the system"
MIN_HEIGHT = 0.05  # A: of a cell so flat that finding neighbours in it would take for ever
TOUCHING = 1 + 1e-6  # generators that keep the same distances reach them up to rounding


@dataclass(frozen=True)
class Bounds:
    """What a proposed crystal must keep.

    numbers: (n_species,) atomic numbers of the system
    distances: (n_species, n_species) A, shortest distance of each pair
    volumes: A^3 per atom, smallest and largest
    min_atoms, max_atoms: in the cell as it is; None = any number
    """

    numbers: np.ndarray
    distances: np.ndarray
    volumes: tuple[float, float]
    min_atoms: int | None = None
    max_atoms: int | None = None

    @classmethod
    def of(
        cls,
        known: KnownGeometry,
        min_distance_scale: float,
        volume_scale: Sequence[float],
        min_atoms: int | None = None,
        max_atoms: int | None = None,
    ) -> Bounds:
        """Those of known structures, whatever their composition, times the scales."""
        distances, (low, high) = known.near(np.ones(len(known.numbers)), None)
        volumes = float(volume_scale[0] * low), float(volume_scale[1] * high)
        return cls(known.numbers, min_distance_scale * distances, volumes, min_atoms, max_atoms)


def find_fault(atoms: Atoms, bounds: Bounds) -> str | None:
    """The first bound that a crystal of three directions of periodicity and some volume breaks, in words that are the
    same for all that break it; None where it keeps them all.
    """
    if not np.isin(atoms.numbers, bounds.numbers).all():
        return OUTSIDE
    if bounds.min_atoms is not None and len(atoms) < bounds.min_atoms:
        return "too few atoms"
    if bounds.max_atoms is not None and len(atoms) > bounds.max_atoms:
        return "too many atoms"
    volume = atoms.cell.volume / len(atoms)
    low, high = bounds.volumes
    if not low <= volume <= high:
        return "volume too small" if volume < low else "volume too large"
    if np.linalg.norm(atoms.cell.reciprocal(), axis=1).max() * MIN_HEIGHT > 1:
        return "cell too flat"
    has_limits = bounds.distances.max() > 0
    return "too close" if has_limits and overlap(atoms, bounds.distances, bounds.numbers) > TOUCHING else None
