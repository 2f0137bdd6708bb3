"""Distances and volumes: what known structures allow, and how to bring atoms apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from matscipy.neighbours import neighbour_list

Numbers = Sequence[int] | np.ndarray

# Pairs beyond this many sums of covalent radii are no contact: their distance does not say how close they may come.
REACH = 1.6
# For pairs without any contact among the known structures: the closest ones of Li-P-S are at 0.87 to 1.0 times the sum.
UNKNOWN_PAIR_SCALE = 0.9
OVERSHOOT = 1.001  # pairs are pushed a little further than they must, else the last step would take for ever
# Of one push: atoms that nearly coincide would otherwise squash the cell flat.
MAX_STRAIN = 0.05


@dataclass(frozen=True)
class KnownGeometry:
    """Distances and volumes of known structures.

    numbers: (n_species,) atomic numbers
    fractions: (n, n_species) atomic fractions
    distances: (n, n_species, n_species) A, the shortest distance of each pair of species; inf without contact
    volumes: (n,) A^3 per atom
    """

    numbers: np.ndarray
    fractions: np.ndarray
    distances: np.ndarray
    volumes: np.ndarray

    @classmethod
    def of(cls, structures: Sequence[Atoms], numbers: Numbers) -> KnownGeometry:
        """What the structures, at least one, show."""
        order = np.asarray(numbers)
        return cls(
            order,
            np.array([(atoms.numbers[:, None] == order).mean(axis=0) for atoms in structures]),
            np.array([shortest_distances(atoms, numbers) for atoms in structures]),
            np.array([atoms.cell.volume / len(atoms) for atoms in structures]),
        )

    def near(self, counts: np.ndarray, n_neighbours: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Shortest distances (n_species, n_species) A and range (2,) of volumes per atom (A^3) near a composition.

        They are taken from the `n_neighbours` structures of nearest composition and from all that are as near as the
        last of them; None takes all structures. Distances of a pair come from structures in which it has a contact;
        where there are none, from covalent radii.
        counts: (n_species,) atoms of each element
        """
        differences = np.abs(self.fractions - counts / counts.sum()).sum(axis=1)
        volumes = self.volumes[_nearest(differences, n_neighbours)]
        limits = pair_limits(self.numbers, UNKNOWN_PAIR_SCALE)
        for a, b in np.ndindex(limits.shape):
            contact = np.isfinite(self.distances[:, a, b])
            if contact.any():
                near = _nearest(differences[contact], n_neighbours)
                limits[a, b] = self.distances[contact, a, b][near].min()
        return limits, np.array([volumes.min(), volumes.max()])


def _nearest(differences: np.ndarray, n: int | None) -> np.ndarray:
    """Mask of the n smallest differences, ties included."""
    if n is None or n >= len(differences):
        return np.ones(len(differences), dtype=bool)
    return differences <= np.sort(differences)[n - 1] + 1e-9


def pair_limits(numbers: Numbers, scale: float) -> np.ndarray:
    """(n_species, n_species) A: `scale` times the sum of covalent radii, rows and columns as in `numbers`."""
    radii = covalent_radii[np.asarray(numbers)]
    return scale * (radii[:, None] + radii[None, :])


def shortest_distances(atoms: Atoms, numbers: Numbers, reach: float = REACH) -> np.ndarray:
    """(n_species, n_species) A: the shortest distance of each pair of species; inf where they have no contact."""
    species = species_of(atoms, numbers)
    limits = pair_limits(numbers, reach)
    i, j, d = neighbour_list("ijd", atoms, float(limits.max()))
    shortest = np.full_like(limits, np.inf)
    np.minimum.at(shortest, (species[i], species[j]), d)
    return np.where(shortest < limits, shortest, np.inf)


def closest_contact(atoms: Atoms) -> tuple[int, int, float, float]:
    """Atoms i and j, their distance (A), and that over the sum of their covalent radii, for the closest pair.

    i may equal j: an atom and its own periodic image.
    """
    radii = covalent_radii[atoms.numbers]
    i, j, d = neighbour_list("ijd", atoms, float(2 * radii.max()))
    if len(d) == 0:
        return 0, 0, np.inf, np.inf
    ratios = d / (radii[i] + radii[j])
    closest = int(np.argmin(ratios))
    return int(i[closest]), int(j[closest]), float(d[closest]), float(ratios[closest])


def species_of(atoms: Atoms, numbers: Numbers) -> np.ndarray:
    """(n_atoms,) position of each atom's element in `numbers`.

    Raises: ValueError for an element that `numbers` lacks
    """
    order = {int(number): position for position, number in enumerate(numbers)}
    if not set(atoms.numbers.tolist()) <= order.keys():
        raise ValueError(f"{atoms.symbols} has elements beyond atomic numbers {list(order)}")
    return np.array([order[number] for number in atoms.numbers.tolist()])


def overlap(atoms: Atoms, limits: np.ndarray, numbers: Numbers) -> float:
    """The factor by which the cell must grow for all pairs to keep their limits; 1 or less where they do."""
    species = species_of(atoms, numbers)
    i, j, d = neighbour_list("ijd", atoms, float(limits.max()))
    if len(d) == 0:
        return 0.0
    with np.errstate(divide="ignore"):
        return float(np.max(limits[species[i], species[j]] / d))


def separate(atoms: Atoms, limits: np.ndarray, numbers: Numbers, n_steps: int) -> bool:
    """Push atoms apart, in place, until all pairs keep their limits; says whether they do.

    Both atoms of a pair that is too close move by half of what is missing, all pairs at once, so that every symmetry of
    the structure survives. An atom too close to its own image can only be helped by the cell: the same overlaps strain
    it at constant volume.
    limits: (n_species, n_species) A, rows and columns as in `numbers`
    """
    species = species_of(atoms, numbers)
    reach = float(limits.max())
    for _ in range(n_steps):
        i, j, d, vectors = neighbour_list("ijdD", atoms, reach)
        allowed = limits[species[i], species[j]]
        close = d < allowed
        if not close.any():
            return True
        if d.min() < 1e-3:
            return False
        i, d, vectors, missing = i[close], d[close], vectors[close], (OVERSHOOT * allowed - d)[close]
        pushes = (-0.5 * missing / d)[:, None] * vectors
        moves = np.zeros_like(atoms.positions)
        np.add.at(moves, i, pushes)
        strain = np.einsum("n,na,nb->ab", 0.5 * missing / d**3, vectors, vectors) / len(atoms)
        strain -= np.eye(3) * np.trace(strain) / 3
        growth = np.eye(3) + strain * (MAX_STRAIN / max(np.abs(strain).max(), MAX_STRAIN))
        growth /= np.cbrt(np.linalg.det(growth))
        atoms.positions += moves
        atoms.set_cell(atoms.cell.array @ growth, scale_atoms=True)
    return overlap(atoms, limits, numbers) <= 1


def settle(atoms: Atoms, limits: np.ndarray, numbers: Numbers, n_pushes: int, max_volume: float) -> bool:
    """Push atoms apart, then let the cell grow, in place, until all pairs keep their limits; says whether they do.

    What pushing leaves over growth may cure, as far as known structures allow.
    limits: (n_species, n_species) A, rows and columns as in `numbers`; max_volume: A^3 per atom, for growth alone
    """
    if separate(atoms, limits, numbers, n_pushes):
        return True
    growth = overlap(atoms, limits, numbers) * (1 + 1e-9)
    if growth**3 * atoms.cell.volume > max_volume * len(atoms):
        return False
    atoms.set_cell(atoms.cell * growth, scale_atoms=True)
    return True
