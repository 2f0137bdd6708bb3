"""CHGNet and SevenNet from scratch keep the contract too, and what they save is read by their own packages."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pytest
import torch

from chemloop.config import build
from chemloop.model.contract import CHECKS, Contract
from chemloop.physics.calculator import evaluate
from chemloop.physics.structures import read_structures
from chemloop.runtime.errors import CheckpointError, ConfigError

OPTIONS = ("chgnet", "sevennet")
NAMES = ("mp-1153", "mp-736", "mp-2646995")
SMALL = {
    "chgnet": {"channels": 16, "n_layers": 2, "n_basis": 7, "cutoff": 4.0, "angle_cutoff": 2.8},
    "sevennet": {"channels": 8, "lmax": 1, "n_layers": 2, "n_basis": 4, "hidden": [16], "cutoff": 4.0},
}
TARGETS = {
    "chgnet": "chemloop.model.chgnet.CHGNetForceField",
    "sevennet": "chemloop.model.sevennet.SevenNetForceField",
}


def from_scratch(option, **architecture):
    node = {"_target_": TARGETS[option], "checkpoint": None, "architecture": architecture}
    return build(node | ({"elements": ["Li", "P", "S"]} if option == "sevennet" else {}), "model")


@pytest.fixture(scope="module")
def references():
    structures = read_structures(str(files("chemloop") / "data/li-p-s/reference.extxyz"))
    return [atoms for atoms in structures if len(atoms) <= 20]


@pytest.fixture(scope="module")
def crystals(references):
    return [atoms for atoms in references if atoms.info["name"] in NAMES]


@pytest.fixture(scope="module", params=OPTIONS)
def contract(request, crystals, references):
    return Contract(from_scratch(request.param), crystals, references)


@pytest.mark.parametrize("name", CHECKS)
def test_contract(contract, name):
    getattr(contract, name)()


@pytest.mark.parametrize("option", OPTIONS)
def test_its_yaml_lists_the_defaults(compose_config, option):
    composed = build(compose_config(f"model={option}", "model.checkpoint=null")["model"], "model")
    assert composed == from_scratch(option)


@pytest.mark.parametrize("option", OPTIONS)
def test_weights_follow_from_the_seed_alone(option):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one, same, other = (from_scratch(option, **SMALL[option], seed=seed).load().state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state), "the global random numbers were touched"
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("option", OPTIONS)
def test_sizes_are_those_of_the_yaml(option):
    small, usual = from_scratch(option, **SMALL[option]).load(), from_scratch(option).load()
    counts = [sum(weight.numel() for weight in potential.parameters()) for potential in (small, usual)]
    assert counts[0] < counts[1] / 2
    assert (small.cutoff, usual.cutoff) == (4.0, 5.0)


def own_calculator(option, path):
    if option == "chgnet":
        from chgnet.model import CHGNet
        from chgnet.model.dynamics import CHGNetCalculator

        return CHGNetCalculator(CHGNet.from_file(str(path)), use_device="cpu")
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator(str(path), device="cpu")


@pytest.mark.parametrize("option", OPTIONS)
def test_the_package_itself_reads_what_was_saved(option, crystals, tmp_path):
    potential = from_scratch(option, **SMALL[option], seed=3).load()
    potential.shift_energies({3: -1.0, 15: -5.0, 16: -4.0})
    potential.save(tmp_path / "saved.pt")
    calculator = own_calculator(option, tmp_path / "saved.pt")
    for atoms, result in zip(crystals, evaluate(crystals, potential), strict=True):
        probe = atoms.copy()
        probe.calc = calculator
        assert probe.get_potential_energy() == pytest.approx(result.energy, abs=1e-4)
        np.testing.assert_allclose(probe.get_forces(), result.forces, atol=1e-4)


def test_one_element_is_enough_for_sevennet(crystals, tmp_path):
    node = {"_target_": TARGETS["sevennet"], "checkpoint": None, "elements": ["S"], "architecture": SMALL["sevennet"]}
    force_field = build(node, "model")
    potential = force_field.load()
    with pytest.raises(CheckpointError, match=r"SevenNet from scratch does not know Li; its elements are S"):
        potential.collate(crystals[:1])
    sulfur = crystals[0][crystals[0].numbers == 16]
    (before,) = evaluate([sulfur], potential)
    potential.shift_energies({16: 2.0})
    potential.save(tmp_path / "sulfur.pt")
    (after,) = evaluate(
        [sulfur], build({"_target_": TARGETS["sevennet"], "checkpoint": str(tmp_path / "sulfur.pt")}, "model").load()
    )
    assert after.energy == pytest.approx(before.energy + 2.0 * len(sulfur), abs=1e-5)


@pytest.mark.parametrize(
    ("option", "values", "message"),
    [
        ("chgnet", {"channels": 0}, "model.architecture.channels = 0: must be 1 or above"),
        ("chgnet", {"n_layers": 1}, "model.architecture.n_layers = 1: must be 2 or above"),
        ("chgnet", {"n_basis": 8}, "model.architecture.n_basis = 8: must be an odd number"),
        ("chgnet", {"angle_cutoff": 7.0}, "model.architecture.angle_cutoff = 7.0: must be above 0 A and at most"),
        ("chgnet", {"channel": 8}, "unknown key model.architecture.channel; did you mean channels?"),
        ("sevennet", {"lmax": 0}, "model.architecture.lmax = 0: must be 1 or above"),
        ("sevennet", {"cutoff": -5}, "model.architecture.cutoff = -5: must be above 0"),
        ("sevennet", {"hidden": [8, 0]}, "model.architecture.hidden = [8, 0]: must be numbers of 1 or above"),
        ("sevennet", {"seed": -1}, "model.architecture.seed = -1: must be 0 or above"),
    ],
)
def test_bad_sizes_are_named(option, values, message):
    with pytest.raises(ConfigError) as caught:
        from_scratch(option, **values)
    assert message in str(caught.value)


def test_empty_values_are_named():
    with pytest.raises(ConfigError, match=r"model.elements is empty: a SevenNet from scratch needs them"):
        build({"_target_": TARGETS["sevennet"], "checkpoint": None}, "model")
    for target in TARGETS.values():
        with pytest.raises(ConfigError, match=r"model.checkpoint is empty: give one of .* or null"):
            build({"_target_": target, "checkpoint": ""}, "model")
