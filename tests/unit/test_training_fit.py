"""Fits of a toy potential: what they learn, what is kept, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from chemloop.runtime.errors import ConfigError
from chemloop.training.averaging import EqualAverage
from chemloop.training.batches import Batches
from chemloop.training.checks import FitCheckFailed
from chemloop.training.evaluation import errors, predict
from chemloop.training.finetune import finetune
from chemloop.training.states import HashedCheckpointIO, newest_intact
from tests.morse import MorseForceField
from tests.toy_potential import RECIPE, PairForceField, labelled, predictions_of


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
    rng = np.random.default_rng(0)

    class Unstable(PairForceField):
        def load(self, device="cpu", dtype="float32"):
            potential = super().load(device, dtype)
            with torch.no_grad():
                potential.width += rng.random()
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


def test_a_loss_that_is_not_finite_leaves_the_base(tmp_path, caplog):
    recipe = replace(RECIPE, epochs=5, schedule="constant", learning_rate=1e30, gradient_clip=0.0, ema_decay=0.0)
    fit = finetune(PairForceField(), labelled(), recipe, tmp_path, seed=0)
    assert fit.kept_base
    assert "the loss was nan in epoch 1, step 1, on frames i00-r" in caplog.text


def test_a_loss_that_is_not_finite_keeps_the_last_good_weights_and_names_the_batch(tmp_path, caplog):
    frames = labelled()
    good = finetune(PairForceField(), frames, replace(RECIPE, epochs=2, schedule="constant"), tmp_path / "good", seed=0)

    def spoil(done: int, total: int) -> None:
        if done == total // 2:
            next(atoms for atoms in frames if atoms.info["id"] == "i00-r2/f1").info["label_energy"] = float("nan")

    recipe = replace(RECIPE, schedule="constant")
    fit = finetune(PairForceField(), frames, recipe, tmp_path / "spoilt", seed=0, progress=spoil)
    assert not fit.kept_base and fit.metrics["finetune/best_epoch"] == good.metrics["finetune/best_epoch"] == 1
    assert np.array_equal(predictions_of(fit, labelled()), predictions_of(good, labelled()))
    assert "the loss was nan in epoch 3, step 8, on frames i00-r0/f0" in caplog.text and "i00-r2/f1" in caplog.text


# --- averages, precision, devices


def test_stochastic_weight_averaging(tmp_path):
    frames, test = labelled(), labelled(seed=1)
    first = replace(RECIPE, epochs=2, learning_rate=1e-5, early_stopping_patience=0)
    recipe = replace(first, swa_epochs=18, swa_learning_rate=0.02)
    fit = finetune(PairForceField(), frames, recipe, tmp_path, seed=0)
    rows = [json.loads(line) for line in fit.curves.read_text().splitlines()]
    assert len(rows) == 20 and {row["learning_rate"] for row in rows[2:]} == {0.02}
    assert fit.metrics["finetune/best_epoch"] >= 2
    best = min(rows, key=lambda row: row["valid_score"])
    assert best["epoch"] == fit.metrics["finetune/best_epoch"]
    before = errors(test, PairForceField().load())
    after = errors(test, PairForceField(fit.checkpoint).load())
    assert all(after[key] < 0.6 * before[key] for key in before)


def test_equal_average_is_the_mean():
    weight = torch.nn.Parameter(torch.tensor([10.0]))
    average = EqualAverage([weight])
    for value in (1.0, 2.0, 6.0):
        with torch.no_grad():
            weight.fill_(value)
        average.update()
    with average.applied():
        assert float(weight.detach()) == pytest.approx(3.0)
    assert float(weight.detach()) == 6.0


def test_amsgrad_keeps_the_largest_second_moments(tmp_path):
    for optimizer, is_kept in (("amsgrad", True), ("adam", False)):
        finetune(PairForceField(), labelled(), replace(RECIPE, epochs=1, optimizer=optimizer), tmp_path / optimizer, 0)
        state = newest_intact(next((tmp_path / optimizer).glob("states-*")))
        assert state is not None
        (saved,) = HashedCheckpointIO().load_checkpoint(state)["optimizer_states"]
        assert ("max_exp_avg_sq" in saved["state"][0]) == is_kept


def test_mixed_precision(tmp_path):
    frames = labelled()
    recipe = replace(RECIPE, precision="bf16-mixed")
    fit = finetune(PairForceField(), frames, recipe, tmp_path / "mixed", seed=0)
    assert not fit.kept_base
    morse = finetune(MorseForceField(), frames, recipe, tmp_path / "morse", seed=0)
    assert next(MorseForceField(str(morse.checkpoint)).load().parameters()).dtype == torch.float32
    assert all(np.isfinite(value) for value in morse.metrics.values())


def test_two_processes_do_as_well_as_one(tmp_path):
    frames, test = labelled(), labelled(seed=1)
    recipe = replace(RECIPE, epochs=20, schedule="cosine", early_stopping_patience=0)
    one = finetune(PairForceField(), frames, recipe, tmp_path / "one", seed=0)
    # a global batch of 2 times 2 is the batch of 4
    two = finetune(PairForceField(), frames, replace(recipe, batch_size=2, devices=2), tmp_path / "two", seed=0)
    assert not two.kept_base
    assert two.metrics["finetune/best_epoch"] >= 0 and two.metrics["finetune/n_epochs"] == 20
    alone = errors(test, PairForceField(one.checkpoint).load())
    together = errors(test, PairForceField(two.checkpoint).load())
    assert all(together[key] < 1.2 * alone[key] for key in alone)
    again = finetune(PairForceField(), frames, replace(recipe, batch_size=2, devices=2), tmp_path / "two", seed=0)
    assert again == two, "it continues from the last state"


def test_two_processes_stop_at_a_loss_that_is_not_finite(tmp_path, caplog):
    recipe = replace(RECIPE, learning_rate=1e30, gradient_clip=0.0, ema_decay=0.0, batch_size=2, devices=2)
    fit = finetune(PairForceField(), labelled(), recipe, tmp_path, seed=0)
    assert fit.kept_base and "the loss was nan in epoch 1, step 1, on frames i00-r" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(("accelerator", "device"), [("gpu", "cpu"), ("auto", "cuda")])
def test_a_gpu_asked_for_that_is_not_there(accelerator, device, tmp_path):
    with pytest.raises(ConfigError, match=f"accelerator = {accelerator}, on device {device}: a GPU is asked for, and"):
        finetune(PairForceField(), labelled(), replace(RECIPE, accelerator=accelerator), tmp_path, 0, device)


def test_only_the_weights_named_move(tmp_path):
    frames = labelled()
    recipe = replace(RECIPE, train_only=["strength"], learning_rate=1e-3)
    fit = finetune(PairForceField(), frames, recipe, tmp_path, seed=0)
    potential = PairForceField(fit.checkpoint).load()
    assert float(potential.width) == 1.5 and not torch.equal(potential.strength, torch.ones(20))
    with pytest.raises(ConfigError, match="no weight begins with head; there are strength"):
        finetune(PairForceField(), frames, replace(recipe, train_only=["head"]), tmp_path, seed=0)
