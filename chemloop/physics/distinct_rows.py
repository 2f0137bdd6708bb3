"""Environments that are alike in every bit, and ones that are no numbers."""

from __future__ import annotations

import numpy as np

# Rows compared, or converted to keys, at once.
ROWS_AT_ONCE = 8192


def distinct_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First occurrences of rows that are alike in every bit, which of them each row is, and how often they occur."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    _, first, places, counts = np.unique(_keys(bits), return_index=True, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(first[places] != np.arange(len(x)))
    for begin in range(0, len(repeated), ROWS_AT_ONCE):
        rows = repeated[begin : begin + ROWS_AT_ONCE]
        if (bits[rows] != bits[first[places[rows]]]).any():
            # Two different rows with one key: slower, without keys.
            _, first, places, counts = np.unique(
                bits, axis=0, return_index=True, return_inverse=True, return_counts=True
            )
            break
    return first, places, counts


def _keys(bits: np.ndarray) -> np.ndarray:
    """One number per row, almost surely different for different rows."""
    weights = np.random.default_rng(0).integers(0, 2**64, size=bits.shape[1], dtype=np.uint64) | np.uint64(1)
    parts = [bits[begin : begin + ROWS_AT_ONCE] @ weights for begin in range(0, len(bits), ROWS_AT_ONCE)]
    return np.concatenate(parts)


def check_environments(x: np.ndarray) -> None:
    """Raises: ValueError, naming the first environment with a number that is not finite"""
    if not np.isfinite(x.sum(dtype=np.float64)):
        bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
        if len(bad):
            raise ValueError(
                f"{len(bad)} of {len(x)} environments hold numbers that are not finite, the first is number {bad[0]};"
                " drop the structures they come from"
            )
