"""What the workers of a learning curve do: descriptors and rankings once per sweep, the base once per model, points."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from chemloop.physics.entropy_series import entropy_curve
from chemloop.protocols import ForceField
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import ConfigError
from chemloop.runtime.item import Item
from chemloop.selector.entropy import MODES
from chemloop.selector.random import RandomSelector
from chemloop.stages.curve_pool import Sweep, write_arrays
from chemloop.stages.finetune import CURVES, N_PARITY, UNITS, labels, predictions
from chemloop.stages.stage import BASE, METRICS, check_unchanged, checkpoint_hash, load_or_begin_untrained
from chemloop.training.recipe import Recipe

SELECTIONS = ("entropy", "random")
ENVIRONMENTS = "environments.npz"
RANKING = "ranking.npz"
PREDICTIONS = "predictions.npz"
PARITY = "parity.npz"
WINDOW = 0.1
"""Of the frames; dH/dN is what the last tenth of them added, as in `physics.entropy_series.entropy_growth`."""
CLOCK_INTERVAL_S = 2.0


def sweep_of(item: Item) -> Sweep:
    """All items of a sweep lie two folders below it."""
    return Sweep(item.folder.parents[1])


def environments_item(sweep: Sweep) -> Item:
    return Item(sweep.folder / "pool" / "environments")


def ranking_item(sweep: Sweep, selection: str, seed: int) -> Item:
    """The ranking by entropy draws nothing at random, so it is the same for all seeds."""
    return Item(sweep.folder / "rankings" / (selection if selection == "entropy" else f"{selection}_s{seed}"))


def base_item(sweep: Sweep, model: str) -> Item:
    return Item(sweep.folder / "bases" / model)


def point_item(sweep: Sweep, model: str, selection: str, n_train: int, seed: int) -> Item:
    return Item(sweep.folder / "points" / f"{model}_{selection}_n{n_train}_s{seed}")


class Environments:
    """environments.npz: the local environments of all frames that may train, frame after frame."""

    def run(self, item: Item) -> Sequence[str]:
        from chemloop.physics.descriptors import environments

        sweep = sweep_of(item)
        settings, elements = sweep.record["settings"], sweep.record["elements"]
        described = environments(sweep.frames("train"), elements, settings["n_neighbors"], settings["cutoff"])
        rows = np.vstack(described)
        is_used = rows.any(axis=0)
        write_arrays(item.folder / ENVIRONMENTS, rows=rows[:, is_used], sizes=[len(x) for x in described])
        return [ENVIRONMENTS]


class Ranking:
    """ranking.npz: all frames that may train, in the order of a selection, and the entropy (nats) of the first 0, 1 ...

    The first n of them are the training set of size n, so a smaller one is part of every larger one.
    """

    def run(self, item: Item) -> Sequence[str]:
        sweep, task = sweep_of(item), item.task
        settings = sweep.record["settings"]
        with np.load(environments_item(sweep).folder / ENVIRONMENTS) as arrays:
            described = np.split(arrays["rows"], np.cumsum(arrays["sizes"])[:-1])
        if task["selection"] == "entropy":
            rank = MODES[settings["mode"]]
            nothing = np.zeros((0, 0), dtype=np.float32)
            indices, _ = rank(described, nothing, len(described), settings["bandwidth"], settings["pooling"])
        else:
            indices = RandomSelector().select(sweep.frames("train"), [], len(described), task["seed"]).indices
        sizes = range(len(described) + 1)
        entropies = entropy_curve([described[index] for index in indices], sizes, settings["bandwidth"])
        write_arrays(item.folder / RANKING, indices=indices, entropies=entropies)
        return [RANKING]


def growth(entropies: np.ndarray, n_frames: int) -> float:
    """dH/dN in nats per frame when the first n_frames are taken; entropies: of the first 0, 1, 2, ... frames."""
    window = max(1, round(WINDOW * n_frames))
    return float((entropies[n_frames] - entropies[n_frames - window]) / window)


class Base:
    """base.json: the checkpoint that a model begins with, its SHA-256 if it is a file, a notice or null, its errors on
    the test frames; predictions.npz: what it predicts for them."""

    def run(self, item: Item) -> Sequence[str]:
        task = item.task
        model, _, notice = load_or_begin_untrained(component(task, "model"), task["device"])
        test = sweep_of(item).frames("test")
        predicted = predictions(test, model, task["device"])
        write_arrays(item.folder / PREDICTIONS, **predicted)
        record = {
            "checkpoint": model.checkpoint,
            "sha256": checkpoint_hash(model.checkpoint),
            "notice": notice,
            "errors": errors_on(test, predicted),
        }
        write_json(item.folder / BASE, record)
        return [BASE, PREDICTIONS]


class Point:
    """metrics.json, parity.npz, the curves and the checkpoint of one fit: one model, one training set, one seed."""

    def run(self, item: Item) -> Sequence[str]:
        from chemloop.training.finetune import finetune

        sweep, task = sweep_of(item), item.task
        base = base_item(sweep, task["name"])
        record = read_json(base.folder / BASE)
        check_unchanged(record["checkpoint"], record)
        is_random = record["checkpoint"] is None
        described = {**task, "model": reseeded(task["model"], task["index"])} if is_random else task
        model: ForceField = replace(component(described, "model"), checkpoint=record["checkpoint"])
        with np.load(ranking_item(sweep, task["selection"], task["index"]).folder / RANKING) as arrays:
            chosen, entropies = arrays["indices"][: task["n_train"]], arrays["entropies"]
        pool, test = sweep.frames("train"), sweep.frames("test")
        train = [pool[index] for index in chosen]
        clock = Clock(item.folder / "elapsed.json")
        recipe: Recipe = component(task, "training")
        recipe = recipe if model.checkpoint is not None else recipe.for_untrained()
        fit = finetune(model, train, recipe, item.folder, task["seed"], task["device"], progress=clock.tick)
        wall_s = clock.stop()
        with np.load(base.folder / PREDICTIONS) as arrays:
            before = dict(arrays)
        if described != task:
            before = predictions(test, model, task["device"])
        after = before
        if fit.checkpoint != record["checkpoint"]:
            after = predictions(test, replace(model, checkpoint=fit.checkpoint), task["device"])  # type: ignore[type-var]  # every ForceField is a dataclass
        fitted = {key.removeprefix("finetune/"): value for key, value in fit.metrics.items()}
        metrics = fitted | errors_on(test, after) | {
            **{f"base_{key}": value for key, value in errors_on(test, before).items()},
            "n_train": len(train),
            "n_test": len(test),
            "kept_base": float(fit.kept_base),
            "entropy_growth_nats_per_frame": growth(entropies, len(train)),
            "wall_s": wall_s,
            "frames_per_s": fitted["n_epochs"] * fitted["n_frames_fitted"] / wall_s,
        }  # fmt: skip
        write_json(item.folder / METRICS, {key: float(value) for key, value in metrics.items()})
        write_arrays(item.folder / PARITY, **parity(test, before, after))
        outputs = [METRICS, PARITY, CURVES]
        if fit.checkpoint is not None and Path(fit.checkpoint).is_relative_to(item.folder):
            outputs.append(str(Path(fit.checkpoint).relative_to(item.folder)))
        tidy(item.folder)
        return outputs


def reseeded(node: dict[str, Any], index: int) -> dict[str, Any]:
    """A model's description with other random weights for each seed of a sweep, those that it names for seed 0."""
    architecture = node.get("architecture") or {}
    if "seed" not in architecture:
        return node
    return {**node, "architecture": {**architecture, "seed": architecture["seed"] + index}}


def component(task: dict[str, Any], group: str) -> Any:
    """The component that a task describes."""
    from chemloop.config import build

    return build(task[group], group)


def errors_on(test: Sequence[Atoms], predicted: dict[str, np.ndarray]) -> dict[str, float]:
    """RMSE on the test frames: test_energy_rmse_mev_per_atom, test_force_..., test_stress_..."""
    truth = labels(test)
    rmse = {channel: float(np.sqrt(np.mean((predicted[channel] - truth[channel]) ** 2))) for channel in UNITS}
    return {f"test_{channel}_rmse_{unit}": 1000 * rmse[channel] for channel, unit in UNITS.items()}


def parity(test: Sequence[Atoms], before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Energies (eV/atom) and a sample of force components (eV/A) by the labels, the base and the fitted model."""
    arrays: dict[str, np.ndarray] = {}
    for who, values in (("label", labels(test)), ("before", before), ("after", after)):
        for channel in ("energy", "force"):
            x = values[channel]
            kept = np.linspace(0, len(x) - 1, min(N_PARITY, len(x))).astype(int)
            arrays[f"{who}_{channel}"] = x[kept].astype(np.float32)
    return arrays | {"n_forces": np.array(len(labels(test)["force"]))}


def tidy(folder: Path) -> None:
    """Remove what only an interrupted training needs."""
    for states in folder.glob("states-*"):
        shutil.rmtree(states)
    (folder / "elapsed.json").unlink(missing_ok=True)


class Clock:
    """Seconds that a training has taken, also those before it was killed and started again."""

    def __init__(self, path: Path):
        self.path = path
        self.before = json.loads(path.read_text()) if path.exists() else 0.0
        self.begin = self.last = time.monotonic()

    def tick(self, done: int, total: int) -> None:
        """Called after each training step."""
        if time.monotonic() - self.last > CLOCK_INTERVAL_S:
            self.last = time.monotonic()
            write_json(self.path, self.stop())

    def stop(self) -> float:
        """So far."""
        return self.before + time.monotonic() - self.begin


def check_selections(selections: Sequence[str]) -> None:
    """Raises: ConfigError for one that does not exist"""
    for selection in selections:
        if selection not in SELECTIONS:
            raise ConfigError(f"workflow.selections: {selection!r} is unknown; allowed are {', '.join(SELECTIONS)}")
