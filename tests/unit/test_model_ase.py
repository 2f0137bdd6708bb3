"""model=ase: any ASE calculator keeps the contract, except that it cannot learn, which it says."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from chemloop.config import build
from chemloop.model.ase import AseForceField, build_calculator
from chemloop.model.contract import CHECKS, Contract, check
from chemloop.physics.calculator import evaluate
from chemloop.physics.relaxation import relax
from chemloop.runtime.errors import ConfigError, ItemFailed
from chemloop.training.finetune import finetune
from chemloop.training.recipe import Recipe

EMT_NODE = {"_target_": "ase.calculators.emt.EMT"}


@pytest.fixture(scope="module")
def crystals():
    ordered = Atoms("Cu3Au", np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 0]]) * 1.87, cell=np.eye(3) * 3.74)
    ordered.pbc = True
    return [bulk("Cu", "bcc", a=2.9, cubic=True), ordered, bulk("Al", "fcc", a=4.0, cubic=True).repeat((2, 1, 1))]


@pytest.fixture(scope="module")
def contract(crystals):
    return Contract(AseForceField(EMT_NODE), crystals, [bulk(symbol) for symbol in ("Cu", "Ag", "Ni", "Al")])


@pytest.mark.parametrize("name", CHECKS)
def test_contract(contract, name):
    getattr(contract, name)()


@pytest.fixture
def emt(compose_config):
    config = compose_config("model=ase", "model.calculator._target_=ase.calculators.emt.EMT")
    return build(config["model"], "model")


def test_predictions_are_the_calculators_in_double_precision(emt, crystals):
    potential = emt.load("cpu", "float32")
    fixed = crystals[0].copy()
    fixed.rattle(0.1, seed=1)
    free = fixed.copy()
    fixed.set_constraint(FixAtoms([0]))
    prediction = potential(potential.collate([fixed, crystals[1]]))
    assert {tensor.dtype for tensor in prediction} == {torch.float64}
    free.calc = EMT()
    assert prediction.energies[0] == pytest.approx(free.get_potential_energy(), abs=1e-12)
    np.testing.assert_allclose(prediction.forces[: len(free)], free.get_forces(), atol=1e-12)
    np.testing.assert_allclose(prediction.stresses[0], free.get_stress(voigt=False), atol=1e-12)
    assert fixed.calc is None


def test_a_batch_does_not_change_with_the_structures_it_was_made_of(emt):
    potential = emt.load()
    atoms = bulk("Cu", cubic=True)
    batch = potential.collate([atoms])
    before = potential(batch).energies
    atoms.positions[0] += 0.3
    assert potential(batch).energies == before


def test_relaxation_finds_the_lattice_constant(emt):
    start = bulk("Cu", "fcc", a=3.75, cubic=True)
    start.rattle(0.05, seed=2)
    (end,) = relax([start], emt.load(), fmax=0.01, max_steps=100, energy_frame="emt")
    assert end.atoms.info["converged"] and end.rejection is None
    assert end.atoms.cell.volume ** (1 / 3) == pytest.approx(3.59, abs=0.01)
    (rejected,) = relax([bulk("Li")], emt.load(), fmax=0.01, max_steps=5, energy_frame="emt")
    assert "No EMT-potential for Li" in rejected.rejection and not rejected.atoms.info["converged"]


def test_a_failing_calculator_names_the_structure(emt):
    potential = emt.load()
    with pytest.raises(ItemFailed, match="EMT-.* failed on Li: .*No EMT-potential for Li"):
        evaluate([bulk("Li")], potential)


def test_it_refuses_to_learn(emt, tmp_path):
    assert emt.can_learn is False
    potential = emt.load()
    for learn in (
        lambda: potential.train()(potential.collate([bulk("Cu")])),
        lambda: potential.shift_energies({29: 1.0}),
        lambda: potential.save(tmp_path / "emt.pt"),
    ):
        with pytest.raises(ConfigError, match="model=ase cannot be fine-tuned: its calculator has no weights here"):
            learn()
    with pytest.raises(ConfigError, match="cannot be fine-tuned"):
        finetune(emt, [bulk("Cu")], Recipe(), tmp_path, seed=0)
    assert not list(tmp_path.iterdir())


def test_its_name_changes_with_every_argument_and_survives_what_stages_do_with_it(emt):
    other = AseForceField(EMT_NODE | {"asap_cutoff": True})
    assert emt.checkpoint.startswith("ase.calculators.emt.EMT-") and emt.checkpoint != other.checkpoint
    assert other.load().backend.calculator.parameters["asap_cutoff"]
    assert dataclasses.replace(emt, checkpoint=emt.checkpoint) == emt
    assert AseForceField(**json.loads(json.dumps(dataclasses.asdict(emt)))) == emt


def test_arguments_may_be_objects():
    parts = [EMT_NODE, {"_target_": "ase.calculators.lj.LennardJones", "epsilon": 0.1}]
    mixed = {"_target_": "ase.calculators.mixing.SumCalculator", "calcs": parts}
    check(AseForceField(mixed), [bulk("Cu", cubic=True), bulk("Au")])


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        ([], ["model.calculator._target_ has no value", "set it with model.calculator._target_=..."]),
        (["_target_=ase.calculators.emt.ETM"], ["ase.calculators.emt.ETM", "cannot be built", "must name an ASE"]),
        (["_target_=no_such_package.Calculator"], ["cannot be built", "no_such_package"]),
        (["_target_=ase.calculators.mixing.SumCalculator", "calculators=[]"], ["cannot be built", "calculators"]),
        (["_target_=collections.OrderedDict"], ["computes no energy, no forces, no stress"]),
        (["_target_=ase.calculators.tip3p.TIP3P"], ["computes no stress"]),
    ],
)
def test_bad_calculators_are_named(compose_config, overrides, messages):
    keys = [f"++model.calculator.{override}" for override in overrides]
    with pytest.raises(ConfigError) as caught:
        build(compose_config("model=ase", *keys)["model"], "model").load()
    for message in messages:
        assert message in str(caught.value)


def test_bad_values_are_named():
    with pytest.raises(ConfigError, match=r"model.cutoff = -1: must be above 0 A"):
        AseForceField(EMT_NODE, cutoff=-1)
    with pytest.raises(ConfigError, match=r"model.checkpoint = weights.pt: model=ase has none, leave it null"):
        AseForceField(EMT_NODE, checkpoint="weights.pt")
    with pytest.raises(ConfigError, match=r"labeler.calculator = .* cannot be built"):
        build_calculator({"_target_": "nothing"}, "labeler.calculator")
