"""Fits whose loss or gradient stops being a number: what is kept, what is said, how their items end."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import torch
from ase import Atoms

from chemloop.physics.structures import write_structures
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.item import Item
from chemloop.runtime.worker import run_item
from chemloop.stages.curve_point import PREDICTIONS, RANKING, Point, base_item, errors_on, point_item, ranking_item
from chemloop.stages.curve_pool import Sweep, write_arrays
from chemloop.stages.finetune import CURVES, predictions
from chemloop.stages.stage import BASE, METRICS
from chemloop.training.finetune import finetune
from chemloop.training.recipe import Recipe
from chemloop.workflow.learning_curve import SHARED, LearningCurve
from tests.toy_potential import RECIPE, PairForceField, PairPotential, labelled, predictions_of


def planned_point(tmp_path, recipe: Recipe, n_train: int = 12) -> Item:
    """A point of a learning curve of the toy, whose base and ranking are done."""
    write_structures(tmp_path / "pool.extxyz", labelled())
    sweep = Sweep(tmp_path / "sweep")
    sweep.begin(tmp_path / "pool.extxyz", {key: getattr(LearningCurve(max_force=1e3), key) for key in SHARED})
    base, ranking = base_item(sweep, "toy").folder, ranking_item(sweep, "random", 0).folder
    for folder in (base, ranking):
        folder.mkdir(parents=True)
    n_frames, test = sweep.record["n_train"], sweep.frames("test")
    write_arrays(ranking / RANKING, indices=np.arange(n_frames), entropies=np.arange(n_frames + 1.0))
    predicted = predictions(test, PairForceField(), "cpu")
    write_arrays(base / PREDICTIONS, **predicted)
    write_json(base / BASE, {"checkpoint": "", "notice": None, "errors": errors_on(test, predicted)})
    item = point_item(sweep, "toy", "random", n_train, 0)
    item.folder.mkdir(parents=True)
    item.plan(
        {
            "stage": f"{Point.__module__}.Point",
            "name": "toy",
            "model": {"_target_": "tests.toy_potential.PairForceField"},
            "training": {"_target_": "chemloop.training.recipe.Recipe", **asdict(recipe)},
            "selection": "random",
            "device": "cpu",
            "n_train": n_train,
            "index": 0,
            "seed": 0,
        }
    )
    return item


def test_a_worker_whose_fit_diverges_in_its_first_epoch_ends_the_item_with_the_base(tmp_path):
    recipe = replace(RECIPE, epochs=5, schedule="constant", learning_rate=1e30, gradient_clip=0.0, ema_decay=0.0)
    item = planned_point(tmp_path, recipe)
    run_item(item)
    assert item.is_done, (item.folder / "log.out").read_text()
    metrics = read_json(item.folder / METRICS)
    assert metrics["kept_base"] == 1 and metrics["n_epochs"] == 0
    assert (item.folder / CURVES).read_text() == ""


def test_two_processes_keep_the_last_good_weights(tmp_path, caplog):
    first = replace(RECIPE, epochs=2, schedule="constant", save_every_steps=1000, early_stopping_patience=0)
    recipe = replace(first, swa_epochs=3, swa_learning_rate=1e30, gradient_clip=0.0, batch_size=2, devices=2)
    fit = finetune(PairForceField(), labelled(), recipe, tmp_path, seed=0)
    assert "the loss was nan in epoch 3" in caplog.text
    assert not fit.kept_base and fit.metrics["finetune/best_epoch"] == 1


class Brittle(PairPotential):
    """Its derivative by the weights, and nothing else, is no number for the frame named."""

    is_broken = False

    def collate(self, structures):
        self.is_broken = self.training and any(atoms.info.get("id") == "i00-r2/f1" for atoms in structures)
        return super().collate(structures)

    def forward(self, batch):
        prediction = super().forward(batch)
        if not self.is_broken:
            return prediction
        return prediction._replace(energies=prediction.energies + torch.sqrt(self.width - self.width))


class BrittleForceField(PairForceField):
    def load(self, device="cpu", dtype="float32"):
        potential = super().load(device, dtype)
        potential.__class__ = Brittle
        return potential


def test_a_gradient_that_is_not_finite_names_its_batch_and_moves_no_weight(tmp_path, caplog):
    frames: list[Atoms] = labelled()
    for gradient_clip in (0.0, 10.0):
        caplog.clear()
        workdir = tmp_path / str(gradient_clip)
        recipe = replace(RECIPE, epochs=1, gradient_clip=gradient_clip, save_every_steps=1)
        fit = finetune(BrittleForceField(), frames, recipe, workdir, seed=0)
        (message,) = [record.message for record in caplog.records if "training stopped" in record.message]
        assert "the gradient was nan in epoch 1" in message and "i00-r2/f1" in message
        assert fit.kept_base and np.isfinite(predictions_of(fit, frames)).all()
