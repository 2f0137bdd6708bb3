"""What SLURM says about partitions and jobs, and the two things that are asked of it besides: cancel, requeue."""

from __future__ import annotations

import getpass
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ENDED = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED")
    + ("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT")
)
STUCK = ("launch failed requeued held", "JobHeldAdmin", "DependencyNeverSatisfied")
"""Reasons for which a job waits for ever."""

PATIENCE_S = 60


class QueueUnavailable(Exception):
    """SLURM did not answer; nothing is known about any job."""


@dataclass(frozen=True)
class QueuedJob:
    """One line of squeue: a job, or those tasks of an array that share their state.

    id: as scancel takes it, without the tasks; tasks: None for a job that is no array
    left: time that its limit leaves it, as squeue writes it
    """

    id: str
    tasks: tuple[int, ...] | None
    state: str
    left: str
    node: str
    reason: str
    name: str

    @property
    def is_alive(self) -> bool:
        return self.state not in ENDED and self.reason not in STUCK

    @property
    def n_tasks(self) -> int:
        return 1 if self.tasks is None else len(self.tasks)


@dataclass(frozen=True)
class Partition:
    """limit_min: None where there is no limit; is_up: whether it takes jobs"""

    name: str
    limit_min: float | None
    is_up: bool


def ask(command: Sequence[str]) -> str:
    """What a command of SLURM prints.

    Raises: QueueUnavailable
    """
    # squeue shortens long lists of array tasks unless told otherwise
    environment = {**os.environ, "SLURM_BITSTR_LEN": "0", "SLURM_TIME_FORMAT": "standard"}
    try:
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QueueUnavailable(f"{command[0]}: {error}") from error
    if ended.returncode:
        raise QueueUnavailable(f"{command[0]}: {ended.stderr.strip()}")
    return ended.stdout


def my_jobs() -> list[QueuedJob]:
    """All jobs of this user that SLURM knows, those included that ended a short while ago.

    Raises: QueueUnavailable
    """
    text = ask(["squeue", "--noheader", "--states=all", f"--user={getpass.getuser()}", "--format=%i|%T|%L|%N|%r|%j"])
    return [parse_job(line) for line in text.splitlines()]


def parse_job(line: str) -> QueuedJob:
    number, state, left, node, reason, name = line.split("|", 5)
    id, _, tasks = number.partition("_")
    return QueuedJob(id, parse_tasks(tasks) if tasks else None, state, left, node, reason, name)


def parse_tasks(text: str) -> tuple[int, ...]:
    """`7`, `[2-3,8%2]` or `[0-8:4]`, as squeue writes the tasks of an array."""
    numbers: list[int] = []
    for part in text.strip("[]").partition("%")[0].split(","):
        bounds, _, step = part.partition(":")
        first, _, last = bounds.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1, int(step or 1)))
    return tuple(numbers)


def is_queued(id: str) -> bool:
    """Whether one job waits or runs.

    Raises: QueueUnavailable
    """
    return any(job.id == id and job.is_alive for job in my_jobs())


def partitions() -> list[Partition]:
    """Raises: QueueUnavailable"""
    rows = [line.split("|") for line in ask(["sinfo", "--noheader", "--format=%R|%l|%a"]).splitlines()]
    return [Partition(name, parse_minutes(limit), state == "up") for name, limit, state in rows]


def parse_minutes(text: str) -> float | None:
    """`1-12:00:00`, `30:00` or `infinite`, as SLURM writes times, in minutes."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return days * 1440 + hours * 60 + minutes + seconds / 60


def largest_array() -> int:
    """How many tasks one array may have.

    Raises: QueueUnavailable
    """
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask(["scontrol", "show", "config"]), re.MULTILINE)
    # the number is that of the first index that is too large
    return int(match[1]) if match else 1000


def cancel(jobs: Iterable[QueuedJob]) -> None:
    """Raises: QueueUnavailable"""
    ids = sorted({job.id for job in jobs})
    if ids:
        ask(["scancel", *ids])


def requeue(id: str) -> None:
    """Raises: QueueUnavailable"""
    ask(["scontrol", "requeue", id])
