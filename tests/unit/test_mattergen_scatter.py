"""The stand-ins for torch_scatter and torch_sparse against loops over their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chemloop.generator.mattergen_scatter import SparseTensor, scatter, scatter_add, segment_coo, segment_csr

INDEX = torch.tensor([2, 0, 2, 3, 0])
VALUES = torch.tensor(np.random.default_rng(0).normal(size=(5, 3)))


@pytest.mark.parametrize("reduce", ["sum", "add", "mean"])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_scatter(reduce, dim):
    source = VALUES if dim == 0 else VALUES.T
    expected = np.zeros((6, 3))
    for target in range(6):
        rows = VALUES[target == INDEX].numpy()
        if len(rows):
            expected[target] = rows.mean(0) if reduce == "mean" else rows.sum(0)
    found = scatter(source, INDEX, dim=dim, dim_size=torch.tensor(6), reduce=reduce)
    assert np.allclose(found.numpy(), expected if dim == 0 else expected.T)


def test_scatter_of_whole_numbers_and_gradients():
    ones = torch.ones_like(INDEX)
    assert scatter(ones, INDEX).tolist() == [2, 0, 2, 1]
    assert segment_coo(ones, INDEX.sort()[0], dim_size=5).tolist() == [2, 0, 2, 1, 0]
    assert scatter_add(ones[:0], INDEX[:0]).tolist() == []
    source = VALUES.clone().requires_grad_()
    factors = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)[:, None]
    (scatter_add(source, INDEX, dim=0) * factors).sum().backward()
    assert torch.equal(source.grad, factors[INDEX].expand(5, 3))
    with pytest.raises(ValueError, match="reduce = max"):
        scatter(ones, INDEX, reduce="max")


def test_segments():
    ends = torch.tensor([0, 2, 2, 5])
    found = segment_csr(VALUES, ends)
    expected = torch.stack([VALUES[a:b].sum(0) for a, b in ((0, 2), (2, 2), (2, 5))])
    assert torch.allclose(found, expected)


def test_rows_of_a_sparse_matrix():
    row, col = torch.tensor([1, 0, 1, 3, 1]), torch.tensor([2, 0, 0, 1, 2])
    matrix = SparseTensor(row=row, col=col, value=torch.arange(5), sparse_sizes=(4, 4))
    rows = torch.tensor([1, 3, 2, 1])
    expected = []
    for number, wanted in enumerate(rows.tolist()):
        entries = sorted((int(col[k]), k) for k in range(5) if row[k] == wanted)
        expected += [(number, column, value) for column, value in entries]
    chosen = matrix[rows].to(torch.device("cpu")).storage
    assert list(zip(chosen.row().tolist(), chosen.col().tolist(), chosen.value().tolist(), strict=True)) == expected
