"""Information entropy of sets of environments, information gains, and selections that maximise them.

K_h(a, b) = exp(-|a - b|^2 / 2 h^2) with the bandwidth h in the unit of the environments, 1/A: environments closer
than h count as one, environments several h apart as different. All results are in nats.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chemloop.physics.distinct_rows import check_environments
from chemloop.physics.kernel_sums import LEAST, Environments, KernelSums
from chemloop.physics.taken_sums import TakenSums

BANDWIDTH = 0.015
BATCH_SIZE = 512
# Up to so many pairs, all are summed: that takes less than the preparations for summing the near ones.
DIRECT_PAIRS = 10_000_000
# Of a log kernel, from rounding: above it, distances come from differences instead of products.
ROUNDING_LIMIT = 1e-6
# Structures whose gains are brought up to date together.
MOST_UPDATED = 256
POOLINGS = ("mean", "max", "sum")


def log_kernel_sums(
    y: np.ndarray, x: np.ndarray, bandwidth: float, batch_size: int = BATCH_SIZE, device: str = "cpu"
) -> np.ndarray:
    """log sum_j K_h(y_i, x_j) for every row of y, finite however far y_i is from every x_j.

    Everything else in this module is built on this one function. Above DIRECT_PAIRS pairs it leaves out those too far
    apart to matter (see `kernel_sums` for the bound of the error); each row of x counts itself where y is x.

    y: (n_y, n_features); x: (n_x, n_features); device: of torch, for sums above DIRECT_PAIRS
    Returns: (n_y,) float64; -inf where x is empty
    Raises: ValueError for numbers that are not finite
    """
    check_environments(y)
    if y is not x:
        check_environments(x)
    if len(y) * len(x) <= DIRECT_PAIRS:
        return _direct_sums(y, x, bandwidth, batch_size)
    if y is not x:
        return Environments(x, bandwidth, device).log_sums(y)
    sums = KernelSums(bandwidth, device)
    sums.add(x)
    return sums.log_sums


def _direct_sums(y: np.ndarray, x: np.ndarray, bandwidth: float, batch_size: int) -> np.ndarray:
    """All pairs in double precision, through log-sum-exp; memory O(batch_size^2) besides the inputs."""
    scale = 1.0 / (np.sqrt(2.0) * bandwidth)
    longest = max(float(np.abs(part).max(initial=0.0)) for part in (y, x))
    squared_length = y.shape[1] * (scale * longest) ** 2
    minus_squares = _minus_squares if squared_length * np.finfo(float).eps < ROUNDING_LIMIT else _minus_exact_squares
    sums = np.full(len(y), -np.inf)
    for start in range(0, len(y), batch_size):
        rows = slice(start, start + batch_size)
        a = np.asarray(y[rows], dtype=np.float64) * scale
        for begin in range(0, len(x), batch_size):
            b = np.asarray(x[begin : begin + batch_size], dtype=np.float64) * scale
            sums[rows] = np.logaddexp(sums[rows], _log_sum_exp(minus_squares(a, b)))
    return sums


def _minus_squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    exponents = a @ b.T
    exponents *= 2.0
    exponents -= np.einsum("ij,ij->i", a, a)[:, None]
    exponents -= np.einsum("ij,ij->i", b, b)
    return np.minimum(exponents, 0.0, out=exponents)


def _minus_exact_squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Several times slower; for bandwidths so small that products would tell equal environments apart."""
    from scipy.spatial.distance import cdist

    return -cdist(a, b, "sqeuclidean")


def _log_sum_exp(exponents: np.ndarray) -> np.ndarray:
    largest = exponents.max(axis=1)
    exponents -= largest[:, None]
    np.maximum(exponents, LEAST, out=exponents)
    return largest + np.log(np.exp(exponents, out=exponents).sum(axis=1))


def used_columns(*sets: np.ndarray) -> list[np.ndarray]:
    """The sets without the columns that are zero in all of them: the same distances for less work."""
    used = np.any([x.any(axis=0) for x in sets], axis=0)
    used[:1] |= not used.any()
    return list(sets) if used.all() else [x[:, used] for x in sets]


def entropy(
    x: np.ndarray,
    bandwidth: float = BANDWIDTH,
    batch_size: int = BATCH_SIZE,
    device: str = "cpu",
    tolerance: float = 0.0,
) -> float:
    """Information entropy of a set of environments; between 0 (all alike) and log n (all different).

    For a set that grows, `kernel_sums.KernelSums` gives it without starting anew.

    x: (n, n_features), n > 0
    tolerance: nats; bound on by how much the result may be too large, besides rounding; `kernel_sums` says how it is
        kept. 0 for the sums of `log_kernel_sums`; 1e-3 is 1e-4 of an entropy of 10 and takes less time
    Raises: ValueError for no environments or numbers that are not finite
    Source: equation (1) of the paper; doi 10.1038/s41467-025-59232-0
    """
    if not len(x):
        raise ValueError("no environments: their entropy has no meaning")
    if len(x) ** 2 <= DIRECT_PAIRS:
        (x,) = used_columns(x)
    elif tolerance:
        check_environments(x)
        environments = Environments(x, bandwidth, device)
        log_sums = environments.sums(tolerance).log()
        return float(np.log(len(x)) - log_sums @ environments.weights / len(x))
    return float(np.log(len(x)) - log_kernel_sums(x, x, bandwidth, batch_size, device).mean())


def entropy_gains(
    y: np.ndarray,
    x: np.ndarray,
    bandwidth: float = BANDWIDTH,
    batch_size: int = BATCH_SIZE,
    device: str = "cpu",
) -> np.ndarray:
    """Differential entropy of each environment of y with respect to the set x; large means unlike anything in x.

    y: (n_y, n_features); x: (n_x, n_features), n_x > 0
    Returns: (n_y,) from -log n_x upwards
    Source: equation (2) of the paper; doi 10.1038/s41467-025-59232-0
    """
    y, x = used_columns(y, x)
    return -log_kernel_sums(y, x, bandwidth, batch_size, device)


def pool_gains(gains: np.ndarray, sizes: np.ndarray, pooling: str) -> np.ndarray:
    """One gain per structure from those of its environments.

    The mean treats cells of all sizes alike, the largest asks for one unknown environment, the sum favours big cells.

    gains: (n_environments,), structure after structure; sizes: (n_structures,) environments of each, all above 0
    pooling: one of POOLINGS
    Raises: ValueError
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling {pooling!r} is not one of {', '.join(POOLINGS)}")
    starts = np.cumsum(sizes) - sizes
    if pooling == "max":
        return np.maximum.reduceat(gains, starts)
    sums = np.add.reduceat(gains, starts)
    return sums / sizes if pooling == "mean" else sums


def top_selection(
    environments: Sequence[np.ndarray],
    reference: np.ndarray,
    n: int,
    bandwidth: float = BANDWIDTH,
    pooling: str = "mean",
) -> tuple[np.ndarray, np.ndarray]:
    """The n structures with the largest gains with respect to the reference, whatever they have in common.

    environments: per structure (n_atoms, n_features); reference: (n_x, n_features); where it is empty the structures
        themselves take its place, each environment then counts itself too
    Returns: indices and gains, largest first; equal ones in the order given
    """
    if not len(environments):
        return np.zeros(0, dtype=int), np.zeros(0)
    pool = np.vstack(environments)
    gains = entropy_gains(pool, reference if len(reference) else pool, bandwidth)
    scores = pool_gains(gains, np.array([len(x) for x in environments]), pooling)
    indices = np.argsort(-scores, kind="stable")[:n]
    return indices, scores[indices]


def greedy_selection(
    environments: Sequence[np.ndarray],
    reference: np.ndarray,
    n: int,
    bandwidth: float = BANDWIDTH,
    pooling: str = "mean",
) -> tuple[np.ndarray, np.ndarray]:
    """n structures, each the one with the largest gain with respect to the reference and those taken before it.

    Gains only shrink as more is taken, so an old one is an upper bound: only structures whose old gain is above the
    best new one are brought up to date, by what was taken since.

    environments: per structure (n_atoms, n_features); reference: (n_x, n_features); where it is empty, every gain would
        be infinite and the structure whose own environments have the largest entropy comes first, with that as its gain
    Returns: indices in the order taken and the gain each had when it was taken; of equal ones the first
    Source: equation (2) applied step by step; the start as in QUESTS' `msc`, doi 10.48550/arXiv.2511.10561
    """
    n = min(n, len(environments))
    if n == 0:
        return np.zeros(0, dtype=int), np.zeros(0)
    sizes = np.array([len(x) for x in environments])
    starts = np.cumsum(sizes) - sizes
    pool = np.vstack(environments)
    pool, known = used_columns(pool, reference if len(reference) else pool[:0])
    sums = TakenSums(pool, log_kernel_sums(pool, known, bandwidth), bandwidth)
    if len(known):
        bounds = pool_gains(-sums.log_sums, sizes, pooling)
    else:
        bounds = np.array([entropy(x, bandwidth) for x in environments])
    indices, gains = np.zeros(n, dtype=int), np.zeros(n)
    updated = np.zeros(len(sizes), dtype=int)
    for pick in range(n):
        n_updated = 1
        while updated[best := int(bounds.argmax())] < pick:
            stale = np.flatnonzero((updated < pick) & (bounds > -np.inf))
            if len(stale) > n_updated:
                stale = stale[np.argpartition(-bounds[stale], n_updated)[:n_updated]]
            rows = np.concatenate([np.arange(starts[i], starts[i] + sizes[i]) for i in stale])
            bounds[stale] = pool_gains(-sums.update(rows), sizes[stale], pooling)
            updated[stale] = pick
            n_updated = min(2 * n_updated, MOST_UPDATED)
        indices[pick], gains[pick] = best, bounds[best]
        sums.take(np.arange(starts[best], starts[best] + sizes[best]))
        if pick == 0 and not len(known):
            bounds[:] = np.inf
        bounds[best] = -np.inf
    return indices, gains
