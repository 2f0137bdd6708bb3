"""Tensor products that take their inputs apart once compute what they computed before."""

from __future__ import annotations

import copy

import pytest
import torch
from ase.build import bulk
from e3nn.o3 import TensorProduct

from chemloop.model import tensor_products
from chemloop.model.mace import MACEForceField
from chemloop.model.sevennet import SevenNetForceField
from chemloop.model.tensor_products import split_inputs

ELEMENTS = ["Li", "P", "S"]
FORCE_FIELDS = [
    SevenNetForceField(None, ELEMENTS),
    SevenNetForceField("7net-0"),
    MACEForceField(None, elements=ELEMENTS),
]


@pytest.mark.parametrize("force_field", FORCE_FIELDS, ids=["sevennet", "7net-0", "mace"])
def test_predictions_and_their_derivatives_are_the_same(force_field, monkeypatch):
    crystals = [bulk("LiS", "rocksalt", a=5.2), bulk("P", "sc", a=2.6)]
    for atoms in crystals:
        atoms.rattle(0.1, seed=0)
    split = force_field.load()
    monkeypatch.setattr(tensor_products, "split_inputs", lambda network: 0)
    plain = force_field.load()
    assert split_inputs(copy.deepcopy(plain.network)) >= 20, "e3nn's code has no slices that are replaced"
    assert split_inputs(split.network) == 0, "all were replaced when it was loaded"
    derivatives = []
    for potential in (split, plain):
        potential.train()
        prediction = potential(potential.collate(crystals))
        (prediction.energies.sum() + prediction.forces.square().sum()).backward()
        derivatives.append([prediction.stresses.detach(), *(weight.grad for weight in potential.parameters())])
    for one, other in zip(*derivatives, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_slices_that_leave_something_out_stay():
    """Weights beyond the last path would not be part of a split."""
    product = TensorProduct("2x0e", "1x0e", "2x0e", [(0, 0, 0, "uvu", True)], shared_weights=False)
    assert split_inputs(product) == 0
    product = TensorProduct("2x0e+2x1o+1x2e", "1x0e", "2x0e+2x1o", [(k, 0, k, "uvu", True) for k in (0, 1)])
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(5, 13, generator=random), torch.randn(5, 1, generator=random)
    before = product(*inputs)
    split_inputs(product)
    torch.testing.assert_close(product(*inputs), before, rtol=0, atol=0)
