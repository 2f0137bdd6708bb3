"""`workflow=status`: how a campaign or a sweep stands, read from its folders and from SLURM's queue."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemloop.compute.slurm_overview import queued
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.disk import read_json
from chemloop.runtime.errors import CampaignError, ConfigError
from chemloop.runtime.queue import QueuedJob, QueueUnavailable

if TYPE_CHECKING:
    from chemloop.config import Settings

SWEEP_FOLDERS = ("pool", "rankings", "bases", "points")
EVALUATION_FOLDERS = ("references", "atoms-*")
COLUMNS = ("stage", "items", "done", "begun", "failed", "time left", "queue")


@dataclass
class Standing:
    """One stage: its items by their markers.

    begun: started and not finished; a job works on them, or will again
    failed: when each failed, s since the epoch, and its folder
    first, last: when its first and its latest item were finished, s since the epoch; 0 where none is
    """

    name: str
    folder: Path
    is_done: bool
    items: int = 0
    done: int = 0
    begun: int = 0
    failed: list[tuple[float, str]] = field(default_factory=list)
    first: float = 0.0
    last: float = 0.0

    def count(self, item: str) -> None:
        """One more item, by the files in its folder, the most telling first; a folder without a task is none."""
        if ended := written(f"{item}/DONE"):
            self.done += 1
            self.first = min(self.first or ended, ended)
            self.last = max(self.last, ended)
        elif ended := written(f"{item}/FAILED"):
            self.failed.append((ended, item))
        elif os.path.exists(f"{item}/.starts"):
            self.begun += 1
        elif not os.path.exists(f"{item}/item.yaml"):
            return
        self.items += 1

    @property
    def left_s(self) -> float | None:
        """At the pace of the items that are done; None where there is none yet."""
        unfinished = self.items - self.done - len(self.failed)
        if self.is_done or unfinished == 0:
            return 0.0
        return None if self.done < 2 else (self.last - self.first) / (self.done - 1) * unfinished


def written(path: str) -> float | None:
    """When, s since the epoch; None where there is no such file."""
    try:
        return os.stat(path).st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None


@dataclass
class ShowStatus:
    """n_errors: last errors shown"""

    n_errors: int = 5

    def __post_init__(self) -> None:
        if self.n_errors < 0:
            raise ConfigError(f"workflow.n_errors = {self.n_errors}: must be 0 or above")

    def run(self, campaign: Campaign, settings: Settings, config: dict[str, Any]) -> None:
        """Raises: CampaignError where there is no such campaign"""
        standings = list(stages(existing(campaign).folder))
        print(f"campaign {campaign.name} in {campaign.folder}: {driver(campaign)}")
        jobs, notice = jobs_by_stage(campaign.folder)
        if notice is not None:
            print(f"notice: {notice}")
        print(table(standings, jobs))
        for line in errors(standings, self.n_errors):
            print(line)


def existing(campaign: Campaign) -> Campaign:
    """The campaign or sweep.

    Raises: CampaignError where there is none
    """
    if not any((campaign.folder / name).exists() for name in ("campaign.yaml", "sweep.yaml")):
        raise CampaignError(
            f"there is no campaign {campaign.folder}; give campaign=NAME, or the options that it was begun with"
        )
    return campaign


def stages(folder: Path) -> Iterator[Standing]:
    """All stages of a campaign that were begun, in their order; of a sweep or an evaluation its parts."""
    for iteration in sorted(folder.glob("iter-*")):
        found = [path for path in iteration.iterdir() if (path / "items").is_dir()]
        for stage in sorted(found, key=lambda path: (path.name != "prepare", path.name)):
            yield standing(f"{int(iteration.name[5:]):3d} {stage.name.rpartition('-')[2]}", stage, stage / "items")
    for part in (path for name in EVALUATION_FOLDERS for path in sorted(folder.glob(name))):
        for stage in sorted(path for path in part.iterdir() if (path / "items").is_dir()):
            yield standing(f"    {part.name} {stage.name}", stage, stage / "items")
    for name in SWEEP_FOLDERS:
        if (folder / name).is_dir():
            yield standing(f"    {name}", folder / name, folder / name)


def standing(name: str, folder: Path, items: Path) -> Standing:
    found = Standing(name, folder, (folder / "DONE").exists())
    with os.scandir(items) as entries:
        for entry in entries:
            found.count(entry.path)
    return found


def driver(campaign: Campaign) -> str:
    """Who holds the lock, as its file says."""
    if (campaign.folder / "DONE").exists():
        return "finished"
    path = campaign.folder / "campaign.lock"
    holder = path.read_text().split() if path.exists() else []
    return f"its driver is process {holder[1]} on {holder[0]}" if len(holder) > 1 else "no driver"


def jobs_by_stage(campaign: Path) -> tuple[dict[Path, list[QueuedJob]], str | None]:
    """Queued jobs by the folder of their stage, and why that is not known."""
    if shutil.which("squeue") is None:
        return {}, None
    try:
        return {stage.folder.parent: stage.jobs for stage in queued(campaign)}, None
    except QueueUnavailable as error:
        return {}, f"the queue is not known: {error}"


def table(standings: list[Standing], jobs: dict[Path, list[QueuedJob]]) -> str:
    """A line per stage."""
    shown = {stage.folder for stage in standings}
    lines: list[tuple[str, ...]] = [COLUMNS]
    for stage in standings:
        left = "" if stage.is_done else "?" if stage.left_s is None else shown_time(stage.left_s)
        counts = (stage.items, stage.done, stage.begun, len(stage.failed))
        numbers = (str(count) if count else "-" for count in counts)
        lines.append((stage.name, *numbers, left, queue_text(jobs.get(stage.folder, []))))
    # the drivers of a sweep keep their jobs apart from its points
    for folder, queue in jobs.items():
        if folder not in shown and queue:
            lines.append((f"    {queue[0].name.split('.')[1]}", "", "", "", "", "", queue_text(queue)))
    widths = [max(len(line[k]) for line in lines) for k in range(len(COLUMNS))]
    return "\n".join("  ".join(map(padded, line, widths, COLUMNS)).rstrip() for line in lines)


def padded(cell: str, width: int, column: str) -> str:
    """Words to the left, numbers to the right."""
    return cell.ljust(width) if column in ("stage", "queue") else cell.rjust(width)


def queue_text(jobs: list[QueuedJob]) -> str:
    """`3 running (at most 29:12 left), 5 pending (Resources)`."""
    counts: Counter[str] = Counter()
    for job in jobs:
        counts[job.state] += job.n_tasks
    parts = []
    for state, number in sorted(counts.items()):
        same = [job for job in jobs if job.state == state]
        detail = ", ".join(sorted({job.reason for job in same} - {"None"}))
        if state == "RUNNING":
            detail = f"limit in {min((job.left for job in same), key=lambda text: (len(text), text))}"
        parts.append(f"{number} {state.lower()}" + (f" ({detail})" if detail else ""))
    return ", ".join(parts)


def shown_time(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"~{hours}:{rest // 60:02d}:{rest % 60:02d}"


def errors(standings: list[Standing], n_errors: int) -> list[str]:
    """Reasons of the items that failed last, and where their logs are, the latest first."""
    found = sorted((failure for stage in standings for failure in stage.failed), reverse=True)
    lines = []
    for _, item in found[:n_errors]:
        # one that starts again just now has not failed
        with suppress(FileNotFoundError):
            lines.append(f"failed: {read_json(Path(item, 'FAILED'))['reason']} (log: {item}/log.out)")
    return lines
