"""Frames, batches and losses of fine-tuning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms

from chemloop.model.dpa3_checkpoint import import_deepmd
from chemloop.protocols import Prediction
from chemloop.runtime.errors import ConfigError, EnergyFrameError, StructureError
from chemloop.training.batches import Batches
from chemloop.training.data import Targets, batch_structures, split, split_by_parent, targets, without_outliers
from chemloop.training.evaluation import errors, fit_shifts, predict
from chemloop.training.finetune import finetune
from chemloop.training.loss import channel_losses
from chemloop.training.recipe import Recipe
from chemloop.training.schedule import Schedule
from tests.toy_potential import RECIPE, PairForceField, labelled


def test_split_keeps_parents_together_and_what_is_held_out():
    frames = labelled(20, 3)
    train, valid = split_by_parent(frames, 0.2)
    assert len(train) + len(valid) == len(frames) and 6 <= len(valid) <= 18
    assert not {atoms.info["parent"] for atoms in train} & {atoms.info["parent"] for atoms in valid}


@pytest.mark.parametrize("campaign", range(8))
def test_no_structure_that_has_trained_is_held_out_later(campaign):
    """A continued training would be validated on what it was trained on."""
    frames = [relabel(atoms, f"c{campaign}-{atoms.info['parent']}") for atoms in labelled(48)]
    trained, held = set(), set()
    for n in (48, 96, 144, 192):
        train, valid = split_by_parent(frames[:n], 0.1)
        now = {atoms.info["parent"] for atoms in valid}
        assert not now & trained
        # the first one stands in for those that are meant to be held out, until there is one
        assert len(held - now) <= (len(held) == 1)
        trained |= {atoms.info["parent"] for atoms in train}
        held = now


def relabel(atoms: Atoms, parent: str) -> Atoms:
    copy = atoms.copy()
    copy.info["parent"] = parent
    return copy


def test_split_by_frame_holds_out_the_same_frames_while_the_set_grows():
    frames = labelled(20, 3)
    train, valid = split(frames, 0.3, "frame")
    assert len(train) + len(valid) == len(frames) and 8 <= len(valid) <= 28
    held = {atoms.info["id"] for atoms in valid}
    assert not held & {atoms.info["id"] for atoms in train}
    assert {atoms.info["id"] for atoms in split(frames[:30], 0.3, "frame")[1]} <= held
    with pytest.raises(StructureError, match="1 frames cannot be split"):
        split(frames[:1], 0.3, "frame")
    nameless = [atoms.copy() for atoms in frames]
    del nameless[0].info["id"], nameless[7].info["id"]
    with pytest.raises(StructureError, match=r'2 of 60 frames have no id .*valid_by=frame.*info\["id"\]'):
        split(nameless, 0.3, "frame")
    assert split(frames, 0.2, "parent") == split_by_parent(frames, 0.2)


def test_split_needs_two_parents():
    with pytest.raises(StructureError, match="4 frames come from 1 structure .i00-r0."):
        split_by_parent(labelled(1), 0.2)


def without_stress(frames: list[Atoms]) -> list[Atoms]:
    for atoms in frames:
        del atoms.info["label_stress"]
    return frames


def test_frames_that_cannot_train(tmp_path):
    frames = labelled()
    with pytest.raises(StructureError, match="no labelled frames"):
        finetune(PairForceField(), [], RECIPE, tmp_path, 0)
    without = frames[1].copy()
    del without.arrays["label_forces"]
    message = r"1 of 2 frames have no label_forces \(i00-r0/f1\): label them, or set training.force_prefactor=\[0,0\]"
    with pytest.raises(StructureError, match=message):
        finetune(PairForceField(), [frames[0], without], RECIPE, tmp_path, 0)
    with pytest.raises(
        StructureError, match=r"24 of 24 .* label_stress \(i00-r0/f0, .*f0 and 19 more\).*stress_prefactor"
    ):
        finetune(PairForceField(), without_stress(labelled()), RECIPE, tmp_path, 0)
    frames[3].info["energy_frame"] = "other"
    with pytest.raises(EnergyFrameError, match="labelled at 2 levels of theory .other, toy."):
        finetune(PairForceField(), frames, RECIPE, tmp_path, 0)
    with pytest.raises(EnergyFrameError):
        errors(frames, PairForceField().load())
    del frames[3].info["energy_frame"]
    with pytest.raises(StructureError, match="1 of 24 frames have no energy_frame .i00-r0/f3."):
        finetune(PairForceField(), frames, RECIPE, tmp_path, 0)


def test_a_channel_without_labels_is_trained_without(tmp_path):
    recipe = replace(RECIPE, stress_prefactor=[0.0, 0.0])
    fit = finetune(PairForceField(), without_stress(labelled()), recipe, tmp_path, 0)
    assert not fit.kept_base
    assert not [key for key in fit.metrics if "stress" in key]
    energies = labelled()
    for atoms in energies:
        del atoms.info["label_energy"]
    fit = finetune(PairForceField(), energies, replace(RECIPE, energy_prefactor=[0.0, 0.0]), tmp_path / "forces", 0)
    assert not fit.kept_base and "finetune/valid_force_rmse_mev_per_ang" in fit.metrics


def test_an_outlier_of_1000_ev_per_angstrom_is_reported_excluded_and_counted(tmp_path, caplog):
    frames = labelled()
    for atoms in frames:
        atoms.arrays["label_forces"] = atoms.arrays["label_forces"].clip(-5, 5)
    frames[0].arrays["label_forces"][0] = [1e3, 0, 0]
    frames[5].arrays["label_forces"][0, 0] = np.nan
    fit = finetune(PairForceField(), frames, replace(RECIPE, max_force=Recipe().max_force), tmp_path, seed=0)
    assert fit.metrics["finetune/n_outliers"] == 2
    assert "2 of 24 frames with forces above training.max_force = 50 eV/A left out, the largest is" in caplog.text
    assert "i00-r0/f0, i00-r1/f1" in caplog.text
    with pytest.raises(
        StructureError, match="all 1 frames have forces above .* = 50 eV/A, the largest is 1e.03: check"
    ):
        without_outliers(frames[:1], 50.0)


def test_batch_size():
    frames = labelled(12)
    mean = np.mean([len(atoms) for atoms in frames])
    size = batch_structures("auto", frames, 1)
    assert (size - 1) * mean < 32 <= size * mean
    assert batch_structures("auto", frames[:3], 2) == 1
    assert batch_structures(48, frames, 1) == 48
    with pytest.raises(
        ConfigError, match="training.batch_size = 49 is more than the 48 training frames.*set it to auto"
    ):
        batch_structures(49, frames, 1)
    with pytest.raises(ConfigError, match="training.batch_size = 25 on each of 2 devices is more than the 48"):
        batch_structures(25, frames, 2)


def test_a_training_set_smaller_than_a_batch(tmp_path):
    with pytest.raises(ConfigError, match="training.batch_size = 40 is more than the 16 training frames that are left"):
        finetune(PairForceField(), labelled(), replace(RECIPE, batch_size=40), tmp_path, 0)
    fit = finetune(PairForceField(), labelled(3), replace(RECIPE, batch_size="auto", epochs=1), tmp_path, 0)
    assert fit.metrics["finetune/n_epochs"] == 1


def test_batches_show_every_frame_once_per_epoch():
    frames = labelled(5, 2)
    batches = Batches(frames, 4, seed=3)
    assert len(batches) == 3
    ids = [[atoms.info["id"] for step in range(3 * e, 3 * e + 3) for atoms in batches.at(step)] for e in (0, 1)]
    assert sorted(ids[0]) == sorted(ids[1]) == sorted(atoms.info["id"] for atoms in frames)
    assert ids[0] != ids[1]
    shared = Batches(frames, 2, seed=3, n_shares=2)
    parts = [atoms.info["id"] for step in range(3) for share in (0, 1) for atoms in shared.at(step, share)]
    assert sorted(parts) == sorted(ids[0])


def test_replayed_frames_are_the_fraction_asked_for_and_take_turns():
    frames, general = labelled(5, 2), labelled(7, 1, seed=1)
    batches = Batches(frames, 4, 3, replayed=general, replay_fraction=0.3)
    steps = [batches.at(step) for step in range(7 * len(batches))]
    ours = {id(atoms) for atoms in frames}
    replayed = [atoms for step in steps for atoms in step if id(atoms) not in ours]
    assert len(replayed) / sum(map(len, steps)) == pytest.approx(0.3, abs=0.01)
    assert all(1 <= sum(id(atoms) not in ours for atoms in step) <= 2 for step in steps if len(step) > 4)
    assert {id(atoms) for atoms in replayed[:7]} == {id(atoms) for atoms in replayed[7:14]} == set(map(id, general))
    assert [list(map(id, batches.at(k))) for k in (0, 20, 5)] == [list(map(id, steps[k])) for k in (0, 20, 5)]
    shared = Batches(frames, 2, 3, 2, general, 0.3)
    assert sorted(map(id, shared.at(2, 0) + shared.at(2, 1))) == sorted(map(id, steps[2]))


def test_shifts():
    frames = labelled(12)
    truth = {3: 1.5, 15: -2.0, 16: 0.25}
    differences = np.array([sum(truth[z] for z in atoms.numbers) for atoms in frames])
    assert fit_shifts(frames, differences) == pytest.approx(truth)
    degenerate = [Atoms("Li2S"), Atoms("Li4S2")]
    assert fit_shifts(degenerate, np.array([3.0, 6.0])) == pytest.approx({3: 1.2, 16: 0.6})


def test_losses_are_per_atom_and_virial():
    frames = labelled(3, 1)
    potential = PairForceField().load()
    batch = potential.collate(frames)
    labels = targets(frames, potential.width)
    losses = channel_losses(potential(batch), labels, batch.n_atoms, replace(RECIPE, criterion="mse"))
    measured = errors(frames, potential)
    assert float(losses["energy"]) ** 0.5 == pytest.approx(measured["energy_rmse_mev_per_atom"] / 1000, rel=1e-4)
    assert float(losses["force"]) ** 0.5 == pytest.approx(measured["force_rmse_mev_per_ang"] / 1000, rel=1e-4)
    result = predict(frames, potential)
    virials = [
        (stress - atoms.info["label_stress"]) * atoms.cell.volume / len(atoms)
        for stress, atoms in zip(result.stresses, frames, strict=True)
    ]
    assert float(losses["stress"]) == pytest.approx(np.mean(np.square(virials)), rel=1e-4)
    losses = channel_losses(potential(batch), labels, batch.n_atoms, replace(RECIPE, criterion="mse", loss="stress"))
    assert float(losses["stress"]) ** 0.5 == pytest.approx(measured["stress_rmse_mev_per_ang3"] / 1000, rel=1e-4)


def random_batch(n_atoms: list[int]) -> tuple[Prediction, Targets, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    counts = torch.tensor(n_atoms)
    n = len(counts)
    prediction = Prediction(random(n) * counts, random(sum(n_atoms), 3), random(n, 3, 3))
    return prediction, Targets(random(n), random(sum(n_atoms), 3), random(n, 3, 3), 10 + random(n)), counts


DEEPMD = replace(
    RECIPE, loss="deepmd", criterion="mse", energy_prefactor=[0.2, 20], force_prefactor=[100, 60],
    stress_prefactor=[0.02, 1], prefactors_follow="learning_rate",
)  # fmt: skip


@pytest.mark.parametrize("n_atoms", [[5, 5, 5], [3, 5, 4]], ids=["equal", "padded"])
@pytest.mark.parametrize("progress", [0.0, 0.4])
def test_deepmd_loss_is_deepmd_kits(n_atoms, progress):
    import_deepmd()
    from deepmd.pt.loss.ener import EnergyStdLoss

    prediction, labels, counts = random_batch(n_atoms)
    rate = 1e-3 * (1 - progress)
    losses = channel_losses(prediction, labels, counts, DEEPMD)
    prefactors = Schedule(DEEPMD, 10).prefactors(5, DEEPMD.learning_rate * rate / 1e-3)
    ours = sum(prefactors[channel] * losses[channel] for channel in prefactors)

    n, longest = len(n_atoms), max(n_atoms)
    mask = (torch.arange(longest)[None] < counts[:, None]).double()

    def padded(forces: torch.Tensor) -> torch.Tensor:
        filled = torch.zeros(n, longest, 3, dtype=torch.float64)
        filled[mask.bool()] = forces
        return filled

    volumes = (labels.volumes_per_atom * counts)[:, None, None]
    predicted = {
        "energy": prediction.energies[:, None],
        "force": padded(prediction.forces),
        "virial": -(prediction.stresses * volumes).reshape(n, 9),
        "mask": mask,
    }
    wanted = {
        "energy": (labels.energies * counts)[:, None], "find_energy": 1.0,
        "force": padded(labels.forces), "find_force": 1.0,
        "virial": -(labels.stresses * volumes).reshape(n, 9), "find_virial": 1.0,
    }  # fmt: skip
    if len(set(n_atoms)) == 1:
        del predicted["mask"]
    theirs = EnergyStdLoss(
        starter_learning_rate=1e-3, start_pref_e=0.2, limit_pref_e=20, start_pref_f=100, limit_pref_f=60,
        start_pref_v=0.02, limit_pref_v=1,
    )  # fmt: skip
    theirs._inject_atom_mask = lambda found, given: found
    _, loss, _ = theirs({}, lambda: predicted, wanted, natoms=longest, learning_rate=rate)
    assert float(ours) == pytest.approx(float(loss), rel=1e-12)
