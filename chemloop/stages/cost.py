"""What labels will cost, from what the campaign's own ones have cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

EXPONENT = 2.0
"""Of the number of atoms, where all finished calculations are of one size: between the linear and the cubic parts of
plane-wave DFT."""


def estimate(
    timings: Sequence[tuple[str, int, float]], sizes: Sequence[int], n_each: Mapping[str, int]
) -> float | None:
    """Core hours of `n_each[kind]` calculations on each structure; None without a finished calculation.

    For each kind, core seconds = a n_atoms^b, fitted to the logarithms and scaled so that the sum of the finished ones
    is reproduced: a fit of logarithms alone falls short of it. A kind that has none yet counts as all others together.
    timings: kind, number of atoms, core seconds; sizes: atoms per structure
    """
    if not timings:
        return None
    seconds = 0.0
    for kind, n in n_each.items():
        seconds += n * float(_predict([t for t in timings if t[0] == kind] or timings, sizes).sum())
    return seconds / 3600


def _predict(timings: Sequence[tuple[str, int, float]], sizes: Sequence[int]) -> np.ndarray:
    n_atoms = np.array([n for _, n, _ in timings], dtype=float)
    spent = np.maximum([s for _, _, s in timings], 1e-3)
    exponent = EXPONENT
    if len(set(n_atoms)) > 2:
        exponent = float(np.clip(np.polyfit(np.log(n_atoms), np.log(spent), 1)[0], 0.0, 3.0))
    return np.sum(spent) / np.sum(n_atoms**exponent) * np.asarray(sizes, dtype=float) ** exponent


def sentence(
    stage: str, iteration: int, n_structures: int, n_relax: int, n_static: int, n_saved: int, core_hours: float | None
) -> str:
    """The forecast in words.

    n_relax, n_static: calculations per structure; n_saved: relaxations that the cache has
    """
    cost = "no finished calculation to estimate core hours from yet"
    if core_hours is not None:
        cost = f"about {core_hours:.2g} core hours by this campaign's finished calculations"
    return (
        f"{stage} {iteration}: {n_structures} structures, {n_structures * n_relax} relaxations and up to"
        f" {n_structures * n_static} single points; the cache has {n_saved} of the relaxations; {cost}"
    )
