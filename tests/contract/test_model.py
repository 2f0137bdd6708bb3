"""Every YAML in conf/model/ keeps the contract, and the contract notices who breaks it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import yaml

from chemloop.model.contract import CHECKS, Contract, check
from chemloop.physics.structures import read_structures
from tests.morse import MorseBackend, MorseForceField

OPTIONS = sorted((Path(__file__).parents[2] / "conf" / "model").glob("*.yaml"))
NAMES = ("mp-1153", "mp-736", "mp-2646995")


@pytest.fixture(scope="module")
def crystals():
    reference = read_structures(str(files("chemloop") / "data/li-p-s/reference.extxyz"))
    return [atoms for atoms in reference if atoms.info["name"] in NAMES]


@pytest.fixture(scope="module", params=OPTIONS, ids=lambda path: path.stem)
def contract(request, crystals):
    values = yaml.safe_load(request.param.read_text())
    module, _, name = values.pop("_target_").rpartition(".")
    return Contract(getattr(importlib.import_module(module), name)(**values), crystals)


@pytest.mark.parametrize("name", CHECKS)
def test_contract(contract, name):
    getattr(contract, name)()


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


@pytest.mark.parametrize(
    ("backend", "name"),
    [
        (WrongForces, "check_forces_are_gradients"),
        (StressInGPa, "check_stress_is_strain_derivative"),
        (EnergyPerAtom, "check_supercell"),
        (LeakingBatch, "check_batch_equals_one_by_one"),
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
