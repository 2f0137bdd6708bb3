"""Fits that are killed: at every step, by a signal, with a damaged state, with several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chemloop.training import finetune as finetuning
from chemloop.training.finetune import finetune
from chemloop.training.states import newest_intact
from tests.toy_potential import RECIPE, Killed, PairForceField, killed_at, labelled, predictions_of

PHASES = {
    "one phase": replace(RECIPE, epochs=3),
    "weight averaging": replace(RECIPE, epochs=1, swa_epochs=2, swa_learning_rate=0.01, early_stopping_patience=0),
    "reewc": replace(
        RECIPE, epochs=3, replay="package:general", n_replay=6, replay_fraction=0.3, ewc_strength=10.0, n_fisher=2
    ),
}


@pytest.mark.parametrize("recipe", PHASES.values(), ids=PHASES)
def test_killed_at_any_step_it_ends_the_same(recipe, tmp_path):
    frames = labelled(4, 4)
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


def test_it_continues_where_constants_differ_in_the_last_bit(tmp_path, monkeypatch):
    """As on another processor, and on a GPU in every run."""
    fitted, factors = finetuning.fit_shifts, iter((1.0, 1.0 + 1e-7))

    def fit_shifts(*args):
        factor = next(factors)
        return {number: factor * shift for number, shift in fitted(*args).items()}

    monkeypatch.setattr(finetuning, "fit_shifts", fit_shifts)
    frames = labelled(4, 4)
    with pytest.raises(Killed):
        finetune(PairForceField(), frames, replace(RECIPE, epochs=3), tmp_path, seed=0, progress=killed_at(5))
    steps: list[int] = []
    finetune(PairForceField(), frames, replace(RECIPE, epochs=3), tmp_path, 0, progress=lambda n, _: steps.append(n))
    assert steps[0] > 3 and len(list(tmp_path.glob("states-*"))) == 1


@pytest.mark.parametrize("step", [2, 3])
def test_the_epoch_in_which_the_time_passes_is_finished_after_a_kill_too(step, tmp_path):
    frames, recipe = labelled(4, 4), replace(RECIPE, epochs=3, max_minutes=1e-6)
    whole = finetune(PairForceField(), frames, recipe, tmp_path / "whole", seed=0)
    assert whole.metrics["finetune/n_epochs"] == 1
    with pytest.raises(Killed):
        finetune(PairForceField(), frames, recipe, tmp_path / "killed", seed=0, progress=killed_at(step))
    resumed = finetune(PairForceField(), frames, recipe, tmp_path / "killed", seed=0)
    assert resumed.metrics == whole.metrics
    again = finetune(PairForceField(), frames, recipe, tmp_path / "killed", seed=0, progress=killed_at(10**6))
    assert again == resumed


@pytest.mark.parametrize(("interval_s", "n_states"), [(0.0, 1), (1e6, 0)])
def test_short_epochs_are_not_saved_one_by_one(interval_s, n_states, tmp_path, monkeypatch):
    monkeypatch.setattr("chemloop.training.states.SAVE_INTERVAL_S", interval_s)
    frames, recipe = labelled(4, 4), replace(RECIPE, epochs=3, save_every_steps=1000)
    with pytest.raises(Killed):
        finetune(PairForceField(), frames, recipe, tmp_path, seed=0, progress=killed_at(5))
    assert len(list(tmp_path.glob("states-*/step-*.ckpt"))) == n_states
    finetune(PairForceField(), frames, recipe, tmp_path, seed=0)
    assert max(path.name for path in tmp_path.glob("states-*/*")) == "step-000000009.ckpt"


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
    killed = subprocess.run(
        [sys.executable, "-m", "tests.unit.test_training_resume", str(tmp_path / "killed"), "8"],
        cwd=Path(__file__).parents[2],
        check=False,
    )
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


if __name__ == "__main__":
    kill_step = int(sys.argv[2])

    def kill(done: int, total: int) -> None:
        if done == kill_step:
            os.kill(os.getpid(), signal.SIGKILL)

    finetune(PairForceField(), labelled(4, 4), replace(RECIPE, epochs=3), Path(sys.argv[1]), 0, progress=kill)
