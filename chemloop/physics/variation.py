"""Children of one crystal: its cell strained, its atoms exchanged, added or taken out. Distances are not looked at.

ase-ga's operators are not used. They keep composition and number of atoms, which here vary; they want numpy's old
random state, which `np.random.default_rng` is not; and where atoms come too close they draw again, up to 1000 times,
where here they are pushed apart. With the shortest distances of known structures as limits, 4 of 5 ternary crystals of
Li-P-S gave no permutation after 0.3 to 0.6 s and 5 of 10 strains none after 0.2 to 0.8 s; here all do within 4 ms.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.geometry import get_distances
from matscipy.neighbours import neighbour_list
from scipy.linalg import expm

from chemloop.physics.structures import bare

N_POINTS = 32  # random points of a cell, of which the roomiest takes an atom
REACH = 6.0  # A, up to which distances tell two arrangements apart
SAME = 0.05  # A; relaxed positions are only as symmetric as the relaxation was tight


def with_volume(atoms: Atoms, volume_per_atom: float) -> Atoms:
    """The same arrangement at that volume (A^3 per atom)."""
    child = bare(atoms)
    child.set_cell(child.cell * np.cbrt(volume_per_atom * len(child) / child.cell.volume), scale_atoms=True)
    return child


def enlarged(atoms: Atoms, n_cells: int) -> Atoms:
    """Several cells as one, each time repeated along the shortest edge of the reduced cell, to stay compact."""
    child = reduced(atoms)
    for factor in _prime_factors(n_cells):
        repeats = np.ones(3, dtype=int)
        repeats[np.argmin(child.cell.lengths())] = factor
        child = child.repeat(repeats)
    return child


def reduced(atoms: Atoms) -> Atoms:
    """The same crystal in its Minkowski cell, whose edges are the shortest ones."""
    child = bare(atoms)
    child.set_cell(child.cell.minkowski_reduce()[0])
    child.wrap()
    return child


def _prime_factors(n: int) -> list[int]:
    """Largest first."""
    for factor in range(2, n + 1):
        if n % factor == 0:
            return [*_prime_factors(n // factor), factor]
    return []


def strained(atoms: Atoms, deviation: float, rng: np.random.Generator) -> Atoms:
    """A cell of another shape and the same volume; positions scale with it.

    deviation: of the logarithmic strain, which unlike the linear one of USPEX never turns a cell inside out
    Source: doi:10.1016/j.cpc.2006.07.020
    """
    strain = rng.normal(0.0, deviation, (3, 3))
    strain = (strain + strain.T) / 2
    child = bare(atoms)
    child.set_cell(child.cell.array @ expm(strain - np.eye(3) * np.trace(strain) / 3), scale_atoms=True)
    return child


def permuted(atoms: Atoms, n_swaps: int, rng: np.random.Generator) -> Atoms:
    """Pairs of atoms of different elements trade places.

    Raises: ValueError where there is one element only
    """
    if len(set(atoms.numbers)) < 2:
        raise ValueError(f"{atoms.symbols} has one element only: there is nothing to permute")
    child = bare(atoms)
    for _ in range(n_swaps):
        i = rng.integers(len(child))
        j = rng.choice(np.flatnonzero(child.numbers != child.numbers[i]))
        child.numbers[[i, j]] = child.numbers[[j, i]]
    return child


def with_composition(atoms: Atoms, counts: np.ndarray, numbers: np.ndarray, rng: np.random.Generator) -> Atoms:
    """The crystal with another composition, in as few changes as it takes; the volume per atom stays.

    Random atoms of elements in surplus become the missing ones; then surplus atoms go, or atoms are put where there is
    most room.
    counts: (n_species,) atoms wanted of each element of `numbers`
    """
    child = bare(atoms)
    surplus = np.array([(atoms.numbers == number).sum() for number in numbers]) - counts
    extra = [
        rng.choice(np.flatnonzero(atoms.numbers == number), size=max(n, 0), replace=False)
        for number, n in zip(numbers, surplus, strict=True)
    ]
    leaving = rng.permutation(np.concatenate(extra))
    missing = rng.permutation(np.repeat(numbers, np.maximum(-surplus, 0)))
    n_exchanged = min(len(leaving), len(missing))
    child.numbers[leaving[:n_exchanged]] = missing[:n_exchanged]
    del child[leaving[n_exchanged:].tolist()]
    for number in missing[n_exchanged:]:
        child += Atoms([number], positions=[roomiest_point(child, rng)])
    return with_volume(child, atoms.cell.volume / len(atoms))


def roomiest_point(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    """(3,) A: the one of N_POINTS random points that is furthest from the surface of the nearest atom."""
    points = rng.random((N_POINTS, 3)) @ atoms.cell.array
    distances = get_distances(points, atoms.positions, atoms.cell, True)[1]
    return points[np.argmax((distances - covalent_radii[atoms.numbers]).min(axis=1))]


def is_same_arrangement(a: Atoms, b: Atoms) -> bool:
    """Whether two crystals of one composition have the same distances between elements, to within SAME, up to REACH."""
    # The last shell may lie on either side of the limit, so the shorter list decides.
    pairs = zip(_distances(a), _distances(b), strict=True)
    return all(np.allclose(x[: len(y)], y[: len(x)], rtol=0, atol=SAME) for x, y in pairs)


def _distances(atoms: Atoms) -> list[np.ndarray]:
    """Sorted distances (A) of each ordered pair of elements."""
    i, j, distances = neighbour_list("ijd", atoms, REACH)
    kinds = np.unique(atoms.numbers)
    centers, others = atoms.numbers[i], atoms.numbers[j]
    return [np.sort(distances[(centers == a) & (others == b)]) for a in kinds for b in kinds]
