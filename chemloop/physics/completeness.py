"""Is the chemical space exhausted? Entropies that can be compared, their growth, and the stop rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from chemloop.physics.entropy import BANDWIDTH, DIRECT_PAIRS, entropy, log_kernel_sums, used_columns
from chemloop.physics.kernel_sums import KernelSums


class FixedSizeEntropy(NamedTuple):
    """mean: nats; standard_error: of that mean, nats; 0 where every resample was the whole set."""

    mean: float
    standard_error: float


@dataclass(frozen=True)
class Verdict:
    """complete: the answer, also the truth value of the whole; reason: why or why not, in words."""

    complete: bool
    reason: str

    def __bool__(self) -> bool:
        return self.complete


def entropy_at(x: np.ndarray, n: int, repeats: int, bandwidth: float = BANDWIDTH, seed: int = 0) -> FixedSizeEntropy:
    """Entropy of n environments drawn from x without replacement, averaged over repeated draws.

    The entropy of n environments cannot exceed log n, so sets of different sizes are compared at the same n only.
    The standard error is that of the repeated draws from this x; it does not tell how x itself was sampled.

    x: (n_x, n_features)
    Raises: ValueError when x has fewer than n environments, n is below 1 or repeats below 2
    """
    if not 1 <= n <= len(x) or repeats < 2:
        raise ValueError(
            f"{repeats} samples of {n} out of {len(x)} environments:"
            " the sample size must be from 1 to the number of environments, the repeats above 1"
        )
    if n == len(x):
        return FixedSizeEntropy(entropy(x, bandwidth), 0.0)
    rng = np.random.default_rng(seed)
    draws = [entropy(x[rng.choice(len(x), size=n, replace=False)], bandwidth) for _ in range(repeats)]
    return FixedSizeEntropy(float(np.mean(draws)), float(np.std(draws, ddof=1) / np.sqrt(repeats)))


def entropy_curve(environments: Sequence[np.ndarray], sizes: Sequence[int], bandwidth: float = BANDWIDTH) -> np.ndarray:
    """Entropy of the first frames of a selection, for growing numbers of frames.

    Each pair of environments is met once at most, however many sizes are asked for.

    environments: per frame (n_atoms, n_features), in the order of selection
    sizes: increasing numbers of frames from 0 (entropy 0) to all
    Returns: (n_sizes,) nats
    """
    (x,) = used_columns(np.vstack(environments))
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


def entropy_growth(
    environments: Sequence[np.ndarray], window_fraction: float = 0.1, bandwidth: float = BANDWIDTH
) -> float:
    """dH/dN at the end of a selection, in nats per frame: what the last frames added to the entropy, per frame.

    With N frames in the order of selection and w = max(1, round(window_fraction N)), it is (H_N - H_(N-w)) / w, where
    H_M is equation (1) for all environments of the first M frames and H_0 = 0. It is negative where the last frames
    repeat what was there. While everything is new, H is log n and this is about 1/N.

    environments: per frame (n_atoms, n_features), at least one frame, in the order of selection
    Source: figure 3a of the paper
    """
    n = len(environments)
    window = max(1, round(window_fraction * n))
    before, after = entropy_curve(environments, [n - window, n], bandwidth)
    return float((after - before) / window)


def is_complete(
    entropies: Sequence[float], gradients: Sequence[float], tolerance: float, patience: int, gradient_limit: float
) -> Verdict:
    """The stop rule: the space is complete when its entropy has stopped growing and more frames add next to nothing.

    entropies: nats, at one fixed sample size, one per iteration from the first to the last
    gradients: dH/dN in nats per frame, one per iteration
    tolerance: nats; growth of the entropy over the last `patience` iterations must be below it
    gradient_limit: nats per frame; the last dH/dN must be below it
    Raises: ValueError when the two series differ in length or patience is below 1
    """
    if patience < 1 or len(entropies) != len(gradients):
        raise ValueError(
            f"patience = {patience} with {len(entropies)} entropies and {len(gradients)} gradients:"
            " patience must be above 0, and each iteration has one of each"
        )
    if len(entropies) <= patience:
        reason = f"{len(entropies)} iterations so far, the stop rule needs {patience + 1}"
        return Verdict(False, f"not complete: {reason}")
    growth = entropies[-1] - entropies[-1 - patience]
    is_flat, is_exhausted = bool(growth < tolerance), bool(gradients[-1] < gradient_limit)
    reason = (
        f"the entropy at fixed sample size grew by {growth:.3g} nats over {patience} iterations"
        f" ({'below' if is_flat else 'not below'} the tolerance of {tolerance:g}) and dH/dN is {gradients[-1]:.3g} nats"
        f" per frame ({'below' if is_exhausted else 'not below'} the limit of {gradient_limit:g})"
    )
    complete = is_flat and is_exhausted
    return Verdict(complete, f"{'complete' if complete else 'not complete'}: {reason}")
