"""What another seed of a learning curve changes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pytest
import torch

from chemloop.physics.structures import write_structures
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import CheckpointError
from chemloop.stages.curve_point import (
    PARITY,
    PREDICTIONS,
    RANKING,
    Point,
    base_item,
    errors_on,
    point_item,
    ranking_item,
)
from chemloop.stages.curve_pool import Sweep, write_arrays
from chemloop.stages.finetune import predictions
from chemloop.stages.stage import BASE, METRICS, checkpoint_hash
from chemloop.workflow.learning_curve import SHARED, LearningCurve
from tests.toy_potential import RECIPE, PairForceField, labelled

CHECKPOINT = "base.pt"


@dataclass
class SeededForceField(PairForceField):
    """Its weights from scratch follow from a seed."""

    checkpoint: str | None = None
    architecture: dict = field(default_factory=lambda: {"seed": 0})

    def load(self, device="cpu", dtype="float32"):
        potential = super().load(device, dtype)
        if self.checkpoint is None:
            generator = torch.Generator().manual_seed(self.architecture["seed"])
            potential.strength.data += 0.5 * torch.rand(potential.strength.shape, generator=generator)
        return potential


@pytest.mark.parametrize("is_random", [True, False], ids=["random", "trained"])
def test_a_seed_brings_other_random_weights_but_no_other_trained_ones(is_random, tmp_path):
    base = SeededForceField()
    if not is_random:
        base.load().save(tmp_path / CHECKPOINT)
        base = SeededForceField(str(tmp_path / CHECKPOINT))
    write_structures(tmp_path / "pool.extxyz", labelled())
    sweep = Sweep(tmp_path / "sweep")
    sweep.begin(tmp_path / "pool.extxyz", {key: getattr(LearningCurve(max_force=1e3), key) for key in SHARED})
    write_base(sweep, base)
    before = [point(sweep, seed) for seed in (0, 1)]
    test = sweep.frames("test")
    for seed, found in enumerate(before):
        expected = replace(base, architecture={"seed": seed})
        np.testing.assert_allclose(found, predictions(test, expected, "cpu")["energy"], rtol=1e-5)
    assert np.allclose(*before) != is_random


def test_a_base_that_was_written_over_between_two_points_is_noticed(tmp_path):
    SeededForceField().load().save(tmp_path / CHECKPOINT)
    base = SeededForceField(str(tmp_path / CHECKPOINT))
    write_structures(tmp_path / "pool.extxyz", labelled())
    sweep = Sweep(tmp_path / "sweep")
    sweep.begin(tmp_path / "pool.extxyz", {key: getattr(LearningCurve(max_force=1e3), key) for key in SHARED})
    write_base(sweep, base)
    point(sweep, 0)
    SeededForceField(architecture={"seed": 5}).load().save(tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointError, match=f"{CHECKPOINT} has changed since it was first used here"):
        point(sweep, 1)


def write_base(sweep: Sweep, base: SeededForceField) -> None:
    base_folder, ranking = base_item(sweep, "toy").folder, ranking_item(sweep, "entropy", 0).folder
    base_folder.mkdir(parents=True)
    ranking.mkdir(parents=True)
    n_frames = sweep.record["n_train"]
    write_arrays(ranking / RANKING, indices=np.arange(n_frames), entropies=np.arange(n_frames + 1.0))
    test = sweep.frames("test")
    predicted = predictions(test, base, "cpu")
    write_arrays(base_folder / PREDICTIONS, **predicted)
    record = {"checkpoint": base.checkpoint, "sha256": checkpoint_hash(base.checkpoint), "notice": None}
    write_json(base_folder / BASE, {**record, "errors": errors_on(test, predicted)})


def point(sweep: Sweep, seed: int) -> np.ndarray:
    """Energies (eV/atom) of the test frames before the fit of a point, whose errors are those of its metrics."""
    item = point_item(sweep, "toy", "entropy", 12, seed)
    item.folder.mkdir(parents=True)
    task = {"name": "toy", "selection": "entropy", "device": "cpu", "n_train": 12, "index": seed, "seed": seed}
    model = {"_target_": f"{__name__}.SeededForceField", "architecture": {"seed": 0}}
    training = {"_target_": "chemloop.training.recipe.Recipe", **asdict(replace(RECIPE, epochs=1))}
    item.plan({"stage": f"{Point.__module__}.Point", **task, "model": model, "training": training})
    Point().run(item)
    with np.load(item.folder / PARITY) as arrays:
        energies, labels = arrays["before_energy"], arrays["label_energy"]
    error = read_json(item.folder / METRICS)["base_test_energy_rmse_mev_per_atom"]
    assert error == pytest.approx(1000 * np.sqrt(np.mean((energies - labels) ** 2)), rel=1e-4)
    return energies
