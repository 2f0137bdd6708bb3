"""Mixed precision with the real networks: those that compute in it train, the others say so before they begin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from chemloop.config import load
from chemloop.runtime.errors import ConfigError
from chemloop.training.finetune import finetune
from chemloop.training.loss import choose_weights
from chemloop.training.trainer import check_precision, devices
from tests.toy_potential import RECIPE, labelled

MIXED = replace(RECIPE, precision="bf16-mixed")


@pytest.fixture(params=["chgnet", "mattersim", "dpa3", "mace", "sevennet"])
def untrained(request, compose_config):
    return request.param, load(compose_config(f"model={request.param}", "model.checkpoint=null")).model


def test_a_network_that_does_not_compute_in_it_is_refused(untrained):
    name, force_field = untrained
    potential = force_field.load()
    before = [weight.detach().clone() for weight in potential.parameters()]
    weights = choose_weights(potential, [])
    if name in ("mace", "sevennet"):
        with pytest.raises(ConfigError, match=r"training.precision = bf16-mixed: .* choose 32-true"):
            check_precision(potential, weights, labelled(2, 1), MIXED, "cpu")
    else:
        check_precision(potential, weights, labelled(2, 1), MIXED, "cpu")
    check_precision(potential, weights, labelled(2, 1), RECIPE, "cpu")
    assert not potential.training and all(weight.grad is None for weight in potential.parameters())
    assert all(torch.equal(*pair) for pair in zip(before, potential.parameters(), strict=True))


def test_chgnet_trains_in_it(compose_config, tmp_path):
    force_field = load(compose_config("model=chgnet", "model.checkpoint=null")).model
    fit = finetune(force_field, labelled(4, 2), replace(MIXED, epochs=2), tmp_path, seed=0)
    assert fit.metrics["finetune/n_epochs"] == 2 and all(np.isfinite(value) for value in fit.metrics.values())


def test_the_gpu_of_the_number_asked_for_trains():
    assert devices(RECIPE, "cuda:1") == [1] and devices(RECIPE, "cuda") == 1 and devices(RECIPE, "cpu") == 1
    assert devices(replace(RECIPE, devices=2), "cuda:1") == 2
    assert devices(replace(RECIPE, accelerator="cpu"), "cuda:1") == 1
