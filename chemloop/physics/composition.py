"""Which compositions a cell can have, and how likely each is to be tried."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, product

import numpy as np

MAX_COMPOSITIONS = 2_000_000  # some 100 MB of tables
SUCCESS_SCALE = 0.05  # eV/atom above the hull, over which the success of a proposal falls off
SAME_WIDTH = (
    0.02  # fraction of atoms to exchange, over which what is known of one composition says something of another
)


def n_compositions(n_elements: int, max_atoms: int) -> int:
    """How many compositions cells of 1 to `max_atoms` atoms can have."""
    return math.comb(max_atoms + n_elements, n_elements) - 1


def cell_compositions(n_elements: int, min_atoms: int, max_atoms: int) -> np.ndarray:
    """(n, n_elements) atoms of each element, for every cell of `min_atoms` to `max_atoms` atoms; zeros included."""
    # Stars and bars, with one more box for the atoms that a cell is short of max_atoms.
    bars = np.array(list(combinations(range(max_atoms + n_elements), n_elements)))
    counts = np.diff(bars, axis=1, prepend=-1) - 1
    n_atoms = counts.sum(axis=1)
    return counts[(n_atoms >= max(min_atoms, 1)) & (n_atoms <= max_atoms)]


def is_charge_balanced(
    counts: np.ndarray, states: Sequence[Sequence[int]], electronegativities: Sequence[float]
) -> np.ndarray:
    """(n,) whether one oxidation state for each element makes a composition neutral; a pure element is.

    Combinations in which an anion is less electronegative than a cation do not count.
    counts: (n, n_elements); states: the common oxidation states of each element
    Source: Pauling test as in doi:10.1016/j.chempr.2016.09.010
    """
    balanced = (counts > 0).sum(axis=1) == 1
    chi = np.asarray(electronegativities)
    for charges in product(*[[*options, 0] for options in states]):
        charge = np.array(charges)
        if (charge > 0).any() and (charge < 0).any() and chi[charge > 0].max() < chi[charge < 0].min():
            # 0 stands for an element that is not there
            balanced |= (counts @ charge == 0) & ((counts > 0) == (charge != 0)).all(axis=1)
    return balanced


def distance_to_known(counts: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(n,) fraction of the atoms that must change their element to reach the nearest known composition.

    counts: (n, n_elements); known: (m, n_elements)
    """
    from scipy.spatial import KDTree

    return KDTree(fractions(known)).query(fractions(counts), p=1)[0] / 2


def missing_from_hull(counts: np.ndarray, phases: np.ndarray, tried: np.ndarray, energies: np.ndarray) -> np.ndarray:
    """(n,) from 0 to 1: the fraction of the compositions that promise fewer new phases near the hull than this one.

    Promising is a composition near which proposals came close to the hull, and near which few phases are known. Where
    nothing was tried, proposals are taken to do as well as they do on average.
    counts: (n, n_elements); phases: (m, n_elements) on or near the hull; tried: (k, n_elements) earlier proposals,
    energies: (k,) eV/atom above the hull that they reached, infinite where their relaxation came to nothing
    """
    from scipy.spatial.distance import cdist
    from scipy.stats import rankdata

    of_phases, of_tried = (
        np.exp(-cdist(fractions(counts), fractions(of), "cityblock") / 2 / SAME_WIDTH) for of in (phases, tried)
    )
    success = np.exp(-np.maximum(energies, 0) / SUCCESS_SCALE)
    average = success.mean() if len(success) else 1.0
    promise = (of_tried @ success + average) / (of_tried.sum(axis=1) + 1)
    missing = promise / (1 + of_phases.sum(axis=1))
    return (rankdata(missing) - 1) / max(1, len(missing) - 1)


def fractions(counts: np.ndarray) -> np.ndarray:
    """(n, n_elements) atomic fractions."""
    return counts / counts.sum(axis=1, keepdims=True)


def composition_probabilities(counts: np.ndarray, shares: Sequence[float], preference: np.ndarray) -> np.ndarray:
    """(n,) probabilities with which to draw each composition.

    The share of k-element compositions goes in equal parts to the subsystems of k elements; within a subsystem all cell
    sizes, and within a size all compositions, are equally likely but for their preference.
    counts: (n, n_elements); shares: for 1, 2, ... elements, the last one for all that follow; preference: (n,) factors

    Raises: ValueError where the shares leave no composition
    """
    is_present = counts > 0
    subsystem = is_present @ (1 << np.arange(counts.shape[1]))
    n_different = is_present.sum(axis=1)
    size = np.unique(np.stack([subsystem, counts.sum(axis=1)]), axis=1, return_inverse=True)[1].ravel()
    weights = preference / np.bincount(size)[size]
    totals = np.bincount(subsystem, weights)
    subsystems = np.flatnonzero(totals)
    n_equal = np.bincount([int(s).bit_count() for s in subsystems], minlength=counts.shape[1] + 1)
    share = np.array([shares[min(k, len(shares)) - 1] for k in n_different])
    probabilities = share * weights / (totals[subsystem] * n_equal[n_different])
    if not probabilities.sum() > 0:
        raise ValueError("no composition has a share above 0")
    return probabilities / probabilities.sum()
