"""Kernel sums over many environments: pairs too far apart to matter are ruled out by blocks, then by projections.

The kernel exp(-d^2 / 2 h^2) of a pair falls below NEGLIGIBLE at d = 6.4 h, 0.097/A for the default bandwidth. The
distance of two environments is at least that of their projections on a few principal components, so

1. environments are sorted into blocks of neighbours, and two blocks whose boxes of projections are too far apart are
   never looked at again;
2. of what is left, single precision products of projections find the columns that are near any row of a block, with a
   margin for rounding;
3. the kernels between the block and those columns are summed.

What is left out of a row's sum: terms below NEGLIGIBLE times a lower bound of that sum, which is 1 where the
environment is in the set itself and otherwise its nearest term. So a log sum is too small by less than n NEGLIGIBLE (by
1e-4 for 100,000 environments), and because that bound is divided by the sum itself, far less where the set is dense.

Where only the mean log sum matters and to a tolerance, the reach is shorter, and another one for each block b: what it
leaves out there is bounded by sum_c w_c K_bc, with the weight w_c of each column or block c left out and the kernel
K_bc at the lower bound of its distance from b, and kept below half the tolerance. A pair is left out of two sums, which
are at least 1 and so err by less than this in their logs, summed over c for the rows of b and over b for c. With the
weights W_b of the blocks the mean error is below (1/n) sum_b 2 W_b tolerance/2 = tolerance, with no assumption.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chemloop.physics.distinct_rows import check_environments, distinct_rows
from chemloop.physics.environment_blocks import FAR, N_FITTED, Blocks, Projection, blocks_of, unit_rounding

if TYPE_CHECKING:
    from torch import Tensor

NEGLIGIBLE = 1e-9
# Log kernels below it are raised to it: exponentials that underflow take ten times as long.
LEAST = -80.0
# Of a log kernel, from rounding: above it, kernels are computed in double precision.
ROUNDING_LIMIT = 1e-5
# Environments of a block; an accelerator wants larger matrices.
CPU_BLOCK, DEVICE_BLOCK = 256, 2048
# Of the features: where a block uses more, leaving out the others is not worth a copy.
MOST_USED = 0.6
# Kernels that may be the shortest reach, where there is a tolerance.
CUTS = tuple(10.0 ** (-0.5 * power) for power in range(2, 25))
# Environments that a block meets at once: what they need then stays in the processor's cache.
COLUMNS_AT_ONCE = 4096


def log_kernels(a: Tensor, b: Tensor, exponent: float, is_exact: bool = False) -> Tensor:
    """exponent |a_i - b_j|^2, from products of what is left when the mean of a is subtracted from both: (n_a, n_b)

    In single precision where a is narrow enough for that, unless is_exact. Neighbours of an environment are alike in
    most features that are zero in it; those in which all of a are equal add to the lengths only, not to the products.
    """
    from torch.linalg import vector_norm

    center = a.mean(0)
    a, b = a - center, b - center
    lengths = a.square().sum(1)
    if is_exact or float(lengths.max()) * -exponent * unit_rounding() > ROUNDING_LIMIT:
        a, b = a.double(), b.double()
        lengths = a.square().sum(1)
    else:
        a, b, lengths = a.float(), b.float(), lengths.float()
    logs = lengths[:, None] + vector_norm(b, dim=1).square_()
    used = a.any(0).nonzero()[:, 0]
    if len(used) < MOST_USED * a.shape[1]:
        a, b = a[:, used], b.index_select(1, used)
    return logs.addmm_(a, b.T, beta=exponent, alpha=-2.0 * exponent).clamp_(max=0.0)


class Environments:
    """A set of environments, each once, sorted and prepared for sums over neighbours.

    x: (n, n_features) finite, n above 0
    weights: (n_distinct,) how often each occurs; places: (n,) which of them each row is
    """

    def __init__(self, x: np.ndarray, bandwidth: float, device: str = "cpu"):
        import torch

        first, places, counts = distinct_rows(x)
        self.exponent = -0.5 / bandwidth**2
        self.reach = float(np.log(NEGLIGIBLE)) / self.exponent
        self.size = CPU_BLOCK if torch.device(device).type == "cpu" else DEVICE_BLOCK
        self.project = Projection(torch.as_tensor(x[first[:: -(-len(first) // N_FITTED)]], device=device))
        projections = self.project(lambda rows: torch.as_tensor(x[first[rows]], device=device), len(first))
        blocks = blocks_of(projections, self.size)
        order = blocks.rows.flatten()[: len(first)].cpu().numpy()
        self.blocks = blocks._replace(rows=torch.arange(blocks.rows.numel(), device=device).view(-1, self.size))
        self.points = torch.as_tensor(x[first[order]], device=device)
        self.weights = torch.as_tensor(counts[order], dtype=torch.float64, device=device)
        n_missing = self.blocks.rows.numel() - len(order)
        self.block_weights = torch.nn.functional.pad(self.weights, (0, n_missing)).view(-1, self.size).sum(1)
        self.places = np.argsort(order)[places]

    def sums(self, tolerance: float = 0.0) -> Tensor:
        """sum_j K(x_i, x_j) of each environment, itself included: (n_distinct,)

        tolerance: by how much the mean log sum may be too small; 0 for NEGLIGIBLE
        """
        import torch

        sums = torch.zeros_like(self.weights)
        for block in range(len(self.blocks.rows)):
            rows = self.blocks.members(block)
            own = self._kernels(self.points[rows], rows).fill_diagonal_(1.0)
            sums[rows] += own.double() @ self.weights[rows]
            # Two blocks meet once, and their terms go to both.
            self._add_terms(sums, sums, self, rows, self._near(self.blocks, block, block + 1, tolerance))
        return sums

    def sums_across(self, others: Environments) -> tuple[Tensor, Tensor]:
        """Sums over the environments here for each of the others, and over the others for each of those here."""
        import torch

        sums, back = torch.zeros_like(others.weights), torch.zeros_like(self.weights)
        # What is added is usually fewer environments than are here, so further apart: smaller blocks.
        blocks = blocks_of(self.project(lambda rows: others.points[rows], len(others.points)), self.size // 4)
        for block in range(len(blocks.rows)):
            self._add_terms(sums, back, others, blocks.members(block), self._near(blocks, block, 0))
        return sums, back

    def _add_terms(self, sums: Tensor, back: Tensor, others: Environments, rows: Tensor, near: Tensor) -> None:
        points = others.points[rows]
        for columns in near.split(COLUMNS_AT_ONCE):
            kernels = self._kernels(points, columns)
            sums[rows] += kernels @ self.weights[columns].to(kernels)
            back[columns] += others.weights[rows].to(kernels) @ kernels

    def _kernels(self, points: Tensor, columns: Tensor) -> Tensor:
        return log_kernels(points, self.points[columns], self.exponent).clamp_(min=LEAST).exp_()

    def _near(self, blocks: Blocks, block: int, first: int, tolerance: float = 0.0) -> Tensor:
        """Rows here, in blocks from the first on, that can be in reach of an environment of that block."""
        import torch

        margin = blocks.margin(self.blocks)
        gaps = self.blocks.gaps(blocks.low[block], blocks.high[block], first) - margin
        parts = self._kept(gaps, self.block_weights[first:], tolerance) + first
        rows, squares = [self.blocks.rows[0, :0]], [gaps[:0]]
        for part in parts.split(self.blocks.at_once()):
            rows.append(self.blocks.rows[part].flatten())
            squares.append((blocks.left[block] @ self.blocks.right[part].flatten(0, 1).T).amin(0) - margin)
        found = torch.cat(rows)
        # Those that fill up the last block are far from all, so their weight does not matter.
        weights = self.weights[found.clamp(max=len(self.weights) - 1)]
        return found[self._kept(torch.cat(squares), weights, tolerance)]

    def _kept(self, squares: Tensor, weights: Tensor, tolerance: float) -> Tensor:
        """Which of the lower bounds of squared distances are within reach: the shortest reach that leaves out at most a
        quarter of the tolerance, or that of NEGLIGIBLE if the tolerance is 0."""
        if not tolerance:
            return (squares <= self.reach).nonzero()[:, 0]
        kernels = (squares * self.exponent).clamp_(min=LEAST, max=0.0).exp_()
        terms = kernels * weights
        for negligible in CUTS:
            is_far = kernels < negligible
            if float(terms[is_far].sum()) <= 0.25 * tolerance:
                break
        else:
            is_far = squares > 0.5 * FAR
        return is_far.logical_not_().nonzero()[:, 0]

    def log_sums(self, y: np.ndarray) -> np.ndarray:
        """log sum_j K(y_i, x_j) in double precision, finite however far y_i is from every x_j: (n_y,)"""
        import torch

        device = self.points.device
        blocks = blocks_of(self.project(lambda rows: torch.tensor(y[rows], device=device), len(y)), self.size // 4)
        logs = np.empty(len(y))
        for block in range(len(blocks.rows)):
            rows = blocks.members(block).cpu().numpy()
            logs[rows] = self._log_sums(torch.as_tensor(y[rows], device=device).double(), blocks, block).cpu().numpy()
        return logs

    def _log_sums(self, points: Tensor, blocks: Blocks, block: int) -> Tensor:
        """Blocks in the order of their distance, until they are too far beyond the nearest environment found."""
        import torch

        gaps, order = self.blocks.gaps(blocks.low[block], blocks.high[block]).sort()
        left, margin = blocks.left[block][: len(points)], blocks.margin(self.blocks)
        nearest = torch.full_like(points[:, 0], torch.inf)
        logs = -nearest
        at_once = self.blocks.at_once()
        for begin, end in [(0, 4), *((begin, begin + at_once) for begin in range(4, len(order), at_once))]:
            part = order[begin:end][gaps[begin:end] <= float(nearest.max()) + self.reach + margin]
            if not len(part):
                break
            columns = self.blocks.rows[part].flatten()
            squares = left @ self.blocks.right[part].flatten(0, 1).T
            closest = self.points[columns[squares.argmin(1)]].double()
            nearest = torch.minimum(nearest, (closest - points).square().sum(1))
            columns = columns[squares.sub_((nearest + self.reach).float()[:, None]).amin(0) <= margin]
            for some in columns.split(COLUMNS_AT_ONCE):
                terms = log_kernels(points, self.points[some], self.exponent, is_exact=True)
                logs = torch.logaddexp(logs, (terms + self.weights[some].log()).logsumexp(1))
        return logs


class KernelSums:
    """Kernel sums of a set that grows: adding environments costs what they are, not what is there already.

    Each addition is sorted into blocks of its own and meets the earlier ones through theirs, in both directions.
    """

    def __init__(self, bandwidth: float, device: str = "cpu"):
        self.bandwidth, self.device = bandwidth, device
        self._parts: list[Environments] = []
        self._sums: list[Tensor] = []

    def add(self, x: np.ndarray) -> None:
        """x: (n, n_features), the same features at each addition

        Raises: ValueError for numbers that are not finite
        """
        check_environments(x)
        if not len(x):
            return
        added = Environments(x, self.bandwidth, self.device)
        sums = added.sums()
        for part, known in zip(self._parts, self._sums, strict=True):
            across, back = part.sums_across(added)
            sums += across
            known += back
        self._parts.append(added)
        self._sums.append(sums)

    def __len__(self) -> int:
        return sum(len(part.places) for part in self._parts)

    @property
    def log_sums(self) -> np.ndarray:
        """log sum_j K(x_i, x_j) of each environment in the order of adding: (n,)"""
        parts = zip(self._parts, self._sums, strict=True)
        return np.concatenate([np.zeros(0), *(sums.log().cpu().numpy()[part.places] for part, sums in parts)])

    @property
    def entropy(self) -> float:
        """Equation (1) of the paper in nats; ValueError where nothing was added."""
        if not len(self):
            raise ValueError("no environments were added: their entropy has no meaning")
        return float(np.log(len(self)) - self.log_sums.mean())
