"""Which points of a large figure are drawn: an even sample and the extremes; counts and errors come from all."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

N_POINTS = 3000
"""Points of one figure."""


def thinned(n: int, keep: Iterable[int] = (), n_points: int = N_POINTS) -> np.ndarray:
    """Indices of the points to draw, in ascending order: all n, or at most n_points of them, evenly spread.

    keep: indices of points that are drawn in any case as long as there is room for them, the most important first
    """
    if n <= n_points:
        return np.arange(n)
    kept = np.array(list(dict.fromkeys(map(int, keep)))[:n_points], dtype=int)
    others = np.setdiff1d(np.arange(n), kept)
    spread = np.linspace(0, len(others) - 1, n_points - len(kept)).astype(int)
    return np.union1d(kept, others[spread])


def extremes(values: np.ndarray, n: int = 20) -> list[int]:
    """Indices of the n lowest and n highest finite values."""
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    return [*order[:n].tolist(), *order[-n:].tolist()]


def drawn_of(n_drawn: int, n: int, noun: str) -> str:
    """What a caption says of a sample: nothing where all are drawn."""
    return "" if n_drawn >= n else f" {n_drawn:,} of {n:,} {noun} are drawn, the extremes among them."
