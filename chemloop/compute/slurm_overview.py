"""The jobs that a whole campaign has in SLURM's queue, found by their names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from chemloop.compute.slurm_round import CANCELLED, ROUND
from chemloop.runtime.disk import read_json, write_whole
from chemloop.runtime.queue import QueuedJob, cancel, my_jobs

DEPTHS = ("*/*/jobs", "*/jobs", "drivers/*/jobs")
"""Where below a campaign, or a sweep, the jobs of stages lie."""


@dataclass(frozen=True)
class StageJobs:
    """Jobs of one stage that are in the queue; folder: `<stage>/jobs`"""

    folder: Path
    jobs: list[QueuedJob]


def jobs_folders(campaign: Path) -> list[Path]:
    """Of all stages that ever asked SLURM for anything."""
    found = {folder for pattern in DEPTHS for folder in campaign.glob(pattern)}
    return sorted(folder for folder in found if any(folder.glob(f"*/{ROUND}")))


def names_in(folder: Path) -> set[str]:
    """The names of the jobs of a stage."""
    return {read_json(path)["name"] for path in folder.glob(f"*/{ROUND}")}


def queued(campaign: Path) -> list[StageJobs]:
    """What is in the queue, stage by stage.

    Raises: QueueUnavailable
    """
    folders = {folder: names_in(folder) for folder in jobs_folders(campaign)}
    if not folders:
        return []
    alive = [job for job in my_jobs() if job.is_alive]
    return [StageJobs(folder, [job for job in alive if job.name in names]) for folder, names in folders.items()]


def cancel_all(campaign: Path) -> int:
    """Stop the drivers that wait for them, then cancel all jobs; returns how many there were.

    Raises: QueueUnavailable
    """
    stages = [stage for stage in queued(campaign) if stage.jobs]
    for stage in stages:
        write_whole(stage.folder / CANCELLED, b"")
    cancel(job for stage in stages for job in stage.jobs)
    return sum(job.n_tasks for stage in stages for job in stage.jobs)
