"""`workflow=learning_curve`: errors of force fields against the number of training frames, in one sweep."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemloop.runtime.campaign import Campaign, explain_os_error
from chemloop.runtime.disk import file_hash, read_json, write_whole
from chemloop.runtime.errors import ConfigError, StageFailed
from chemloop.runtime.item import Item, derived_seed
from chemloop.runtime.sharing import held, shared
from chemloop.selector.entropy import EntropySelector
from chemloop.stages import curve_point
from chemloop.stages.curve_point import (
    base_item,
    check_selections,
    environments_item,
    point_item,
    ranking_item,
)
from chemloop.stages.curve_pool import Sweep, find_pool, refuse_changes
from chemloop.stages.finetune import CURVES
from chemloop.stages.stage import BASE, METRICS
from chemloop.tracker import Point
from chemloop.workflow.curve_summary import show_summary, write_summary

if TYPE_CHECKING:
    from chemloop.config import Settings

SHARED = ("test_fraction", "split_seed", "max_force", "pooling", "mode", "n_neighbors", "cutoff", "bandwidth")
"""What all points of a sweep have in common."""


@dataclass
class LearningCurve:
    """One command trains one model at each n_train x selection x seed; those of other models add to the same sweep.

    pool: name of a campaign, or an extxyz file with label_energy, label_forces, label_stress and energy_frame; null:
        the only campaign in the outputs that has labelled frames. Frames of a file are of one structure where `parent`,
        or what precedes a slash in `id`, says so; where no frame has either, those of one formula count as one
    n_train: training frames, a number or a list; null: a quarter, a half, and all of the frames that may train
    selections: entropy (a smaller training set is part of every larger one), random (as well)
    seeds: each trains anew, from other weights where these are random, and draws another random training set
    test_fraction, split_seed: of the frames, whole structures, on which every model is tested and none trained
    max_force: eV/A, frames with a larger label force are left out of the pool
    pooling, mode, n_neighbors, cutoff (A), bandwidth (1/A): of the entropy selection, as in selector=entropy
    """

    pool: str | None = None
    n_train: Any = None
    selections: list[str] = field(default_factory=lambda: ["entropy", "random"])
    seeds: list[int] = field(default_factory=lambda: [0])
    test_fraction: float = 0.2
    split_seed: int = 0
    max_force: float = 50.0
    pooling: str = "mean"
    mode: str = "greedy"
    n_neighbors: int = 32
    cutoff: float = 5.0
    bandwidth: float = 0.015

    def __post_init__(self) -> None:
        numbers = self.n_train if isinstance(self.n_train, list) else [self.n_train]
        for number in numbers if self.n_train is not None else []:
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ConfigError(f"n_train = {number!r}: must be whole numbers of frames, 1 or above")
        for key in ("n_train", "selections", "seeds"):
            if getattr(self, key) == []:
                raise ConfigError(f"workflow.{key} = []: name at least one")
        check_selections(self.selections)
        if min(self.seeds) < 0:
            raise ConfigError(f"workflow.seeds = {self.seeds}: must be 0 or above")
        if not 0 < self.test_fraction < 1:
            raise ConfigError(f"workflow.test_fraction = {self.test_fraction:g}: must be between 0 and 1")
        if not self.max_force > 0:
            raise ConfigError(f"workflow.max_force = {self.max_force:g}: must be above 0 eV/A")
        EntropySelector(self.pooling, self.mode, self.n_neighbors, self.cutoff, self.bandwidth)

    def folder_name(self, settings: Settings) -> str:
        """Of the sweep, where campaign=NAME gives no other: the same for all models."""
        source = find_pool(self.pool, Path(settings.outputs))
        return f"{source.stem if source.is_file() else source.name}_learning_curve"

    def run(self, campaign: Campaign, settings: Settings, config: dict[str, Any]) -> None:
        if not settings.model.can_learn:
            raise ConfigError(f"model={settings.options['model']} cannot be fine-tuned, so it has no learning curve")
        settings.training.check_files()
        sweep = Sweep(campaign.folder)
        source = find_pool(self.pool, Path(settings.outputs))
        try:
            sweep.begin(source, {key: getattr(self, key) for key in SHARED})
            sizes = self.sizes(sweep)
            record = sweep.record
            print(
                f"sweep {sweep.folder.name}: {record['n_train']} frames of {source.name} may train,"
                f" {record['n_test']} test",
                flush=True,
            )
            try:
                points = self.compute(sweep, sizes, settings, config)
            finally:
                write_summary(sweep)
        except OSError as error:
            raise explain_os_error(error, sweep.folder) from error
        show_summary(sweep, points)

    def sizes(self, sweep: Sweep) -> list[int]:
        """Numbers of training frames, increasing.

        Raises: ConfigError for more than there are
        """
        record = sweep.record
        n_frames = record["n_train"]
        if self.n_train is None:
            return sorted({max(1, n_frames // share) for share in (4, 2, 1)})
        wanted = sorted(set(self.n_train if isinstance(self.n_train, list) else [self.n_train]))
        if wanted[-1] > n_frames:
            raise ConfigError(
                f"n_train = {wanted[-1]}: {n_frames} frames of the pool {record['settings']['pool']} may train, the"
                f" other {record['n_test']} test; lower n_train or workflow.test_fraction, or label more structures"
            )
        return wanted

    def compute(self, sweep: Sweep, sizes: Sequence[int], settings: Settings, config: dict[str, Any]) -> list[Item]:
        """Bring all points of this command to their end, and show them; returns them."""
        model, seeds = settings.options["model"], sorted(set(self.seeds))
        compute, python = settings.compute.one_at_a_time(), settings.pythons.get("model")
        environments = planned(environments_item(sweep), "Environments")
        rankings = [plan_ranking(sweep, selection, seed) for selection in self.selections for seed in seeds]
        node = {key: value for key, value in config["model"].items() if key != "python"}
        task = {"name": model, "model": node, "device": settings.compute.gpu.device}
        base = planned(base_item(sweep, model), "Base", **task)
        points = [
            plan_point(sweep, task | {"training": config["training"]}, selection, n_train, seed)
            for selection, n_train, seed in itertools.product(self.selections, sizes, seeds)
        ]
        for items, resource, label in (
            ([environments], "cpu", "describe"),
            (list(dict.fromkeys(rankings)), "cpu", "rank"),
            ([base], "gpu", f"{model} base"),
        ):
            with shared(items, sweep.folder, resource, compute, label, python if resource == "gpu" else None):
                pass
            raise_failure(items)
        notice = read_json(base.folder / BASE)["notice"]
        if notice is not None:
            print(f"notice: {notice}", flush=True)
        with shared(points, sweep.folder, "gpu", compute, f"{model} points", python) as mine:
            for item in mine:
                if item.is_done:
                    track(item, sweep, settings, config)
        return points


def planned(item: Item, runner: str, **task: Any) -> Item:
    """The item with its task.

    Raises: CampaignError when it was planned with another model, training or seed
    """
    task = {"stage": f"{curve_point.__name__}.{runner}", **task}
    item.folder.mkdir(parents=True, exist_ok=True)
    with held(item.folder / ".plan"):
        before = item.task if item.is_planned else None
        if before is not None:
            fixed = [key for key in ("model", "training", "seed") if key in task]
            refuse_changes({key: before[key] for key in fixed}, {key: task[key] for key in fixed}, item.folder)
        if before is None or (before != task and not item.is_done):
            item.plan(task)
    return item


def plan_ranking(sweep: Sweep, selection: str, seed: int) -> Item:
    drawn = derived_seed("learning_curve", "ranking", seed)
    seeds = {} if selection == "entropy" else {"seed": drawn}
    return planned(ranking_item(sweep, selection, seed), "Ranking", selection=selection, **seeds)


def plan_point(sweep: Sweep, task: dict[str, Any], selection: str, n_train: int, seed: int) -> Item:
    return planned(
        point_item(sweep, task["name"], selection, n_train, seed),
        "Point",
        **task,
        selection=selection,
        n_train=n_train,
        index=seed,
        seed=derived_seed("learning_curve", "training", seed),
    )


def raise_failure(items: Sequence[Item]) -> None:
    """Raises: StageFailed where one failed that all points need"""
    for item in items:
        if item.failure is not None:
            raise StageFailed(f"{item.failure['reason']} (log: {item.folder / 'log.out'})")


def track(item: Item, sweep: Sweep, settings: Settings, config: dict[str, Any]) -> None:
    """Show a point as a run of its own, in the group of the sweep; once, however often the sweep is started."""
    marker = item.folder / f"shown-{settings.options['tracker']}"
    digest = file_hash(item.folder / METRICS)
    if marker.exists() and marker.read_text() == digest:
        return
    tracker: Any = settings.tracker
    if getattr(tracker, "group", "") is None:
        tracker = replace(tracker, group=sweep.folder.name)
    task = item.task
    rows = [json.loads(line) for line in (item.folder / CURVES).read_text().splitlines()]
    curves = [{f"curves/{key}": value for key, value in row.items()} for row in rows]
    metrics = {f"learning_curve/{key}": value for key, value in read_json(item.folder / METRICS).items()}
    point = {"model": task["name"], "seed": task["index"]} | {key: task[key] for key in ("selection", "n_train")}
    tracker.begin(item.folder, config | {"point": point})
    tracker.show([Point(task["n_train"], values) for values in (*curves, metrics)])
    if tracker.end():
        write_whole(marker, digest.encode())
