"""Tensor products of e3nn, made faster where they run as plain torch (from torch 2.10 on, without TorchScript).

This module imports torch: backends import it inside their methods.
"""

from __future__ import annotations

import operator

import torch
from e3nn.o3 import TensorProduct
from torch import fx


def split_inputs(network: torch.nn.Module) -> int:
    """Let the tensor products of a network take each input apart once; returns how many slices that replaced.

    e3nn cuts one slice per path, and the derivative of each is a tensor of zeros as large as the whole input. The
    parts of a split are the same numbers, and have one derivative together.
    """
    n_replaced = 0
    for product in network.modules():
        if not isinstance(product, TensorProduct):
            continue
        for module in product.children():
            if isinstance(module, fx.GraphModule):
                n_replaced += _split_slices(module)
    return n_replaced


def _split_slices(module: fx.GraphModule) -> int:
    n_replaced = 0
    for source in list(module.graph.nodes):
        slices = {node: node.args[1][1] for node in source.users if _is_slice(node, source)}
        bounds = sorted({(part.start, part.stop) for part in slices.values()})
        if len(bounds) < 2 or not _covers(bounds, source):
            continue
        with module.graph.inserting_after(source):
            parts = module.graph.call_function(torch.split, (source, [stop - start for start, stop in bounds], 1))
        for node, part in slices.items():
            node.args = (parts, bounds.index((part.start, part.stop)))
        n_replaced += len(slices)
    if n_replaced:
        module.graph.lint()
        module.recompile()
    return n_replaced


def _is_slice(node: fx.Node, source: fx.Node) -> bool:
    """Whether a node is source[:, start:stop]."""
    if node.target is not operator.getitem or node.args[0] is not source or not isinstance(node.args[1], tuple):
        return False
    rows, *columns = node.args[1]
    if rows != slice(None) or len(columns) != 1 or not isinstance(columns[0], slice):
        return False
    return isinstance(columns[0].start, int) and isinstance(columns[0].stop, int) and columns[0].step is None


def _covers(bounds: list[tuple[int, int]], source: fx.Node) -> bool:
    """Whether the slices follow one another through all columns of a source, which a reshape(-1, n) says."""
    follow = all(one[1] == other[0] for one, other in zip(bounds, bounds[1:], strict=False))
    has_width = source.op == "call_method" and source.target == "reshape" and source.args[1:] == (-1, bounds[-1][1])
    return follow and has_width and bounds[0][0] == 0
