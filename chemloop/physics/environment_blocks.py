"""Environments sorted into blocks of neighbours, with lower bounds of the distances between blocks and environments.

Projecting two environments on the same axes cannot take them further apart. So boxes around the projections of a block
tell which blocks are out of reach, and distances of projections which environments are, at a fraction of the cost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

N_COMPONENTS = 32
# Components that decide into which block an environment goes, and which pairs of blocks are looked at more closely.
N_LEADING = 8
# Environments whose principal components serve for all.
N_FITTED = 10_000
# Rows converted at once, and entries of the matrices of squares held at once.
ROWS_AT_ONCE, SQUARES_AT_ONCE = 8192, 2**21
# Relative rounding error of a product, by what torch.get_float32_matmul_precision allows.
ROUNDING = {"highest": 2.0**-23, "high": 2.0**-10, "medium": 2.0**-7}
FAR = 1e30


class Blocks(NamedTuple):
    """Projections of environments, in blocks of neighbours; the last is filled up with rows that are far from all.

    rows: (n_blocks, size) which environments; n: how many there are
    left, right: (n_blocks, size, n_components + 3) float32, whose products are squared distances of projections
    low, high: (n_blocks, N_LEADING) corners of the boxes; largest: squared length of the longest projection
    """

    n: int
    rows: Tensor
    left: Tensor
    right: Tensor
    low: Tensor
    high: Tensor
    largest: float

    def members(self, block: int) -> Tensor:
        """The rows of a block without those that fill it up."""
        return self.rows[block, : self.n - block * self.rows.shape[1]]

    def margin(self, other: Blocks) -> float:
        return margin_of(self.left.shape[2], self.largest + other.largest)

    def gaps(self, low: Tensor, high: Tensor, first: int = 0) -> Tensor:
        """Lower bounds of the squared distances from a box to those of the blocks from the first on."""
        gaps = (self.low[first:] - high).maximum(low - self.high[first:])
        return gaps.clamp_(min=0.0).square_().sum(1)

    def at_once(self) -> int:
        return max(1, SQUARES_AT_ONCE // self.rows.shape[1] ** 2)


def unit_rounding() -> float:
    """Relative rounding error of products in single precision, as torch is set."""
    import torch

    return ROUNDING[torch.get_float32_matmul_precision()]


def margin_of(n_factors: int, squared_lengths: float) -> float:
    """By how much rounding can make the product of two factors larger than the squared distance."""
    return 2.0 * (n_factors + 8) * unit_rounding() * squared_lengths


def factors(projections: Tensor) -> tuple[Tensor, Tensor]:
    """left and right (..., n + 2) with left_i . right_j = |p_i - p_j|^2 for projections (..., n)."""
    import torch

    lengths, ones = projections.square().sum(-1, keepdim=True), torch.ones_like(projections[..., :1])
    return torch.cat([-2.0 * projections, lengths, ones], -1), torch.cat([projections, ones, lengths], -1)


class Projection:
    """Coordinates whose distances are lower bounds: principal components, and the length of what they leave out."""

    def __init__(self, sample: Tensor):
        import torch

        sample = sample.double()
        self.mean = sample.mean(0)
        sample = sample - self.mean
        self.axes = torch.linalg.eigh(sample.T @ sample).eigenvectors.flip(1)[:, :N_COMPONENTS]

    def __call__(self, rows_of: Callable[[slice], Tensor], n: int) -> Tensor:
        """(n, n_components + 1) float32 of n rows, which rows_of gives a slice at a time"""
        import torch

        parts = []
        for begin in range(0, n, ROWS_AT_ONCE):
            centered = rows_of(slice(begin, begin + ROWS_AT_ONCE)).double() - self.mean
            inside = centered @ self.axes
            outside = (centered.square().sum(1) - inside.square().sum(1)).clamp_(min=0.0).sqrt()[:, None]
            parts.append(torch.cat([inside, outside], 1).float())
        return torch.cat(parts)


def blocks_of(projections: Tensor, size: int) -> Blocks:
    """Blocks by repeated halving along the leading component with the largest variance."""
    import torch

    leading = projections[:, :N_LEADING].cpu().numpy()
    order = np.arange(len(leading))
    parts = [(0, len(order))]
    while parts:
        begin, end = parts.pop()
        half = -(-(end - begin) // size) // 2 * size
        if half:
            some = order[begin:end]
            part = leading[some]
            order[begin:end] = some[np.argpartition(part[:, part.var(axis=0).argmax()], half)]
            parts += [(begin, begin + half), (begin + half, end)]
    n_missing = -len(order) % size
    rows = torch.as_tensor(np.pad(order, (0, n_missing), "edge"), device=projections.device).view(-1, size)
    filled = projections[rows]
    largest = float(projections.square().sum(1).max())
    left, right = factors(filled)
    if n_missing:
        left[-1, -n_missing:, -2] = right[-1, -n_missing:, -1] = FAR
    box = filled[..., :N_LEADING]
    return Blocks(len(order), rows, left, right, box.amin(1), box.amax(1), largest)
