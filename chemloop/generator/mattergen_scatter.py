"""The five functions that MatterGen imports from torch_scatter and torch_sparse, in plain torch.

Those two packages are compiled for one version of torch each; where they are absent, `stand_ins()` are imported
instead, with the same results, gradients and speed on a CPU.

Source: the definitions in the documentation of torch_scatter 2.1 and torch_sparse 0.6
"""

from __future__ import annotations

import types
from typing import Any

import torch


def scatter(
    src: torch.Tensor,
    index: torch.Tensor,
    dim: int = -1,
    out: None = None,
    dim_size: int | torch.Tensor | None = None,
    reduce: str = "sum",
) -> torch.Tensor:
    """out[.., index[i], ..] = sum or mean over i of src[.., i, ..], along `dim`.

    index: (src.shape[dim],) or the shape of src; dim_size: length of the result along `dim`, default index.max() + 1
    Raises: ValueError for another reduction
    """
    if reduce not in ("sum", "add", "mean"):
        raise ValueError(f"reduce = {reduce}: must be sum, add or mean")
    dim %= src.dim()
    if dim_size is None:
        dim_size = int(index.max()) + 1 if index.numel() else 0
    if index.dim() == 1:
        index = index.view([-1 if axis == dim else 1 for axis in range(src.dim())])
    index = index.expand_as(src)
    shape = [int(dim_size) if axis == dim else n for axis, n in enumerate(src.shape)]
    total = src.new_zeros(shape).scatter_add(dim, index, src)
    if reduce != "mean":
        return total
    count = src.new_zeros(shape).scatter_add(dim, index, torch.ones_like(src)).clamp(min=1)
    return total / count if total.is_floating_point() else total.div(count, rounding_mode="floor")


def scatter_add(
    src: torch.Tensor,
    index: torch.Tensor,
    dim: int = -1,
    out: None = None,
    dim_size: int | torch.Tensor | None = None,
) -> torch.Tensor:
    """`scatter` with reduce="sum"."""
    return scatter(src, index, dim, dim_size=dim_size)


def segment_coo(
    src: torch.Tensor,
    index: torch.Tensor,
    out: None = None,
    dim_size: int | torch.Tensor | None = None,
    reduce: str = "sum",
) -> torch.Tensor:
    """`scatter` along the first axis; index (n,) is sorted."""
    return scatter(src, index, 0, dim_size=dim_size, reduce=reduce)


def segment_csr(src: torch.Tensor, indptr: torch.Tensor, out: None = None, reduce: str = "sum") -> torch.Tensor:
    """(len(indptr) - 1, ...) sums of src[indptr[i]:indptr[i + 1]].

    Raises: ValueError for another reduction
    """
    if reduce not in ("sum", "add"):
        raise ValueError(f"reduce = {reduce}: must be sum or add")
    ends = torch.cat([torch.zeros_like(src[:1]), src.cumsum(0)])
    return ends[indptr[1:]] - ends[indptr[:-1]]


class SparseTensor:
    """A sparse matrix of which rows are selected; entries at the same place stay apart.

    row, col, value: (n_entries,); sparse_sizes: (n_rows, n_cols)
    """

    def __init__(
        self, row: torch.Tensor, col: torch.Tensor, value: torch.Tensor, sparse_sizes: tuple[Any, Any]
    ) -> None:
        self.sparse_sizes = tuple(int(size) for size in sparse_sizes)
        order = torch.argsort(row * self.sparse_sizes[1] + col, stable=True)
        self._row, self._col, self._value = row[order], col[order], value[order]

    @property
    def storage(self) -> SparseTensor:
        return self

    def row(self) -> torch.Tensor:
        return self._row

    def col(self) -> torch.Tensor:
        return self._col

    def value(self) -> torch.Tensor:
        return self._value

    def to(self, device: torch.device) -> SparseTensor:
        moved = object.__new__(SparseTensor)
        moved.sparse_sizes = self.sparse_sizes
        moved._row, moved._col, moved._value = (x.to(device) for x in (self._row, self._col, self._value))
        return moved

    def __getitem__(self, rows: torch.Tensor) -> SparseTensor:
        """The matrix of those rows, in that order, with repetitions."""
        counts = torch.bincount(self._row, minlength=self.sparse_sizes[0])
        starts = counts.cumsum(0) - counts
        n = counts[rows]
        new_row = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), n)
        within = torch.arange(len(new_row), device=rows.device) - torch.repeat_interleave(n.cumsum(0) - n, n)
        chosen = torch.repeat_interleave(starts[rows], n) + within
        selected = object.__new__(SparseTensor)
        selected.sparse_sizes = (len(rows), self.sparse_sizes[1])
        selected._row, selected._col, selected._value = new_row, self._col[chosen], self._value[chosen]
        return selected


def stand_ins() -> dict[str, types.ModuleType]:
    """Modules by the name under which MatterGen imports them."""
    modules: dict[str, Any] = {name: types.ModuleType(name) for name in ("torch_scatter", "torch_sparse")}
    for function in (scatter, scatter_add, segment_coo, segment_csr):
        setattr(modules["torch_scatter"], function.__name__, function)
    modules["torch_sparse"].SparseTensor = SparseTensor
    return modules
