"""Kernel sums of a pool over the rows taken from it, brought up to date only for the rows that are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chemloop.physics.environment_blocks import FAR, N_FITTED, SQUARES_AT_ONCE, Projection, factors, margin_of
from chemloop.physics.kernel_sums import NEGLIGIBLE

if TYPE_CHECKING:
    from torch import Tensor

# Of so few pairs, all are summed.
SCREENED_PAIRS = 10_000
PAIRS_AT_ONCE = 16_384


class TakenSums:
    """log sums over a reference and the rows taken so far, of each row of a pool.

    Terms below NEGLIGIBLE times the sum that a row has already are left out.

    pool: (n, n_features); log_sums: (n,) over the reference, -inf where there is none
    """

    def __init__(self, pool: np.ndarray, log_sums: np.ndarray, bandwidth: float, device: str = "cpu"):
        import torch

        self.log_sums = log_sums.copy()
        self.exponent = -0.5 / bandwidth**2
        self.points = torch.as_tensor(pool, device=device)
        project = Projection(self.points[:: -(-len(pool) // N_FITTED)])
        projections = project(lambda rows: self.points[rows], len(pool))
        self.left, self.right = factors(projections)
        self.margin = margin_of(self.left.shape[1], 2.0 * float(projections.square().sum(1).max()))
        self.taken = np.zeros(0, dtype=int)
        self.n_met = np.zeros(len(pool), dtype=int)

    def take(self, rows: np.ndarray) -> None:
        self.taken = np.concatenate([self.taken, rows])

    def update(self, rows: np.ndarray) -> np.ndarray:
        """log sums of these rows over all that was taken; each row meets what was taken since it was last updated."""
        met = self.n_met[rows]
        at_once = max(1, SQUARES_AT_ONCE // len(rows))
        for begin in range(int(met.min()), len(self.taken), at_once):
            self._add(rows, met, np.arange(begin, min(begin + at_once, len(self.taken))))
        self.n_met[rows] = len(self.taken)
        return self.log_sums[rows]

    def _add(self, rows: np.ndarray, met: np.ndarray, places: np.ndarray) -> None:
        import torch

        device = self.points.device
        at, columns = torch.as_tensor(rows, device=device), torch.as_tensor(self.taken[places], device=device)
        squares = self.left[at] @ self.right[columns].T
        if met.max() > places[0]:
            squares[torch.as_tensor(places < met[:, None], device=device)] = torch.inf
        closest = columns[squares.argmin(1)]
        # The largest term so far, of which the others are fractions.
        known = torch.as_tensor(self.log_sums[rows], device=device)
        largest = torch.maximum(known, self._log_kernels(at, closest))
        limits = ((largest + float(np.log(NEGLIGIBLE))) / self.exponent + self.margin).float()
        if squares.numel() <= SCREENED_PAIRS:
            limits.fill_(FAR)
        row, column = (squares <= limits[:, None]).nonzero(as_tuple=True)
        sums = (known - largest).exp_()
        for i, j in zip(row.split(PAIRS_AT_ONCE), column.split(PAIRS_AT_ONCE), strict=True):
            sums.index_add_(0, i, (self._log_kernels(at[i], columns[j]) - largest[i]).exp_())
        self.log_sums[rows] = (largest + sums.log_()).cpu().numpy()

    def _log_kernels(self, i: Tensor, j: Tensor) -> Tensor:
        return (self.points[i].double() - self.points[j]).square_().sum(1) * self.exponent
