"""What all stages share: folders, items, the markers that make a stage finished."""

from __future__ import annotations

import functools
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ase import Atoms

from chemloop.physics.structures import read_structures, write_structures
from chemloop.protocols import ForceField, Generator, Potential
from chemloop.runtime.campaign import STAGES, Campaign
from chemloop.runtime.device import check_visible
from chemloop.runtime.disk import file_hash, is_intact, read_json, write_json
from chemloop.runtime.errors import CheckpointError, StageFailed, WeightsUnavailable
from chemloop.runtime.item import Item, derived_seed
from chemloop.runtime.ledger import Ledger
from chemloop.runtime.submit import run_to_end
from chemloop.tracker import Point

if TYPE_CHECKING:
    from chemloop.config import Settings

OUTPUT = "output.extxyz"
METRICS = "metrics.json"
BASE = "base.json"
FIT = "fit.json"
FileVersion = tuple[int, int, int] | None


@dataclass
class Stage(ABC):
    """One stage of one iteration, `<campaign>/iter-003/2-relax/`.

    name: one of STAGES
    resource: the class of compute resource that its items ask for
    component: the group whose interpreter its workers run in, where `python` of that component names another one
    """

    campaign: Campaign
    settings: Settings
    iteration: int

    name: ClassVar[str]
    resource: ClassVar[str] = "cpu"
    component: ClassVar[str | None] = None

    @abstractmethod
    def plan(self) -> list[Item]:
        """The items, the same ones at every call; writes those that are not there yet."""

    @abstractmethod
    def run(self, item: Item) -> Sequence[str]:
        """Do one item, in a worker; returns the names of the files that it wrote.

        Raises: ItemFailed
        """

    def collect(self, items: Sequence[Item]) -> dict[str, float]:
        """Merge the outputs of the items, in their order, into the stage's; returns its metrics."""
        self.merge(items, OUTPUT)
        return {}

    @property
    def folder(self) -> Path:
        return stage_folder(self.campaign, self.iteration, self.name)

    @property
    def is_done(self) -> bool:
        return is_intact(self.folder / "DONE")

    @property
    def metrics(self) -> dict[str, float]:
        return read_json(self.folder / METRICS)

    def output(self) -> list[Atoms]:
        return read_structures(self.folder / OUTPUT)

    def ensure(self) -> dict[str, float]:
        """Bring the stage to its end, from wherever it stands, and return its metrics.

        Raises: StageFailed when too many items failed, or one with structures that the hull is made of
        """
        if self.is_done:
            return self.metrics
        (self.folder / "items").mkdir(parents=True, exist_ok=True)
        items = self.plan()
        for item in items:
            if item.is_done and not item.is_intact:
                item.reopen()
        label = f"{self.name:9s} {self.iteration}"
        python = self.settings.pythons.get(self.component) if self.component else None
        run_to_end(items, self.folder, self.resource, self.settings.compute, label, python)
        self._check_failures(items)
        metrics = self.collect([item for item in items if item.is_done])
        metrics = {f"{self.name}/{key}": float(value) for key, value in metrics.items()}
        write_json(self.folder / METRICS, metrics)
        self.record_in(Ledger(self.campaign.ledger))
        outputs = [path for path in self.final_files() if path.exists()]
        write_json(
            self.folder / "DONE",
            {"outputs": {os.path.relpath(path, self.folder): file_hash(path) for path in outputs}},
        )
        return metrics

    def final_files(self) -> list[Path]:
        """What later stages read; a damaged one makes this stage unfinished again."""
        return [self.folder / OUTPUT, self.folder / METRICS]

    def record_in(self, ledger: Ledger) -> None:
        """Tell the ledger what this stage found out about each structure."""
        ledger.record(self.output(), self.name, self.iteration)

    @property
    def notice(self) -> str | None:
        """What people should know about how this stage went; None where nothing is unusual."""
        return None

    def points(self) -> list[Point]:
        """What the trackers show of this stage."""
        return [Point(self.iteration, self.metrics)]

    def failures(self) -> list[dict[str, str]]:
        """Items that failed: item and reason."""
        items = sorted((self.folder / "items").glob("*/FAILED"))
        return [{"item": path.parent.name, "reason": read_json(path)["reason"]} for path in items]

    def in_hull(self, item: Item) -> list[str]:
        """Ids of structures of an item that the hull is made of; none of them may be lost."""
        return []

    def _check_failures(self, items: Sequence[Item]) -> None:
        failed = {item: failure["reason"] for item in items if (failure := item.failure) is not None}
        lost = {item: ids for item in failed if (ids := self.in_hull(item))}
        allowed = self.settings.loop.max_failed_fraction
        if lost:
            missing = ", ".join(id for ids in lost.values() for id in ids)
            failed, why = {item: failed[item] for item in lost}, f"and without them the hull would lack {missing}"
        elif len(failed) > allowed * len(items):
            why = f"loop.max_failed_fraction allows {allowed:g}"
        else:
            return
        item, reason = next(iter(failed.items()))
        raise StageFailed(
            f"{len(failed)} of {len(items)} items of {self.folder} failed, {why}; the first: {reason} (log:"
            f" {item.folder / 'log.out'}). To try them again, delete their FAILED files and run the same command"
        )

    def item(self, number: int) -> Item:
        return Item(self.folder / "items" / f"{number:04d}")

    def plan_item(self, number: int, structures: Sequence[Atoms] = (), **task: Any) -> Item:
        """Item `number` with its input structures, a seed of its own and the stage's own keys."""
        item = self.item(number)
        if not item.is_planned:
            item.folder.mkdir(parents=True, exist_ok=True)
            if structures:
                write_structures(item.folder / "input.extxyz", structures)
            where = f"{type(self).__module__}.{type(self).__qualname__}"
            item.plan({"stage": where, "iteration": self.iteration, "seed": self.seed(number), **task})
        return item

    def plan_chunks(self, structures: Sequence[Atoms], size: int) -> list[Item]:
        """Items of at most `size` structures each, in order."""
        chunks = [structures[start : start + size] for start in range(0, len(structures), size)]
        return [self.plan_item(number, chunk) for number, chunk in enumerate(chunks)]

    def merge(self, items: Sequence[Item], name: str) -> list[Atoms]:
        """One file of structures out of the items' files of that name."""
        merged = [atoms for item in items for atoms in read_structures(item.folder / name)]
        write_structures(self.folder / name, merged)
        return merged

    def seed(self, *parts: object) -> int:
        return derived_seed(self.settings.seed, self.iteration, self.name, *parts)

    def earlier(self, name: str, since: int = 0) -> list[Path]:
        """Folders of a stage in the iterations before this one, and in this one where it comes before this stage."""
        last = self.iteration + (STAGES.index(name) < STAGES.index(self.name))
        folders = [stage_folder(self.campaign, number, name) for number in range(since, last)]
        return [folder for folder in folders if folder.exists()]


def stage_folder(campaign: Campaign, iteration: int, name: str) -> Path:
    return campaign.iteration(iteration) / f"{STAGES.index(name)}-{name}"


def base_folder(campaign: Campaign) -> Path:
    """Where the prepare stage leaves what the campaign begins with."""
    return campaign.iteration(0) / "prepare"


def base_model(stage: Stage) -> tuple[ForceField, str]:
    """The force field that the campaign began with, and its energy frame.

    Raises: CheckpointError where its file is another one now
    """
    model, frame = fitted_model(stage.settings.model, base_folder(stage.campaign), BASE)
    check_unchanged(model.checkpoint, read_json(base_folder(stage.campaign) / BASE))
    return model, frame


def current_model(stage: Stage) -> tuple[ForceField, str]:
    """The force field with the newest checkpoint of the iterations before this one, and its energy frame.

    Raises: CheckpointError where it is the one that the campaign began with, and its file is another one now
    """
    for folder in reversed(stage.earlier("finetune")):
        if (folder / "DONE").exists():
            model, frame = fitted_model(stage.settings.model, folder)
            check_unchanged(model.checkpoint, read_json(base_folder(stage.campaign) / BASE))
            return model, frame
    return base_model(stage)


def check_unchanged(checkpoint: str | None, record: dict[str, Any]) -> None:
    """Check that a checkpoint is still the file that a record tells of; others may write to it.

    record: `checkpoint` and its `sha256`, of a base.json; a checkpoint that it does not name is not looked at
    Raises: CheckpointError
    """
    path, recorded = Path(checkpoint or ""), Path(record["checkpoint"] or "")
    # what began before there were hashes has none
    if path.resolve() != recorded.resolve() or record.get("sha256") is None or not path.is_file():
        return
    status = path.stat()
    if _hash_once(path, status.st_mtime_ns, status.st_size) != record["sha256"]:
        raise CheckpointError(
            f"{path} has changed since it was first used here, and its energies would not belong to those computed"
            " before: put the former file back, or begin anew with campaign=NAME"
        )


def checkpoint_hash(checkpoint: str | None) -> str | None:
    """SHA-256 of a checkpoint that is a file; None for a name or for random weights."""
    return file_hash(Path(checkpoint)) if checkpoint is not None and Path(checkpoint).is_file() else None


def file_version(path: Path) -> FileVersion:
    """What changes when a file is written anew, for what a process keeps of it in memory; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


@functools.lru_cache
def _hash_once(path: Path, modified_ns: int, size: int) -> str:
    """A file's hash, computed again only when the file was written to."""
    return file_hash(path)


def current_generator(stage: Stage) -> Generator:
    """The generator with the newest checkpoint of the iterations before this one."""
    generator = stage.settings.generator
    for folder in reversed(stage.earlier("learn")):
        if (folder / "DONE").exists():
            checkpoint = read_json(folder / FIT)["checkpoint"]
            return replace(generator, checkpoint=str((folder / checkpoint).resolve()))  # type: ignore[type-var]  # a dataclass
    return generator


def fitted_model(model: ForceField, folder: Path, record: str = FIT) -> tuple[ForceField, str]:
    """The force field that a finetune stage left behind, and its energy frame."""
    fit = read_json(folder / record)
    checkpoint = fit["checkpoint"]
    if checkpoint is not None and (folder / checkpoint).is_file():
        checkpoint = str(folder / checkpoint)
    return replace(model, checkpoint=checkpoint), fit["energy_frame"]  # type: ignore[type-var]  # every ForceField is a dataclass


@functools.lru_cache(maxsize=1)
def _load(specification: str, device: str, dtype: str) -> Potential:
    from chemloop.config import build

    return build(json.loads(specification), "model").load(device, dtype)


def load_potential(model: ForceField, device: str, dtype: str = "float32") -> Potential:
    """The potential of a force field, kept in memory from one item of a worker to the next.

    Raises: CheckpointError, and ConfigError for a device that this process does not see
    """
    check_visible(device)
    kind = type(model)
    node = {"_target_": f"{kind.__module__}.{kind.__qualname__}", **asdict(model)}  # type: ignore[call-overload]  # a dataclass
    return _load(json.dumps(node), device, dtype)


def load_or_begin_untrained(model: ForceField, device: str) -> tuple[ForceField, Potential, str | None]:
    """The force field to begin with, loaded, and a notice where it is not the one asked for.

    Named weights that cannot be had leave its architecture with random weights.
    Raises: CheckpointError, ConfigError
    """
    try:
        return model, load_potential(model, device), None
    except WeightsUnavailable as error:
        untrained = replace(model, checkpoint=None)  # type: ignore[type-var]  # every ForceField is a dataclass
        notice = f"{error}. This model begins without them, from random weights, and learns from the labels alone"
        return untrained, load_potential(untrained, device), notice
