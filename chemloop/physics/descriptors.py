"""Local atomic environments as vectors that a Gaussian kernel can compare.

The published descriptor lists, for one atom, w(r)/r of its neighbours (nearest first) and, averaged over its
neighbours j, sqrt(w_j w_l)/r_jl of the other neighbours l (largest first), with w(r) = (1 - (r/cutoff)^2)^2. It does
not know elements. Here the same numbers are listed apart for every element of the neighbour and for every unordered
pair of elements of two neighbours, and marks keep environments of different central elements apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from matscipy.neighbours import neighbour_list

from chemloop.physics.structures import check_structure
from chemloop.runtime.errors import StructureError

# One column per central element, 1/A. Environments of two central elements are at least sqrt(2)/A apart, 94 times the
# default bandwidth of the entropy: their kernel is below exp(-4444), whatever their neighbours are.
CENTRAL_MARK = 1.0
# Largest number of neighbour-neighbour terms held at once (about 16 MB an array).
BLOCK_TERMS = 2_000_000


def environments(
    structures: Sequence[Atoms], elements: Sequence[str], n_neighbors: int = 32, cutoff: float = 5.0
) -> list[np.ndarray]:
    """Environments of all atoms that know the elements of the atom and of its neighbours.

    Does not change under translation, rotation, renumbering of atoms or repetition of the cell.

    elements: fixes the columns; sets can be compared only when they were made with the same elements in the same order
    n_neighbors: distances kept per element, and one less per pair of elements; weaker ones are dropped
    cutoff: A
    Returns: per structure (n_atoms, n_features) float32, 1/A; columns are n_elements marks, then n_elements blocks of
        n_neighbors distance terms, then a block of n_neighbors - 1 terms for each pair 00, 01, 02, 11, ... of elements
    Raises: StructureError when a structure is no crystal of finite numbers, holds another element or has two atoms in
        the same place
    Source: doi 10.1038/s41467-025-59232-0 (QUESTS), without elements; one element here gives its numbers as long as
        no atom has more than n_neighbors neighbours
    """
    columns = np.full(max(atomic_numbers.values()) + 1, -1)
    columns[[atomic_numbers[symbol] for symbol in elements]] = np.arange(len(elements))
    described = []
    for number, atoms in enumerate(structures):
        check_structure(atoms, _name(atoms, number))
        species = columns[atoms.numbers]
        if (species < 0).any():
            foreign = sorted({symbol for symbol, s in zip(atoms.symbols, species, strict=True) if s < 0})
            raise StructureError(
                f"{_name(atoms, number)} holds {', '.join(foreign)}; only {', '.join(elements)} can be described"
            )
        neighbors = _neighbors_by_species(atoms, species, len(elements), cutoff, None, _name(atoms, number))
        marks = CENTRAL_MARK * np.eye(len(elements))[species]
        described.append(np.hstack([marks, _features(neighbors, n_neighbors)]).astype(np.float32))
    return described


def blind_environments(structures: Sequence[Atoms], n_neighbors: int = 32, cutoff: float = 5.0) -> list[np.ndarray]:
    """The published environments, which do not know elements and see the n_neighbors nearest neighbours only.

    Where neighbours at the same distance compete for the last place, the choice and so the result is arbitrary.

    Returns: per structure (n_atoms, 2 n_neighbors - 1) float32, 1/A
    Raises: StructureError when a structure is no crystal of finite numbers or has two atoms in the same place
    Source: doi 10.1038/s41467-025-59232-0 (QUESTS), `get_descriptors`
    """
    described = []
    for number, atoms in enumerate(structures):
        check_structure(atoms, _name(atoms, number))
        alike = np.zeros(len(atoms), dtype=int)
        neighbors = _neighbors_by_species(atoms, alike, 1, cutoff, n_neighbors, _name(atoms, number))
        described.append(_features(neighbors, n_neighbors).astype(np.float32))
    return described


def _name(atoms: Atoms, number: int) -> str:
    return str(atoms.info.get("id", f"structure {number}"))


def _neighbors_by_species(
    atoms: Atoms, species: np.ndarray, n_species: int, cutoff: float, limit: int | None, name: str
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per species: vectors (n_atoms, m, 3) A to the neighbours, nearest first, their distances and their weights
    (n_atoms, m). Atoms with fewer than m neighbours of the species are filled up with neighbours of weight zero."""
    centers, others, distances, vectors = neighbour_list("ijdD", atoms, cutoff)
    if len(distances) and distances.min() < 1e-6:
        raise StructureError(f"{name} has two atoms in the same place; its environments have no meaning")
    order = np.lexsort((distances, species[others], centers))
    centers, others, distances, vectors = centers[order], others[order], distances[order], vectors[order]
    groups = centers * n_species + species[others]
    counts = np.bincount(groups, minlength=len(atoms) * n_species)
    ranks = np.arange(len(groups)) - (np.cumsum(counts) - counts)[groups]
    neighbors = []
    for s in range(n_species):
        kept = (species[others] == s) & (ranks < (limit or len(ranks)))
        where = centers[kept], ranks[kept]
        shape = len(atoms), int(ranks[kept].max(initial=-1)) + 1
        padded = np.zeros((*shape, 3)), np.ones(shape), np.zeros(shape)
        padded[0][where] = vectors[kept]
        padded[1][where] = distances[kept]
        padded[2][where] = (1.0 - (distances[kept] / cutoff) ** 2) ** 2
        neighbors.append(padded)
    return neighbors


def _features(neighbors: list[tuple[np.ndarray, np.ndarray, np.ndarray]], k: int) -> np.ndarray:
    """(n_atoms, n_features) without the marks."""
    blocks = [_columns(weights / distances, k) for _, distances, weights in neighbors]
    for a, b in combinations_with_replacement(range(len(neighbors)), 2):
        blocks.append(_columns(_pair_terms(neighbors[a], neighbors[b], a == b, k - 1), k - 1) / k)
    return np.hstack(blocks)


def _columns(terms: np.ndarray, width: int) -> np.ndarray:
    """Cut or fill up with zeros to a fixed number of columns."""
    return np.pad(terms[:, :width], ((0, 0), (0, max(0, width - terms.shape[1]))))


def _pair_terms(a: tuple, b: tuple, is_same_species: bool, width: int) -> np.ndarray:
    """sqrt(w_j w_l)/r_jl of the neighbours l of each neighbour j, largest first, summed over j: (n_atoms, <= width).

    For two species both count once as j and once as l, so their order does not matter.
    """
    n_atoms, m_a, m_b = len(a[2]), a[2].shape[1], b[2].shape[1]
    if m_a == 0 or m_b == 0:
        return np.zeros((n_atoms, 0))
    chunk = max(1, BLOCK_TERMS // (m_a * m_b))
    summed = []
    for start in range(0, n_atoms, chunk):
        (u, _, w_u), (v, _, w_v) = ([array[start : start + chunk] for array in side] for side in (a, b))
        squares = (u**2).sum(-1)[:, :, None] + (v**2).sum(-1)[:, None, :] - 2.0 * u @ v.swapaxes(1, 2)
        weights = w_u[:, :, None] * w_v[:, None, :]
        if is_same_species:
            weights[:, np.arange(m_a), np.arange(m_a)] = 0.0
        # A neighbour is never in the place of another one, so only fillers and the excluded diagonal are skipped.
        terms = -np.sqrt(np.divide(weights, squares, out=np.zeros_like(weights), where=weights > 0.0))
        total = -np.sort(terms, axis=2)[:, :, :width].sum(axis=1)
        if not is_same_species:
            total = _add(total, -np.sort(terms, axis=1)[:, :width].sum(axis=2))
        summed.append(total)
    return np.vstack(summed)


def _add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    width = max(a.shape[1], b.shape[1])
    return _columns(a, width) + _columns(b, width)
