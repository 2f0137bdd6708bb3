"""Every YAML in conf/model/ keeps the contract, and the contract notices who breaks it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from chemloop.config import build
from chemloop.model import weights
from chemloop.model.contract import CHECKS, Contract, check
from chemloop.physics.calculator import PotentialCalculator
from chemloop.physics.structures import read_structures
from chemloop.runtime.errors import WeightsUnavailable
from tests.morse import MorseBackend, MorseForceField

TESTS = Path(__file__).parents[1]
CONF = TESTS.parent / "conf"
NAMES = ("mp-1153", "mp-736", "mp-2646995")
MAX_ATOMS = 20


def compose_model(option: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [f"model={option}"]).model


OPTIONS = {path.stem: compose_model(path.stem) for path in sorted((CONF / "model").glob("*.yaml"))}
# values that only a user can give
INCOMPLETE = {option for option, node in OPTIONS.items() if OmegaConf.missing_keys(node)}


@pytest.fixture(scope="module")
def references():
    return read_structures(str(files("chemloop") / "data/li-p-s/reference.extxyz"))


@pytest.fixture(scope="module")
def crystals(references):
    return [atoms for atoms in references if atoms.info["name"] in NAMES]


@pytest.fixture(scope="module", params=sorted(OPTIONS.keys() - INCOMPLETE))
def contract(request, crystals, references):
    """With the weights that are on this machine: tests download nothing."""
    model = build(OmegaConf.to_container(OPTIONS[request.param], resolve=True), "model")
    small = [atoms for atoms in references if len(atoms) <= MAX_ATOMS]
    made = Contract(model, crystals, small)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "is_reachable", lambda *_: False)
        try:
            made.single  # noqa: B018 - loads
        except WeightsUnavailable:
            made = Contract(replace(model, checkpoint=None), crystals, small)
        yield made


@pytest.mark.parametrize("name", CHECKS)
def test_contract(contract, name):
    getattr(contract, name)()


@pytest.mark.parametrize("option", sorted(INCOMPLETE))
def test_options_that_need_values_have_a_test_of_their_own(option):
    assert (TESTS / "unit" / f"test_model_{option}.py").is_file()


def test_a_third_party_force_field_passes(crystals):
    check(MorseForceField(), crystals)


@dataclass(frozen=True)
class WrongForces(MorseBackend):
    def predict(self, network, batch, is_training):
        prediction = super().predict(network, batch, is_training)
        return prediction._replace(forces=1.01 * prediction.forces)


@dataclass(frozen=True)
class StressInGPa(MorseBackend):
    def predict(self, network, batch, is_training):
        prediction = super().predict(network, batch, is_training)
        return prediction._replace(stresses=160.2 * prediction.stresses)


@dataclass(frozen=True)
class EnergyPerAtom(MorseBackend):
    def predict(self, network, batch, is_training):
        prediction = super().predict(network, batch, is_training)
        return prediction._replace(energies=prediction.energies / batch.n_atoms)


@dataclass(frozen=True)
class LeakingBatch(MorseBackend):
    def predict(self, network, batch, is_training):
        prediction = super().predict(network, batch, is_training)
        return prediction._replace(energies=prediction.energies + 1e-3 * len(prediction.energies))


@dataclass(frozen=True)
class LeakingPadding(MorseBackend):
    def predict(self, network, batch, is_training):
        prediction = super().predict(network, batch, is_training)
        n_padded = batch.n_atoms.max() - batch.n_atoms
        return prediction._replace(energies=prediction.energies + 1e-7 * batch.n_atoms * (n_padded > 30))


@dataclass(frozen=True)
class Forgetting(MorseBackend):
    def predict(self, network, batch, is_training):
        if is_training:
            network.constants += 1e-3
        return super().predict(network, batch, is_training)


@dataclass(frozen=True)
class TotalStress(MorseBackend):
    def predict(self, network, batch, is_training):
        prediction = super().predict(network, batch, is_training)
        return prediction._replace(stresses=prediction.stresses * (2 if is_training else 1))


@dataclass(frozen=True)
class Wrapping(MorseBackend):
    def collate(self, structures, dtype, device):
        for atoms in structures:
            atoms.positions += 1.0
        return super().collate(structures, dtype, device)


@dataclass(frozen=True)
class ForgetfulSave(MorseBackend):
    def checkpoint(self, network):
        return {"morse": network.state_dict() | {"constants": torch.zeros(119)}}


@dataclass(frozen=True)
class DetachedForces(MorseBackend):
    def predict(self, network, batch, is_training):
        prediction = super().predict(network, batch, is_training)
        return prediction._replace(forces=prediction.forces.detach() + 0 * prediction.energies.sum())


@dataclass(frozen=True)
class DirectedBonds(MorseBackend):
    def collate(self, structures, dtype, device):
        pairs = super().collate(structures, dtype, device)
        return pairs._replace(vectors=pairs.vectors * torch.tensor([1.0, 1.0, 1.1], dtype=dtype))


@dataclass(frozen=True)
class Exploding(MorseBackend):
    def predict(self, network, batch, is_training):
        prediction = super().predict(network, batch, is_training)
        return prediction._replace(forces=prediction.forces * 1e9)


@pytest.mark.parametrize(
    ("backend", "name"),
    [
        (WrongForces, "check_forces_are_gradients"),
        (WrongForces, "check_dynamics_conserves_energy"),
        (Exploding, "check_dynamics_conserves_energy"),
        (StressInGPa, "check_stress_is_strain_derivative"),
        (EnergyPerAtom, "check_supercell"),
        (LeakingBatch, "check_batch_equals_one_by_one"),
        (LeakingPadding, "check_padding_does_not_leak"),
        (Forgetting, "check_zero_step_finetuning"),
        (TotalStress, "check_zero_step_finetuning"),
        (Wrapping, "check_input_is_not_changed"),
        (ForgetfulSave, "check_save_and_load"),
        (DetachedForces, "check_gradients_reach_weights"),
        (DirectedBonds, "check_rotation"),
    ],
)
def test_broken_promises_are_noticed(crystals, backend, name):
    with pytest.raises(AssertionError):
        getattr(Contract(MorseForceField(backend=backend()), crystals), name)()
    with pytest.raises(AssertionError, match=name):
        check(MorseForceField(backend=backend()), crystals)


class WrongCalculator(MorseForceField):
    """Its package's own calculator disagrees where there is phosphorus."""

    def reference_calculator(self):
        calculator = PotentialCalculator(self.load("cpu", "float32"))
        calculator.potential.shift_energies({15: 1e-2})
        return calculator


def test_references_are_compared_with_the_packages_own_calculator(crystals, references):
    without_phosphorus = [atoms for atoms in crystals if 15 not in atoms.numbers]
    Contract(WrongCalculator(), without_phosphorus).check_reference_calculator()
    with pytest.raises(AssertionError, match="energy per atom"):
        Contract(WrongCalculator(), without_phosphorus, references[:20]).check_reference_calculator()


class Stubborn(MorseForceField):
    can_learn = False


def test_who_cannot_learn_has_to_refuse(crystals):
    with pytest.raises(AssertionError, match="training mode is allowed"):
        Contract(Stubborn(), crystals).check_refusal_to_learn()
