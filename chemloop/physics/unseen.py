"""How much has not been seen yet: the estimators of ecology for the species that a sample missed.

`counts` says how often each species was seen, (n_species,) whole numbers; zeros are of no effect. Two kinds of sample:

- `n_samples=None`: individuals were drawn one by one, e.g. environments; the sample size is the sum of the counts.
- `n_samples=T`: each count is the number of samples, of T, in which the species appeared at least once, e.g. structures
  that hold a motif. Species within one structure are not independent of each other, so it is structures that count.

Species that share structures make the estimates no less right on average, but less certain: one odd structure brings
many at once. `bunching` says by how much variances grow, and all error bars take it.

All estimators look at what was seen once or twice: where nothing was seen just once, little is missing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

Z_95 = 1.959964


class Estimate(NamedTuple):
    """value; standard_error; low, high: its 95 % confidence interval."""

    value: float
    standard_error: float
    low: float
    high: float


def coverage(counts: np.ndarray, n_samples: int | None = None) -> float:
    """The share of all that is out there, weighted by how common it is, that belongs to species already seen.

    One minus it is the chance that the next individual is of a new species; with `n_samples`, that the next occurrence
    in a further sample is. It is 1 only where nothing was seen just once.

    Raises: ValueError for counts without a single sighting
    Source: Good, Biometrika 40, 237 (1953); improved form doi:10.1890/11-1952.1, equation (4a)
    """
    x, n = _checked(counts, n_samples)
    f1, f2 = _numbers_seen(x)
    if f1 == 0 or n == 1:
        # One sample tells nothing of what recurs: without a repetition all of it may be unique.
        return 1.0 if f1 == 0 else 0.0
    if f1 == 1 and f2 == 0:
        # The form below would make the estimate 1: a rare species in hand would be proof that there is no other. This
        # is Turing's, of which the others are refinements.
        return float(1 - 1 / x.sum())
    # Without species seen twice the form for f2 = 0 of the same authors, which keeps the estimate below 1.
    a, b = ((n - 1) * f1, 2 * f2) if f2 else ((n - 1) * (f1 - 1), 2)
    return float(1 - f1 / x.sum() * a / (a + b))


def bunching(hosts: Iterable[Hashable]) -> float:
    """How many times larger the variances of the estimates are because species that were seen once come in bunches.

    It is the design effect of cluster samples, sum g^2 / sum g with g species seen once in a sample: the variance of
    their number is sum g^2 instead of sum g. 1 where no sample holds two of them.

    hosts: for each species seen in one sample only, which sample that was
    """
    numbers = np.array(list(Counter(hosts).values()))
    return float(np.sum(numbers**2) / np.sum(numbers)) if len(numbers) else 1.0


def chao1(counts: np.ndarray, n_samples: int | None = None, bunching: float = 1.0) -> Estimate:
    """A lower bound for the number of species, seen and unseen: Chao1, bias-corrected (Chao2 with `n_samples`).

    The 95 % interval is log-normal and never ends below what was seen. It is one for the bound: with many rare species
    the truth lies above it.

    Raises: ValueError for counts without a single sighting
    Source: doi:10.2307/2531532 and the EstimateS user's guide, appendix B, equations (2), (6) to (8), (13) and (14)
    """
    x, n = _checked(counts, n_samples)
    f1, f2 = _numbers_seen(x)
    seen, a = len(x), (n - 1) / n
    value = seen + a * f1 * (f1 - 1) / (2 * (f2 + 1))
    if value == seen:
        p = math.exp(-float(x.sum()) / seen)
        variance, middle = seen * p * (1 - p), seen / (1 - p)
        spread = Z_95 * math.sqrt(seen * p) / (1 - p)
        return Estimate(value, math.sqrt(variance), max(seen, middle - spread), middle + spread)
    if f2:
        ratio = 1 / (f2 + 1)
        variance = a * f1 * (f1 - 1) * ratio / 2 + a**2 * f1 * (2 * f1 - 1) ** 2 * ratio**2 / 4
        variance += a**2 * f1**2 * f2 * (f1 - 1) ** 2 * ratio**4 / 4
    else:
        variance = a * f1 * (f1 - 1) / 2 + a**2 * f1 * (2 * f1 - 1) ** 2 / 4 - a**2 * f1**4 / (4 * value)
    unseen = value - seen
    variance *= bunching
    stretch = math.exp(Z_95 * math.sqrt(math.log1p(variance / unseen**2)))
    return Estimate(value, math.sqrt(variance), seen + unseen / stretch, seen + unseen * stretch)


def expected_new(counts: np.ndarray, m: int, n_samples: int | None = None) -> float:
    """The number of new species to expect in m further individuals (or samples).

    Up to m = n, the sample size, it is Good and Toulmin's unbiased series; beyond, the series explodes and is smoothed
    by a binomial cut-off, which serves to about m = n log n. With `n_samples` the series is right for rare species
    only: at m = n one that is in every sample would count as 1 new one, or as -1. There the same cut-off spares what
    was seen once or twice.

    Raises: ValueError for m below 0 or above max(n, n log n), or counts without a single sighting
    Source: Good and Toulmin, Biometrika 43, 45 (1956); doi:10.1073/pnas.1607774113, table 1
    """
    x, n = _checked(counts, n_samples)
    limit = most_further(n)
    if not 0 <= m <= limit:
        raise ValueError(f"new species in m = {m} further samples after {n}: from 0 to {limit} can be estimated")
    t = m / n
    orders, numbers = np.unique(x, return_counts=True)
    if t > 1 or n_samples is not None:
        from scipy.special import bdtrc  # here, because every driver reads this module and this import takes 0.2 s

        n_terms = math.ceil(0.5 * math.log(n * t**2 / (t - 1), 3)) if t > 1 else n
        kept = bdtrc(np.minimum(orders - 1, n_terms), n_terms, 2 / (2 + t))
        if t <= 1:
            kept[orders <= 2] = 1.0
    else:
        kept = np.ones(len(orders))
    with np.errstate(over="ignore"):
        powers = np.where(kept > 0, t ** np.minimum(orders, 1000), 0.0)
    series = -np.sum(np.where(orders % 2 == 0, 1, -1) * powers * kept * numbers)
    return float(min(max(series, 0.0), m) if n_samples is None else max(series, 0.0))


def most_further(n: int) -> int:
    """How many further individuals, or samples, `expected_new` serves for after n."""
    return int(max(n, n * math.log(n)))


def coverage_with_error(
    counts: np.ndarray, n_samples: int | None = None, repeats: int = 200, seed: int = 0, bunching: float = 1.0
) -> Estimate:
    """`coverage` with the error that it has on samples like this one, by bootstrap.

    However few species were seen once, the interval reaches down to 0.05^(1/n) at least: what is missing there escapes
    n draws with a chance of 5 %. So no fewer than 59 samples can show a coverage of 95 %.
    repeats: bootstrap samples, at least 2

    Raises: ValueError
    """
    x, n = _checked(counts, n_samples)
    value = coverage(x, n_samples)
    errors = [
        coverage(drawn, n_samples) - shares[drawn > 0].sum() / shares.sum()
        for drawn, shares, _ in _resamples(x, n, n_samples, 0, repeats, seed)
    ]
    estimate = _estimate(value, errors, bunching, high=1.0)
    return estimate._replace(low=min(estimate.low, 0.05 ** (1 / n)))


def expected_new_with_error(
    counts: np.ndarray,
    m: int,
    n_samples: int | None = None,
    repeats: int = 200,
    seed: int = 0,
    bunching: float = 1.0,
) -> Estimate:
    """`expected_new` with the error that it has as a prediction: the interval is for the number that will be found.

    repeats: bootstrap samples, at least 2

    Raises: ValueError
    """
    x, n = _checked(counts, n_samples)
    value = expected_new(x, m, n_samples)
    errors = [
        expected_new(drawn, m, n_samples) - np.sum((drawn == 0) & (further > 0))
        for drawn, _, further in _resamples(x, n, n_samples, m, repeats, seed)
    ]
    return _estimate(value, errors, bunching, high=float(m) if n_samples is None else math.inf)


def _estimate(value: float, errors: list[float], bunching: float, high: float) -> Estimate:
    error = float(np.sqrt(bunching * np.mean(np.square(errors))))
    return Estimate(value, error, max(0.0, value - Z_95 * error), min(high, value + Z_95 * error))


def _resamples(
    x: np.ndarray, n: int, n_samples: int | None, m: int, repeats: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Counts of a sample as large as the given one, the shares it was drawn from, and counts of m further samples.

    Resampling the counts as they are would forget the unseen species, so the population is an estimated one: seen
    species with their frequencies corrected by the coverage, and as many unseen ones as Chao1 says, equally rare.
    Source: doi:10.1890/13-0133.1, appendix G
    """
    if repeats < 2:
        raise ValueError(f"{repeats} bootstrap samples give no spread: at least 2 are needed")
    rng = np.random.default_rng(seed)
    shares = _estimated_shares(x, n, n_samples)
    done = 0
    while done < repeats:
        if n_samples is None:
            drawn, further = (rng.multinomial(size, shares / shares.sum()) for size in (n, m))
        else:
            drawn, further = (rng.binomial(size, np.minimum(shares, 1.0)) for size in (n, m))
        # Samples of rare species only may come out empty; nothing was not what was seen.
        if drawn.any():
            done += 1
            yield drawn, shares, further


def _estimated_shares(x: np.ndarray, n: int, n_samples: int | None) -> np.ndarray:
    """Of each species, seen or estimated to be unseen: its share of all individuals, or its chance per sample."""
    f1, _ = _numbers_seen(x)
    missing = (1 - coverage(x, n_samples)) * x.sum() / n
    shares = x / n
    lost = (1 - shares) ** n
    total_lost = float(np.sum(shares * lost))
    if f1 == 0 or total_lost == 0:
        return shares
    n_unseen = max(math.ceil(chao1(x, n_samples).value - len(x)), 1)
    # Where a single species was seen once its whole share may go to an unseen one, and by rounding a little more.
    corrected = np.maximum(shares * (1 - missing / total_lost * lost), 0.0)
    return np.concatenate([corrected, np.full(n_unseen, missing / n_unseen)])


def _checked(counts: np.ndarray, n_samples: int | None) -> tuple[np.ndarray, int]:
    """The counts above zero and the sample size."""
    x = np.asarray(counts)
    if x.ndim != 1 or (x.size and not (np.isfinite(x).all() and (x >= 0).all() and (x == np.rint(x)).all())):
        raise ValueError(f"counts of shape {x.shape}: one whole number from 0 per species is needed")
    x = x[x > 0].astype(int)
    if not len(x):
        raise ValueError("no species was seen at all: at least one count above 0 is needed")
    n = int(x.sum()) if n_samples is None else n_samples
    if n_samples is not None and n < x.max():
        raise ValueError(f"a species was seen in {x.max()} of n_samples = {n} samples: give the number of samples")
    return x, n


def _numbers_seen(x: np.ndarray) -> tuple[int, int]:
    """How many species were seen just once, and just twice."""
    return int(np.sum(x == 1)), int(np.sum(x == 2))
