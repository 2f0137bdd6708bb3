"""Experience replay and elastic weight consolidation: what is replayed, what holds weights back, what is forgotten."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms

from chemloop.physics.structures import check_structure, write_structures
from chemloop.runtime.errors import ConfigError, StructureError
from chemloop.training.consolidation import Consolidation, fisher_information, with_noise
from chemloop.training.evaluation import errors, predict
from chemloop.training.finetune import finetune
from chemloop.training.general import MAX_ATOMS, general_structures
from chemloop.training.loss import choose_weights
from chemloop.training.recipe import Recipe
from chemloop.training.replay import forgetting, general_set, label_by
from tests.toy_potential import N_ELEMENTS, RECIPE, PairForceField, labelled

GENERAL = replace(RECIPE, replay="package:general", n_replay=20, n_fisher=8)


# --- the general set


def test_general_structures():
    structures = general_structures(250, 0, range(1, 104))
    assert len(structures) == 250 == len({atoms.info["id"] for atoms in structures})
    for atoms in structures:
        check_structure(atoms)
    assert max(map(len, structures)) <= MAX_ATOMS
    assert len({int(z) for atoms in structures for z in atoms.numbers}) > 60
    again = general_structures(10, 0, range(1, 104))
    assert all(one == other for one, other in zip(structures, again, strict=False))
    assert structures[0] != general_structures(1, 1, range(1, 104))[0]
    few = general_structures(9, 0, [3, 15, 16])
    assert len(few) == 9 and {int(z) for atoms in few for z in atoms.numbers} <= {3, 15, 16}
    with pytest.raises(ConfigError, match="package:general: the model knows none of its elements; name an extxyz file"):
        general_structures(5, 0, [100])


def test_general_set_is_labelled_by_the_base():
    potential = PairForceField().load()
    general = general_set(GENERAL, potential, 0, 8)
    assert 15 <= len(general.replayed) + len(general.held_out) <= 20 and len(general.held_out) >= 3
    assert max(int(atoms.numbers.max()) for atoms in [*general.replayed, *general.held_out]) < N_ELEMENTS
    assert max(errors(general.replayed, potential).values()) < 1e-2
    assert max(forgetting(general.held_out, potential, 8).values()) < 1e-2
    assert not general_set(RECIPE, potential, 0, 8).held_out


def test_replay_from_a_file(tmp_path, caplog):
    frames = labelled(8, 1)
    frames[0].numbers[0] = 92
    frames[1].positions[0] += 1000 * frames[1].cell[0]
    write_structures(tmp_path / "general.extxyz", frames)
    recipe = replace(GENERAL, replay=str(tmp_path / "general.extxyz"))
    general = general_set(recipe, PairForceField().load(), 0, 8)
    assert len(general.replayed) + len(general.held_out) == 7
    assert {atoms.info["energy_frame"] for atoms in general.replayed} == {"base"}, "labels of the file are of no effect"
    assert "1 replay structures have elements that the model lacks" in caplog.text
    assert sum(map(len, general_set(replace(recipe, n_replay=3), PairForceField().load(), 0, 8))) == 3


def test_replay_that_cannot_be(tmp_path):
    potential = PairForceField().load()
    with pytest.raises(ConfigError, match="training.replay = nowhere.extxyz: no such file; give package:general or an"):
        general_set(replace(GENERAL, replay="nowhere.extxyz"), potential, 0, 8)
    write_structures(tmp_path / "u.extxyz", [Atoms("U", cell=np.eye(3) * 4, pbc=True)] * 3)
    with pytest.raises(
        ConfigError, match="the model knows all elements of 0 of its 3 structures, at least 2 are needed"
    ):
        general_set(replace(GENERAL, replay=str(tmp_path / "u.extxyz")), potential, 0, 8)
    with pytest.raises(
        StructureError, match="only 0 of 20 structures have forces up to training.max_force = 1e-09 eV/A"
    ):
        general_set(replace(GENERAL, max_force=1e-9), potential, 0, 8)


# --- elastic weight consolidation


def test_fisher_information_of_a_line():
    """For squares of a residual with noise s it is E[(2 s g)^2] with the gradient g, here of the energy alone."""
    frames = labelled(1, 1)
    potential = PairForceField().load(dtype="float64")
    weights = choose_weights(potential, ["width"])
    recipe = replace(RECIPE, force_prefactor=[0.0, 0.0], stress_prefactor=[0.0, 0.0], energy_prefactor=[1.0, 3.0])
    base = label_by(potential, frames, 1)
    assert float(fisher_information(potential, weights, base, recipe)[0]) < 1e-20, "its own labels say nothing"
    step = 1e-5
    energies = []
    for sign in (1, -1):
        potential.width.data += sign * step
        energies.append(predict(frames, potential).energies[0] / len(frames[0]))
        potential.width.data -= sign * step
    gradient = (energies[0] - energies[1]) / (2 * step)
    noisy = [atoms for seed in range(400) for atoms in with_noise(base, seed)]
    found = float(fisher_information(potential, weights, noisy, recipe)[0])
    assert found == pytest.approx((3 * 2 * 0.02 * gradient) ** 2 / 3, rel=0.25)


def test_the_penalty_keeps_its_share_of_a_loss_whose_prefactors_all_grow():
    potential = PairForceField().load(dtype="float64")
    weights = choose_weights(potential, [])
    frames = with_noise(label_by(potential, labelled(1, 1), 1), 0)
    keys = ("energy_prefactor", "force_prefactor", "stress_prefactor")
    one = fisher_information(potential, weights, frames, replace(RECIPE, **dict.fromkeys(keys, [1.0, 1.0])))
    ten = fisher_information(potential, weights, frames, replace(RECIPE, **dict.fromkeys(keys, [1.0, 10.0])))
    for small, large in zip(one, ten, strict=True):
        assert torch.allclose(large, 10 * small)
    assert sum(float(information.sum()) for information in one) > 0


def test_fisher_information_and_penalty_are_sevennets():
    """Its own losses and network, one structure at a time, as arXiv:2506.15223 and its authors' code do."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from sevenn.atom_graph_data import AtomGraphData
    from sevenn.checkpoint import SevenNetCheckpoint
    from sevenn.train.dataload import atoms_to_graph
    from sevenn.train.loss import ForceLoss, PerAtomEnergyLoss
    from sevenn.train.reewc import EWCLoss
    from sevenn.util import pretrained_name_to_path
    from torch_geometric.loader.dataloader import Collater

    from chemloop.model.sevennet import SevenNetForceField

    frames = with_noise(label_by(potential := SevenNetForceField("7net-0").load(), _two_crystals(), 1), 0)
    recipe = Recipe(
        criterion="huber", huber_delta=0.01, force_prefactor=[1.0, 0.1], stress_prefactor=[0.0, 0.0],
    )  # fmt: skip
    weights = choose_weights(potential, [])
    ours = fisher_information(potential, weights, frames, recipe)

    network = SevenNetCheckpoint(pretrained_name_to_path("7net-0")).build_model()
    network.set_is_batch_data(True)
    network.train()
    huber = torch.nn.HuberLoss(delta=0.01)
    theirs = {name: torch.zeros_like(weight) for name, weight in network.named_parameters()}
    for atoms in frames:
        energy, forces = atoms.info["label_energy"], atoms.arrays["label_forces"]
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        graph = AtomGraphData.from_numpy_dict(atoms_to_graph(atoms, 5.0, y_from_calc=True))
        output = network(Collater([])([graph]))
        loss = PerAtomEnergyLoss(criterion=huber).get_loss(output) + 0.1 * ForceLoss(criterion=huber).get_loss(output)
        network.zero_grad()
        loss.backward()
        for name, weight in network.named_parameters():
            if weight.grad is not None:
                theirs[name] += weight.grad**2 / len(frames)
    names = [name.removeprefix("network.") for name, weight in potential.named_parameters() if weight.requires_grad]
    for name, information in zip(names, ours, strict=True):
        largest = float(theirs[name].max())
        assert torch.allclose(information, theirs[name], rtol=1e-2, atol=1e-3 * largest + 1e-12), name
    assert sum(float(information.sum()) for information in ours) > 0

    reference = {name: weight.detach() + 0.01 for name, weight in network.named_parameters() if name in names}
    penalty = EWCLoss({name: theirs[name] for name in names}, reference).get_loss({}, network)
    with torch.no_grad():
        consolidation = Consolidation([reference[name] for name in names], [theirs[name] for name in names], 5.0)
        own = dict(network.named_parameters())
        assert float(consolidation([own[name] for name in names])) == pytest.approx(2.5 * float(penalty), rel=1e-4)


def _two_crystals() -> list[Atoms]:
    return [atoms for atoms in general_structures(60, 0, [3, 15, 16, 11, 17]) if len(atoms) <= 6][:2]


# --- fits


def fitted(tmp_path, name: str, **values) -> dict[str, float]:
    general = labelled(16, 1, seed=7)
    for atoms in general:
        atoms.numbers[:] = np.where(atoms.numbers == 16, 17, atoms.numbers)
    write_structures(tmp_path / "general.extxyz", general)
    replay = str(tmp_path / "general.extxyz")
    course = {"epochs": 20, "schedule": "cosine", "early_stopping_patience": 0, "valid_fraction": 0.1}
    recipe = replace(GENERAL, replay=replay, **course, **values)
    fit = finetune(PairForceField(), labelled(), recipe, tmp_path / name, seed=0)
    assert not fit.kept_base
    rows = [json.loads(line) for line in fit.curves.read_text().splitlines()]
    assert all(("train_ewc" in row) == bool(values.get("ewc_strength")) for row in rows)
    return fit.metrics


def test_replay_and_consolidation_forget_less(tmp_path):
    key = "finetune/forgetting_force_rmse_mev_per_ang"
    plain = fitted(tmp_path, "plain")
    replayed = fitted(tmp_path, "replay", replay_fraction=0.5)
    held = fitted(tmp_path, "ewc", ewc_strength=1000.0)
    both = fitted(tmp_path, "both", replay_fraction=0.5, ewc_strength=1000.0)
    assert plain[key] > 50
    assert replayed[key] < 0.8 * plain[key]
    assert held[key] < 0.8 * plain[key]
    assert both[key] < 0.9 * min(replayed[key], held[key])
    assert plain["finetune/n_replayed"] + plain["finetune/n_general_held_out"] == 16
    assert {name for name in plain if "forgetting" in name} == {
        key, "finetune/forgetting_energy_rmse_mev_per_atom", "finetune/forgetting_stress_rmse_mev_per_ang3"
    }  # fmt: skip


def test_a_very_strong_penalty_keeps_the_base(tmp_path):
    recipe = replace(GENERAL, ewc_strength=1e12, gradient_clip=0.0, learning_rate=1e-4, schedule="constant")
    fit = finetune(PairForceField(), labelled(), recipe, tmp_path, seed=0)
    assert fit.metrics["finetune/forgetting_force_rmse_mev_per_ang"] < 5


def test_random_weights_have_nothing_to_remember(tmp_path, caplog):
    recipe = replace(GENERAL, epochs=1, replay_fraction=0.3, ewc_strength=1.0)
    fit = finetune(PairForceField(None), labelled(), recipe, tmp_path, seed=0)
    assert caplog.text.count("the model begins with random weights, which hold nothing to forget") == 1
    assert not [name for name in fit.metrics if "forgetting" in name]
