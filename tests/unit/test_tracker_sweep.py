"""Points of a learning curve in Weights & Biases."""

import json

from chemloop.config import load
from chemloop.runtime.disk import write_json
from chemloop.stages.curve_point import point_item
from chemloop.stages.curve_pool import Sweep
from chemloop.stages.finetune import CURVES
from chemloop.stages.stage import METRICS
from chemloop.workflow.learning_curve import track
from tests.unit.test_tracker_wandb import shown, the_run


def test_sweep_points_are_runs_of_one_group(tmp_path, monkeypatch, compose_config):
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = compose_config("workflow=learning_curve", "tracker=wandb")
    settings, sweep = load(config), Sweep(tmp_path / "pool_learning_curve")
    rmse = {"n_train": 250.0, "test_force_rmse_mev_per_ang": 80.0}
    for seed in (0, 1):
        item = point_item(sweep, "chgnet", "entropy", 250, seed)
        item.folder.mkdir(parents=True)
        item.plan({"name": "chgnet", "selection": "entropy", "n_train": 250, "index": seed, "seed": 12345})
        write_json(item.folder / METRICS, rmse)
        lines = [json.dumps({"epoch": k, "train_loss": 1.0 - k / 2}) for k in range(2)]
        (item.folder / CURVES).write_text("\n".join(lines) + "\n")
        track(item, sweep, settings, config)
        run = the_run(item.folder)
        assert run.group == "pool_learning_curve" and run.job_type == "learning_curve"
        assert run.config["point"] == {"model": "chgnet", "selection": "entropy", "n_train": 250, "seed": seed}
        epochs = [{"n_train": 250, "curves/epoch": k, "curves/train_loss": 1.0 - k / 2, "epoch": k + 1} for k in (0, 1)]
        errors = {f"learning_curve/{key}": value for key, value in rmse.items()}
        assert shown(run) == [*epochs, {"n_train": 250, **errors}]
        assert run.metrics["learning_curve/*"] == "n_train" and run.metrics["curves/*"] == "epoch"
    (file,) = (item.folder / "wandb").glob("offline-run-*/*.wandb")
    before = file.stat().st_mtime_ns
    track(item, sweep, settings, config)
    assert file.stat().st_mtime_ns == before, "what was shown is not shown again"
