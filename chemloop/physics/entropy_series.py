"""Numbers that tell whether a set of structures still grows in kind: each with the error that whole structures make.

Environments of one structure are not independent, so what is left out or drawn anew for the error bars are structures.
For entropies they are left out, not drawn twice: copies would lower the entropy by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from chemloop.physics.entropy import (
    BANDWIDTH,
    DIRECT_PAIRS,
    entropy,
    entropy_gains,
    log_kernel_sums,
    used_columns,
)
from chemloop.physics.kernel_sums import KernelSums

# Groups of structures (or frames) that are left out in turn.
N_GROUPS = 10
# Nats; the threshold of QUESTS' own `overlap`.
ROUNDING = 1e-3


class Measured(NamedTuple):
    """value; standard_error: nan where there is only one structure, or frame, to learn it from."""

    value: float
    standard_error: float


def _stacked(environments: Sequence[np.ndarray]) -> np.ndarray:
    """(n_environments, n_features) of all structures or frames."""
    if not len(environments):
        raise ValueError("no structures or frames, so no environments: at least one is needed")
    return np.vstack(environments)


def entropy_at(
    environments: Sequence[np.ndarray], n: int, repeats: int, bandwidth: float = BANDWIDTH, seed: int = 0
) -> Measured:
    """Entropy of n environments drawn from all structures without replacement, averaged over repeated draws.

    The entropy of n environments cannot exceed log n, so sets of different sizes are compared at the same n only.
    The error has two parts: of the draws, and of the structures (a jackknife over N_GROUPS groups of whole structures,
    at n, or at what is left without the largest group; all groups are compared along the same random orders).

    environments: per structure (n_atoms, n_features)
    Raises: ValueError when there are fewer than n environments, n is below 1 or repeats below 2, or without a structure
    Source: the jackknife of groups, doi:10.1214/aos/1176347263
    """
    (x,) = used_columns(_stacked(environments))
    if not 1 <= n <= len(x) or repeats < 2:
        raise ValueError(
            f"{repeats} samples of {n} out of {len(x)} environments:"
            " the sample size must be from 1 to the number of environments, the repeats above 1"
        )
    rng = np.random.default_rng(seed)
    if n == len(x):
        draws = [entropy(x, bandwidth)]
    else:
        draws = [entropy(x[rng.choice(len(x), size=n, replace=False)], bandwidth) for _ in range(repeats)]
    of_draws = np.var(draws, ddof=1) / repeats if len(draws) > 1 else 0.0
    of_structures = _jackknife_variance(x, [len(part) for part in environments], n, repeats, bandwidth, rng)
    return Measured(float(np.mean(draws)), float(np.sqrt(of_draws + of_structures)))


def _jackknife_variance(
    x: np.ndarray, sizes: Sequence[int], n: int, repeats: int, bandwidth: float, rng: np.random.Generator
) -> float:
    """nan for one structure."""
    n_groups = min(N_GROUPS, len(sizes))
    if n_groups < 2:
        return np.nan
    groups = np.repeat(rng.permutation(len(sizes)) % n_groups, sizes)
    n_left = min(n, len(x) - int(np.bincount(groups).max()))
    orders = [rng.permutation(len(x)) for _ in range(repeats)]
    without = [
        np.mean([entropy(x[order[groups[order] != group][:n_left]], bandwidth) for order in orders])
        for group in range(n_groups)
    ]
    return float((n_groups - 1) * np.var(without))


def entropy_curve(environments: Sequence[np.ndarray], sizes: Sequence[int], bandwidth: float = BANDWIDTH) -> np.ndarray:
    """Entropy of the first frames of a selection, for growing numbers of frames.

    Each pair of environments is met once at most, however many sizes are asked for.

    environments: per frame (n_atoms, n_features), in the order of selection
    sizes: increasing numbers of frames from 0 (entropy 0) to all
    Returns: (n_sizes,) nats
    Raises: ValueError without a frame
    """
    (x,) = used_columns(_stacked(environments))
    ends = np.concatenate([[0], np.cumsum([len(frame) for frame in environments])])
    ends = ends[np.asarray(sizes, dtype=int)]
    if len(x) ** 2 > DIRECT_PAIRS:
        return _large_curve(x, ends, bandwidth)
    sums = np.zeros(0)
    curve = []
    for end in ends:
        added = x[len(sums) : end]
        known = np.logaddexp(sums, log_kernel_sums(x[: len(sums)], added, bandwidth))
        sums = np.concatenate([known, log_kernel_sums(added, x[:end], bandwidth)])
        curve.append(np.log(end) - sums.mean() if end else 0.0)
    return np.array(curve)


def _large_curve(x: np.ndarray, ends: np.ndarray, bandwidth: float) -> np.ndarray:
    sums = KernelSums(bandwidth)
    curve = []
    for end in ends:
        sums.add(x[len(sums) : end])
        curve.append(sums.entropy if end else 0.0)
    return np.array(curve)


class Growth(NamedTuple):
    """measured: dH/dN in nats per frame; log_sums: (n_environments,) log sum_j K(x_i, x_j) over all environments, what
    the next growth of a longer selection can begin with."""

    measured: Measured
    log_sums: np.ndarray


def entropy_growth(
    environments: Sequence[np.ndarray],
    window_fraction: float = 0.1,
    bandwidth: float = BANDWIDTH,
    known: np.ndarray | None = None,
) -> Growth:
    """dH/dN at the end of a selection, in nats per frame: what the last frames added to the entropy, per frame.

    With N frames in the order of selection and w = max(1, round(window_fraction N)), it is (H_N - H_(N-w)) / w, where
    H_M is equation (1) for all environments of the first M frames and H_0 = 0. It is negative where the last frames
    repeat what was there. While everything is new, H is log n and this is about 1/N. The error is a jackknife over
    groups of the last w frames; each pair of environments is met once. With `known`, pairs of the first frames among
    themselves are not met again, unless the last w frames reach back into those.

    environments: per frame (n_atoms, n_features), at least one frame, in the order of selection
    known: log_sums of this function for the first frames alone
    Raises: ValueError without a frame, or with sums that are not those of a whole number of first frames
    Source: figure 3a of the paper
    """
    n = len(environments)
    window = max(1, round(window_fraction * n))
    (x,) = used_columns(_stacked(environments))
    n_groups = min(N_GROUPS, window)
    # Group -1: the frames before the window.
    groups = np.concatenate([np.full(n - window, -1), np.arange(window) % n_groups])
    sizes = [len(frame) for frame in environments]
    of_rows = np.repeat(groups, sizes)
    sums = {group: log_kernel_sums(x, x[of_rows == group], bandwidth) for group in range(n_groups)}
    sums[-1] = _sums_before(x, sizes, int(np.sum(of_rows == -1)), bandwidth, known)

    def entropy_of(parts: Sequence[int]) -> float:
        rows = np.isin(of_rows, parts)
        together = np.logaddexp.reduce([sums[part][rows] for part in parts])
        return float(np.log(rows.sum()) - together.mean()) if rows.any() else 0.0

    everything = [-1, *range(n_groups)]
    start = entropy_of([-1])
    value = (entropy_of(everything) - start) / window
    whole = np.logaddexp.reduce([sums[part] for part in everything])
    if n_groups < 2:
        return Growth(Measured(value, np.nan), whole)
    without = [
        (entropy_of([part for part in everything if part != group]) - start)
        / int(np.sum((groups >= 0) & (groups != group)))
        for group in range(n_groups)
    ]
    return Growth(Measured(value, float(np.sqrt((n_groups - 1) * np.var(without)))), whole)


def _sums_before(
    x: np.ndarray, sizes: Sequence[int], n_before: int, bandwidth: float, known: np.ndarray | None
) -> np.ndarray:
    """log sums of all rows over the first n_before ones; sizes: rows of each frame"""
    n_known = 0 if known is None else len(known)
    if n_known and n_known not in np.cumsum(sizes):
        raise ValueError(f"sums of {n_known} environments are not those of the first of {len(sizes)} frames")
    if known is None or not 0 < n_known <= n_before:
        return log_kernel_sums(x, x[:n_before], bandwidth)
    first, between = x[:n_known], x[n_known:n_before]
    old = np.logaddexp(known, log_kernel_sums(first, between, bandwidth))
    return np.concatenate([old, log_kernel_sums(x[n_known:], x[:n_before], bandwidth)])


def is_within(environments: Sequence[np.ndarray], known: np.ndarray, bandwidth: float = BANDWIDTH) -> list[np.ndarray]:
    """Which new environments lie within a known set: whose gain by equation (2) is zero or less, but for rounding.

    environments: per new structure (n_atoms, n_features), at least one; known: (n_known, n_features), at least one
    Returns: per structure (n_atoms,) bool
    Raises: ValueError without a structure
    Source: the overlap of doi 10.1038/s41467-025-59232-0 (QUESTS)
    """
    sizes = [len(part) for part in environments]
    return np.split(entropy_gains(_stacked(environments), known, bandwidth) < ROUNDING, np.cumsum(sizes)[:-1])


def share(flags: Sequence[np.ndarray], repeats: int = 200, seed: int = 0) -> Measured:
    """The share of all atoms that a flag is true for, with its error by a bootstrap over whole structures.

    flags: per structure (n_atoms,) bool, at least one structure
    """
    sizes = np.array([len(part) for part in flags])
    numbers = np.array([part.sum() for part in flags])
    value = float(numbers.sum() / sizes.sum())
    if len(sizes) < 2:
        return Measured(value, np.nan)
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(len(sizes), size=len(sizes)) for _ in range(repeats)]
    return Measured(value, float(np.std([numbers[some].sum() / sizes[some].sum() for some in drawn], ddof=1)))
