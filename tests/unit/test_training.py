"""Fine-tuning with a small pair potential: fast, exact, and killed at every step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from matscipy.neighbours import neighbour_list

from chemloop.protocols import Batch, Prediction
from chemloop.runtime.errors import ConfigError, EnergyFrameError, StructureError
from chemloop.training.checks import FitCheckFailed
from chemloop.training.data import Batches, split, split_by_parent, targets
from chemloop.training.evaluation import errors, fit_shifts, predict
from chemloop.training.finetune import Fit, finetune
from chemloop.training.loss import channel_losses
from chemloop.training.recipe import Recipe
from chemloop.training.schedule import Schedule
from chemloop.training.states import newest_intact


class PairPotential(torch.nn.Module):
    """Energy: constants per element, and w_i w_j exp(-(r / width)^2) for every pair. Nothing but the contract."""

    cutoff = 4.0

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.strength = torch.nn.Parameter(torch.ones(20, dtype=dtype))
        self.width = torch.nn.Parameter(torch.tensor(1.5, dtype=dtype))
        self.constants = torch.nn.Parameter(torch.zeros(20, dtype=dtype), requires_grad=False)
        self.eval()

    def collate(self, structures: Sequence[Atoms]) -> Batch:
        offset, found, owners = 0, [], []
        for number, atoms in enumerate(structures):
            first, second, vectors = neighbour_list("ijD", atoms, self.cutoff)
            found.append((first + offset, second + offset, vectors))
            owners.append(np.full(len(atoms), number))
            offset += len(atoms)
        first, second, vectors = (np.concatenate(parts) for parts in zip(*found, strict=True))
        volumes = torch.tensor([atoms.cell.volume for atoms in structures], dtype=self.width.dtype)
        pairs = torch.as_tensor(first), torch.as_tensor(second), torch.as_tensor(vectors, dtype=self.width.dtype)
        numbers = torch.as_tensor(np.concatenate([atoms.numbers for atoms in structures]))
        n_atoms = torch.tensor([len(atoms) for atoms in structures])
        return Batch((*pairs, torch.as_tensor(np.concatenate(owners)), volumes), numbers, n_atoms)

    def forward(self, batch: Batch) -> Prediction:
        first, second, vectors, owners, volumes = batch.inputs
        with torch.enable_grad():
            vectors = vectors.clone().requires_grad_()
            pair = self.strength[batch.numbers[first]] * self.strength[batch.numbers[second]] / 2
            pair = pair * torch.exp(-(vectors**2).sum(1) / self.width**2)
            energies = torch.zeros_like(volumes).index_add(0, owners[first], pair)
            (gradient,) = torch.autograd.grad(energies.sum(), vectors, create_graph=self.training)
            forces = gradient.new_zeros(len(owners), 3).index_add(0, first, gradient).index_add(0, second, -gradient)
            virials = vectors[:, :, None] * gradient[:, None, :]
            stresses = gradient.new_zeros(len(volumes), 3, 3).index_add(0, owners[first], virials)
            energies = energies.index_add(0, owners, self.constants[batch.numbers])
        return Prediction(energies, forces, stresses / volumes[:, None, None])

    def shift_energies(self, shifts: dict[int, float]) -> None:
        for number, shift in shifts.items():
            self.constants.data[number] += shift

    def save(self, path: Path) -> None:
        torch.save(self.state_dict(), path)


@dataclass
class PairForceField:
    checkpoint: str = ""

    def load(self, device: str = "cpu", dtype: str = "float32") -> PairPotential:
        potential = PairPotential(getattr(torch, dtype))
        if self.checkpoint:
            potential.load_state_dict(torch.load(self.checkpoint, weights_only=True))
        return potential


def labelled(n_parents: int = 6, n_each: int = 4, seed: int = 0, shift: float = 1.0) -> list[Atoms]:
    """Random Li-P-S cells labelled by the toy potential with other weights and constants."""
    rng = np.random.default_rng(seed)
    teacher = PairForceField().load()
    with torch.no_grad():
        teacher.strength[[3, 15, 16]] = torch.tensor([0.7, 1.5, 1.2])
        teacher.width += 0.1
        teacher.constants[[3, 15, 16]] = shift * torch.tensor([-1.0, 2.0, -3.0])
    frames = []
    for parent in range(n_parents):
        numbers = rng.choice([3, 15, 16], size=rng.integers(3, 7))
        for k in range(n_each):
            atoms = Atoms(numbers, scaled_positions=rng.random((len(numbers), 3)), cell=np.eye(3) * 5, pbc=True)
            atoms.info |= {"id": f"i00-r{parent}/f{k}", "parent": f"i00-r{parent}", "energy_frame": "toy"}
            frames.append(atoms)
    predictions = predict(frames, teacher)
    for atoms, energy, forces, stress in zip(frames, *predictions, strict=True):
        atoms.info |= {"label_energy": float(energy), "label_stress": stress}
        atoms.arrays["label_forces"] = forces
    return frames


RECIPE = Recipe(valid_by="parent", 
    epochs=4, batch_size=4, learning_rate=0.02, schedule="plateau", decay_epochs=1, ema_decay=0.5, valid_fraction=0.2,
    save_every_steps=2, max_force=1e3, early_stopping_patience=3, criterion="mse",
)  # fmt: skip


def predictions_of(fit: Fit, frames: list[Atoms]) -> np.ndarray:
    result = predict(frames, PairForceField(fit.checkpoint).load(), len(frames))
    return np.concatenate([result.energies, np.concatenate(result.forces).ravel(), result.stresses.ravel()])


# --- recipe and schedule


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "training.epochs = 0: must be 1 or above"),
        ({"batch_size": -1}, "training.batch_size = -1"),
        ({"schedule": "linear"}, "training.schedule = linear: must be one of constant, exponential"),
        ({"criterion": "mae"}, "training.criterion = mae: must be one of mse, huber"),
        ({"start_from": "best"}, "training.start_from = best: must be one of base, previous"),
        ({"learning_rate": 0.0}, "training.learning_rate = 0.0: must be above 0"),
        ({"stop_learning_rate": 1.0}, "training.stop_learning_rate = 1.0: must not be above training.learning_rate"),
        ({"ema_decay": 1.0}, "training.ema_decay = 1.0"),
        ({"valid_fraction": 1.0}, "training.valid_fraction = 1.0: must be between 0 and 1"),
        ({"max_minutes": 0.0}, "training.max_minutes = 0.0: must be null or above 0"),
        ({"energy_prefactor": [1.0]}, "training.energy_prefactor = .1.0.: must be two numbers"),
        (dict.fromkeys(["energy_prefactor", "force_prefactor", "stress_prefactor"], [0.0, 0.0]), "must be above 0"),
    ],
)
def test_bad_recipe(values, message):
    with pytest.raises(ConfigError, match=message):
        Recipe(**values)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "conf" / "training").glob("*.yaml")), ids=str)
def test_recipes_in_conf(path, compose_config):
    from chemloop.config import load

    load(compose_config(f"training={path.stem}"))


def test_exponential_schedule_is_deepmd_kits():
    recipe = Recipe(epochs=50, schedule="exponential", learning_rate=1e-3, stop_learning_rate=3e-5, decay_steps=2000)
    schedule = Schedule(recipe, steps_per_epoch=400)
    rate = (3e-5 / 1e-3) ** (2000 / 20000)
    for step in (0, 1999, 2000, 7777, 19999):
        assert schedule.learning_rate(step) == pytest.approx(1e-3 * rate ** (step // 2000))
    smooth = Schedule(replace(recipe, decay_steps=0), 400)
    assert smooth.learning_rate(10000) == pytest.approx((1e-3 * 3e-5) ** 0.5)
    too_long = Schedule(replace(recipe, decay_steps=10**6), 400)
    assert too_long.learning_rate(19999) < 4e-5


def test_other_schedules():
    recipe = Recipe(epochs=10, learning_rate=1e-2, stop_learning_rate=1e-4, decay_factor=0.5, decay_epochs=3)
    cosine = Schedule(recipe, 7)
    assert cosine.learning_rate(0) == pytest.approx(1e-2)
    assert cosine.learning_rate(35) == pytest.approx((1e-2 + 1e-4) / 2)
    assert cosine.learning_rate(70) == pytest.approx(1e-4)
    step = Schedule(replace(recipe, schedule="step"), 7)
    assert [step.learning_rate(k) for k in (0, 20, 21, 42)] == pytest.approx([1e-2, 1e-2, 5e-3, 2.5e-3])
    assert Schedule(replace(recipe, schedule="constant"), 7).learning_rate(69) == 1e-2


def test_prefactors_move():
    recipe = Recipe(
        epochs=10, learning_rate=1e-3, stress_prefactor=[0.0, 0.0], energy_prefactor=[0.2, 20.0],
        force_prefactor=[100.0, 60.0],
    )  # fmt: skip
    by_step = Schedule(recipe, 10)
    assert by_step.prefactors(25, 1.0) == pytest.approx({"energy": 5.15, "force": 90.0})
    by_rate = Schedule(replace(recipe, prefactors_follow="learning_rate"), 10)
    assert by_rate.prefactors(99, 1e-4) == pytest.approx({"energy": 20 - 1.98, "force": 64.0})


# --- data and loss


def test_split_keeps_parents_together_and_what_is_held_out():
    frames = labelled(20, 3)
    train, valid = split_by_parent(frames, 0.2)
    assert len(train) + len(valid) == len(frames) and 6 <= len(valid) <= 18
    assert not {atoms.info["parent"] for atoms in train} & {atoms.info["parent"] for atoms in valid}
    held = {atoms.info["parent"] for atoms in valid}
    more = frames + [relabel(atoms, f"i01-{atoms.info['parent']}") for atoms in frames]
    held_later = {atoms.info["parent"] for atoms in split_by_parent(more, 0.2)[1]}
    assert len(held & held_later) >= len(held) - 1, "a growing set keeps what it holds out"


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
    assert split(frames, 0.2, "parent") == split_by_parent(frames, 0.2)


def test_split_needs_two_parents():
    with pytest.raises(StructureError, match="4 frames of 1 parent structure .i00-r0. cannot be split"):
        split_by_parent(labelled(1), 0.2)


def test_frames_that_cannot_train(tmp_path):
    frames = labelled()
    with pytest.raises(StructureError, match="no labelled frames"):
        finetune(PairForceField(), [], RECIPE, tmp_path, 0)
    without = frames[1].copy()
    del without.info["label_stress"], without.arrays["label_forces"]
    with pytest.raises(StructureError, match="i00-r0/f1 has no label_stress, label_forces"):
        finetune(PairForceField(), [frames[0], without], RECIPE, tmp_path, 0)
    frames[3].info["energy_frame"] = "other"
    with pytest.raises(EnergyFrameError, match="labelled at 2 levels of theory .other, toy."):
        finetune(PairForceField(), frames, RECIPE, tmp_path, 0)
    with pytest.raises(EnergyFrameError):
        errors(frames, PairForceField().load())


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


# --- fits


def test_fit_learns_and_repeats(tmp_path):
    frames, test = labelled(), labelled(seed=1)
    before = errors(test, PairForceField().load())
    recipe = replace(RECIPE, epochs=40, early_stopping_patience=0, schedule="cosine")
    fit = finetune(PairForceField(), frames, recipe, tmp_path / "one", seed=0)
    after = errors(test, PairForceField(fit.checkpoint).load())
    assert not fit.kept_base
    assert all(after[key] < 0.6 * before[key] for key in before)
    metrics = fit.metrics
    assert metrics["finetune/valid_force_rmse_mev_per_ang"] < metrics["finetune/valid_force_rmse_before_mev_per_ang"]
    assert metrics["finetune/n_frames_fitted"] + metrics["finetune/n_frames_valid"] == len(frames)
    rows = [json.loads(line) for line in fit.curves.read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(40))
    assert all(np.isfinite(value) for row in rows for value in row.values())
    assert json.loads((tmp_path / "one/progress.json").read_text())["total"] == 40 * len(
        Batches(frames, 4, 0).frames[: int(metrics["finetune/n_frames_fitted"]) // 4]
    )
    again = finetune(PairForceField(), frames, recipe, tmp_path / "two", seed=0)
    assert np.array_equal(predictions_of(fit, test), predictions_of(again, test))
    other = finetune(PairForceField(), frames, recipe, tmp_path / "three", seed=1)
    assert not np.array_equal(predictions_of(fit, test), predictions_of(other, test))


class Killed(BaseException):
    pass


def killed_at(step: int):
    def progress(done: int, total: int) -> None:
        if done == step:
            raise Killed

    return progress


def test_killed_at_any_step_it_ends_the_same(tmp_path):
    frames = labelled(4, 4)
    recipe = replace(RECIPE, epochs=3)
    whole = finetune(PairForceField(), frames, recipe, tmp_path / "whole", seed=0)
    n_steps = json.loads((tmp_path / "whole/progress.json").read_text())["total"]
    assert n_steps == 9
    for step in range(1, n_steps + 1):
        workdir = tmp_path / str(step)
        with pytest.raises(Killed):
            finetune(PairForceField(), frames, recipe, workdir, seed=0, progress=killed_at(step))
        steps: list[int] = []
        resumed = finetune(
            PairForceField(), frames, recipe, workdir, 0, progress=lambda done, total, steps=steps: steps.append(done)
        )
        assert steps[0] > step - 2 and steps[-1] == n_steps, "it continues, from at most save_every_steps before"
        assert np.array_equal(predictions_of(whole, frames), predictions_of(resumed, frames)), step
        assert resumed.curves.read_text() == whole.curves.read_text(), step
        assert resumed.metrics == whole.metrics


def test_early_stopping_holds_after_a_kill(tmp_path):
    frames = labelled(4, 4)
    recipe = replace(RECIPE, epochs=30, learning_rate=0.5, early_stopping_patience=2)
    fit = finetune(PairForceField(), frames, recipe, tmp_path, seed=0)
    assert fit.metrics["finetune/n_epochs"] < 30
    again = finetune(PairForceField(), frames, recipe, tmp_path, seed=0, progress=killed_at(10**6))
    assert again == fit


def test_kill_minus_nine_and_a_truncated_state(tmp_path):
    frames = labelled(4, 4)
    recipe = replace(RECIPE, epochs=3)
    whole = finetune(PairForceField(), frames, recipe, tmp_path / "whole", seed=0)
    killed = subprocess.run([sys.executable, __file__, str(tmp_path / "killed"), "8"], env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    (states,) = (tmp_path / "killed").glob("states-*")
    newest = newest_intact(states)
    assert newest is not None
    newest.write_bytes(newest.read_bytes()[:-100])
    (states / f".{newest.name}.half-written").write_bytes(b"x")
    resumed = finetune(PairForceField(), frames, recipe, tmp_path / "killed", seed=0)
    assert np.array_equal(predictions_of(whole, frames), predictions_of(resumed, frames))
    assert resumed.curves.read_text() == whole.curves.read_text()


def test_other_input_starts_anew(tmp_path):
    frames = labelled(4, 4)
    finetune(PairForceField(), frames, RECIPE, tmp_path, seed=0)
    fresh = finetune(PairForceField(), frames[:-1], RECIPE, tmp_path / "fresh", seed=0)
    reused = finetune(PairForceField(), frames[:-1], RECIPE, tmp_path, seed=0)
    assert np.array_equal(predictions_of(fresh, frames), predictions_of(reused, frames))


# --- what is kept, and the checks


def test_worse_weights_leave_the_base_with_shifted_energies(tmp_path):
    frames = labelled()
    recipe = replace(RECIPE, epochs=1, learning_rate=100.0, ema_decay=0.0)
    fit = finetune(PairForceField(), frames, recipe, tmp_path, seed=0)
    assert fit.kept_base and fit.metrics["finetune/best_epoch"] == -1
    base, kept = predict(frames, PairForceField().load()), predict(frames, PairForceField(fit.checkpoint).load())
    assert np.allclose(np.concatenate(base.forces), np.concatenate(kept.forces), atol=1e-6)
    assert (
        errors(frames, PairForceField(fit.checkpoint).load())["energy_rmse_mev_per_atom"]
        < errors(frames, PairForceField().load())["energy_rmse_mev_per_atom"]
    )


def test_a_base_that_nothing_improves_is_returned_as_it_is(tmp_path):
    frames = labelled()
    for atoms, energy, forces, stress in zip(frames, *predict(frames, PairForceField().load()), strict=True):
        atoms.info |= {"label_energy": float(energy), "label_stress": stress}
        atoms.arrays["label_forces"] = forces
    base = PairForceField()
    base.load().save(tmp_path / "base.pt")
    fit = finetune(PairForceField(str(tmp_path / "base.pt")), frames, RECIPE, tmp_path / "fit", seed=0)
    assert fit.kept_base and fit.checkpoint in (str(tmp_path / "base.pt"), str(tmp_path / "fit/finetuned.pt"))
    assert errors(frames, PairForceField(fit.checkpoint).load())["energy_rmse_mev_per_atom"] < 1e-2


def test_a_base_that_loads_differently_each_time_is_refused(tmp_path):
    class Unstable(PairForceField):
        def load(self, device="cpu", dtype="float32"):
            potential = super().load(device, dtype)
            with torch.no_grad():
                potential.width += np.random.default_rng().random()
            return potential

    with pytest.raises(FitCheckFailed, match="zero training steps change the base model: the largest relative"):
        finetune(Unstable(), labelled(), RECIPE, tmp_path, seed=0)


def test_a_checkpoint_that_reloads_differently_is_refused(tmp_path):
    class Forgetful(PairForceField):
        def load(self, device="cpu", dtype="float32"):
            potential = super().load(device, dtype)
            if self.checkpoint:
                with torch.no_grad():
                    potential.width += 0.01
            return potential

    with pytest.raises(FitCheckFailed, match="finetuned.pt does not reload to the predictions"):
        finetune(Forgetful(), labelled(), RECIPE, tmp_path, seed=0)


def test_a_loss_that_is_not_finite_keeps_the_last_good_weights(tmp_path, caplog):
    recipe = replace(RECIPE, epochs=5, schedule="constant", learning_rate=1e30, gradient_clip=0.0, ema_decay=0.0)
    fit = finetune(PairForceField(), labelled(), recipe, tmp_path, seed=0)
    assert fit.kept_base
    assert "the loss was nan in step 1 on frames i00-r" in caplog.text


def test_outliers_are_left_out_and_counted(tmp_path, caplog):
    frames = labelled()
    frames[0].arrays["label_forces"][0, 0] = 1e4
    fit = finetune(PairForceField(), frames, RECIPE, tmp_path, seed=0)
    assert fit.metrics["finetune/n_outliers"] == 1
    assert "1 frames with forces above 1000 eV/A left out" in caplog.text


def test_only_the_weights_named_move(tmp_path):
    frames = labelled()
    recipe = replace(RECIPE, train_only=["strength"], learning_rate=1e-3)
    fit = finetune(PairForceField(), frames, recipe, tmp_path, seed=0)
    potential = PairForceField(fit.checkpoint).load()
    assert float(potential.width) == 1.5 and not torch.equal(potential.strength, torch.ones(20))
    with pytest.raises(ConfigError, match="no weight begins with head; there are strength"):
        finetune(PairForceField(), frames, replace(recipe, train_only=["head"]), tmp_path, seed=0)


if __name__ == "__main__":
    kill_step = int(sys.argv[2])

    def kill(done: int, total: int) -> None:
        if done == kill_step:
            os.kill(os.getpid(), signal.SIGKILL)

    finetune(PairForceField(), labelled(4, 4), replace(RECIPE, epochs=3), Path(sys.argv[1]), 0, progress=kill)
