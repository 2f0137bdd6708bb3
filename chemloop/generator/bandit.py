"""How to share work among several generators by what each has achieved: Thompson sampling of Poisson rates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

N_DRAWS = 20_000  # shares to 0.004 (one standard deviation at most)


class Evidence(NamedTuple):
    """What a generator has found, and the CPU time that this took; recent iterations count more."""

    n_sun: float
    cpu_seconds: float


def evidence_of(achieved: Iterable[Mapping[str, Any]], names: Sequence[str], memory: float) -> dict[str, Evidence]:
    """The sum over iterations of what each generator achieved, a row times `memory` for every iteration since.

    Rates fall while the easy finds are made, for one generator faster than for another; forgetting follows them.
    achieved: rows of `iteration`, `generator`, `n_sun` and `cpu_seconds`
    Source: doi:10.48550/arXiv.1707.09727 (discounted Thompson sampling)
    """
    rows = [row for row in achieved if row["generator"] in names]
    last = max((row["iteration"] for row in rows), default=0)
    sums = {name: np.zeros(2) for name in names}
    for row in rows:
        factor = memory ** (last - row["iteration"])
        sums[row["generator"]] += factor * np.array([row["n_sun"], row["cpu_seconds"]], dtype=float)
    return {name: Evidence(*total.tolist()) for name, total in sums.items()}


def with_lost_places(achieved: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the time of what came to nothing: a proposal that is not valid takes the place of one that is, and
    costs what a valid one of that iteration took on average.

    Otherwise a generator that has nothing new to propose would find nothing in no time, and look as if it were untried.
    achieved: rows of `iteration`, `n_proposed`, `n_valid` and `cpu_seconds`
    """
    rows = [dict(row) for row in achieved]
    for iteration in {row["iteration"] for row in rows}:
        together = [row for row in rows if row["iteration"] == iteration]
        n_valid = sum(row["n_valid"] for row in together)
        price = sum(row["cpu_seconds"] for row in together) / max(n_valid, 1)
        for row in together:
            row["cpu_seconds"] += price * (row["n_proposed"] - row["n_valid"])
    return rows


def shares_of(evidence: Mapping[str, Evidence], seed: int) -> dict[str, float] | None:
    """The probability of each generator that it finds most per CPU second; None where nobody has found anything.

    Finds are Poisson events with an unknown rate per generator. Its prior is a Gamma distribution with the mean rate of
    all of them and the weight of one find, so a generator that has not been tried may yet turn out to be the best.
    Source: doi:10.1093/biomet/25.3-4.285; doi:10.1002/asmb.874 (randomized probability matching)
    """
    n_sun, cpu_seconds = np.array(list(evidence.values())).reshape(-1, 2).T
    if n_sun.sum() <= 0 or cpu_seconds.sum() <= 0:
        return None
    mean = n_sun.sum() / cpu_seconds.sum()
    rng = np.random.default_rng(seed)
    rates = rng.gamma(1 + n_sun, 1 / (1 / mean + cpu_seconds), size=(N_DRAWS, len(n_sun)))
    best = np.bincount(rates.argmax(axis=1), minlength=len(n_sun)) / N_DRAWS
    return dict(zip(evidence, best.tolist(), strict=True))


def with_floor(weights: Mapping[str, float], floor: float) -> dict[str, float]:
    """Weights as shares that add up to 1, none of them below `floor`, which is at most 1 / their number."""
    total = sum(weights.values())
    rest = 1 - floor * len(weights)
    return {name: floor + rest * weight / total for name, weight in weights.items()}


def apportion(n: int, shares: Mapping[str, float], seed: int) -> dict[str, int]:
    """n things by shares: each gets its share rounded up or down, by chance, so that the means are the shares.

    Rounding to the nearest would give a small share nothing, in every item of a stage alike. This is systematic
    sampling: ticks at distance 1 from a random start, along a line of n parts as long as the shares.
    """
    start = np.random.default_rng(seed).uniform()
    ends = np.cumsum(list(shares.values()))
    ticks = np.floor(ends / ends[-1] * n + start).astype(int)
    ticks[-1] = n
    return dict(zip(shares, np.diff(ticks, prepend=0).tolist(), strict=True))
