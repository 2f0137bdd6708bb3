"""The jobs of one stage in SLURM's queue: who holds which items, which jobs are gone, and what became of them."""

from __future__ import annotations

import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

from chemloop.compute import HandedBack
from chemloop.compute.slurm_round import CANCELLED, Round, job_name, rounds_in
from chemloop.compute.slurm_script import MAX_RETRIES, RETRY_S, SubmissionFailed, submit
from chemloop.runtime.errors import CampaignError, ChemLoopError, ConfigError
from chemloop.runtime.item import Item
from chemloop.runtime.queue import QueuedJob, QueueUnavailable, cancel, largest_array, my_jobs
from chemloop.runtime.slurm_job import Work

if TYPE_CHECKING:
    from chemloop.compute.slurm import SlurmResource

OUT_OF_MEMORY = re.compile(r"oom[-_ ]kill|exceeded (job |step )?memory limit|out of memory", re.IGNORECASE)
T = TypeVar("T")


class SlurmPool:
    """The jobs of one stage. A fatal error cancels them; after Ctrl-C, or the driver's death, they go on."""

    def __init__(self, folder: Path, key: str, resource: SlurmResource, queue_s: float, label: str, python: str | None):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CANCELLED).unlink(missing_ok=True)
        self.folder, self.key, self.resource, self.python = folder, key, resource, python
        self.queue_s, self.label = queue_s, label
        self.rounds = rounds_in(folder)
        self.looked = -math.inf
        self.jobs: dict[tuple[str, int], QueuedJob] = {}
        self.n_missed: Counter[tuple[str, int]] = Counter()
        self.note = ""

    def __enter__(self) -> SlurmPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        is_fatal = kind is not None and issubclass(kind, ChemLoopError) and not issubclass(kind, CampaignError)
        is_stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
        if not is_fatal and not is_stopped:
            return
        names = {round.name for round in self.rounds}
        try:
            alive = [job for job in my_jobs() if job.name in names and job.is_alive]
            if is_fatal:
                cancel(alive)
            elif alive:
                n_jobs = sum(job.n_tasks for job in alive)
                tqdm.write(f"{n_jobs} jobs go on in the queue; workflow=cancel would end them")
        except QueueUnavailable as error:
            tqdm.write(f"notice: SLURM does not answer, its jobs are left as they are: {error}")

    def handed_back(self, pending: Sequence[Item]) -> list[HandedBack]:
        """Items whose job is gone, job by job, and those that were never given to any."""
        if (self.folder / CANCELLED).exists():
            raise CampaignError("its jobs were cancelled by workflow=cancel; run the same command again to go on")
        if not self._look():
            return []
        holders = {
            name: (round, task) for round in self.rounds for task, names in enumerate(round.items) for name in names
        }
        gone = {key for key in {(round.name, task) for round, task in holders.values()} if self._is_gone(key)}
        unheld: list[Item] = []
        lost: dict[tuple[str, int], list[Item]] = {}
        for item in pending:
            holder = holders.get(os.path.relpath(item.folder, self.folder))
            if holder is None:
                unheld.append(item)
            elif (holder[0].name, holder[1]) in gone:
                lost.setdefault((holder[0].name, holder[1]), []).append(item)
        rounds = {round.name: round for round in self.rounds}
        back = [HandedBack(unheld)] if unheld else []
        for (name, task), items in lost.items():
            for item in items:
                # a shared file system may still remember that a marker was absent; listing the folder makes it look
                os.listdir(item.folder)
            reason = self.reason(rounds[name], task)
            if reason is not None:
                tqdm.write(f"notice: {reason}; its unfinished items ({len(items)}) start again")
            back.append(HandedBack(items, reason))
        return back

    def _look(self) -> bool:
        """Ask for the queue where that is due; whether there is news."""
        if time.monotonic() - self.looked < self.queue_s:
            return False
        self.looked = time.monotonic()
        try:
            found = my_jobs()
        except QueueUnavailable as error:
            # nothing is known, so nothing is lost
            self.note = f"SLURM does not answer: {error}"[:80]
            return False
        names = {round.name for round in self.rounds}
        self.jobs = {
            (job.name, task): job
            for job in sorted(found, key=lambda job: job.is_alive)
            if job.name in names
            for task in (job.tasks if job.tasks is not None else (0,))
        }
        counts = Counter(job.state for job in self.jobs.values() if job.is_alive)
        waits = {job.reason for job in self.jobs.values() if job.state == "PENDING"} - {"None", "JobArrayTaskLimit"}
        self.note = ", ".join(f"{n} {state.lower()}" for state, n in sorted(counts.items()))
        if waits and counts.keys() == {"PENDING"}:
            self.note += f" ({', '.join(sorted(waits))})"
        return True

    def _is_gone(self, key: tuple[str, int]) -> bool:
        """Whether a job has ended, or was not in the queue twice in a row."""
        job = self.jobs.get(key)
        self.n_missed[key] = self.n_missed[key] + 1 if job is None else 0
        return not job.is_alive if job is not None else self.n_missed[key] > 1

    def reason(self, round: Round, task: int) -> str | None:
        """What became of a job, None for one that came to its end."""
        job = self.jobs.get((round.name, task))
        log = round.log(task)
        state = "vanished from the queue" if job is None else f"ended as {job.state} on {job.node or 'no node'}"
        tail = log.read_text(errors="replace")[-2000:] if log is not None else ""
        if (job is not None and job.state == "OUT_OF_MEMORY") or OUT_OF_MEMORY.search(tail):
            state += (
                f", out of memory: it had asked for {round.mem_gb:g} GB, ask for more with compute.{self.key}.mem_gb"
            )
        elif job is not None and job.state == "COMPLETED":
            return None
        number = "" if job is None else f" {job.id}" if job.tasks is None else f" {job.id}_{task}"
        return f"job{number} of {self.label.strip()} {state} (log: {log or 'none'})"

    def start(self, items: Sequence[Item]) -> None:
        """Share items among as many jobs as may be added.

        Raises: ConfigError where sbatch refuses them, or SLURM does not answer for long
        """
        n_alive = sum(job.is_alive for job in self.jobs.values())
        n_jobs = max(1, self.resource.max_jobs - n_alive)
        longest = longest_array()
        size = self.resource.items_per_job or math.ceil(len(items) / n_jobs)
        size = max(size, math.ceil(len(items) / longest))
        names = [os.path.relpath(item.folder, self.folder) for item in items]
        for attempt in range(MAX_RETRIES):
            round = self._new_round([names[start : start + size] for start in range(0, len(names), size)])
            parts = [[os.path.normpath(self.folder / name) for name in part] for part in round.items]
            works = [Work(part, self.resource.time_min * 60) for part in parts]
            try:
                submit(round.folder, round.name, works, self.resource, n_jobs, self.python)
                break
            except SubmissionFailed as error:
                if not error.is_passing or attempt == MAX_RETRIES - 1:
                    raise ConfigError(f"sbatch refused the jobs of compute.{self.key}: {error}") from error
                time.sleep(RETRY_S)
                self._forget(round)
        self.rounds.append(round)
        # the queue has to be looked at anew before anything can be said about these
        self.looked = -math.inf

    def _new_round(self, items: Sequence[Sequence[str]]) -> Round:
        number = 1 + max((int(path.name) for path in self.folder.iterdir() if path.name.isdigit()), default=-1)
        folder = self.folder / f"{number:04d}"
        folder.mkdir()
        round = Round(folder, job_name(self.label, folder), tuple(map(tuple, items)), self.resource.mem_gb)
        round.write()
        return round

    def _forget(self, round: Round) -> None:
        """A submission that got no answer may have gone through: its jobs would find no work."""
        try:
            cancel(job for job in my_jobs() if job.name == round.name)
        except QueueUnavailable:
            # they end by themselves, a minute after their start
            return


def longest_array() -> int:
    """How many tasks one array may have.

    Raises: ConfigError
    """
    return answer_to(largest_array, "how long an array of jobs may be")


def answer_to(ask: Callable[[], T], what: str) -> T:
    """What SLURM says; a controller that restarts is waited for.

    Raises: ConfigError
    """
    for attempt in range(MAX_RETRIES):
        try:
            return ask()
        except QueueUnavailable as error:
            reason = error
        if attempt == 0:
            tqdm.write(f"notice: SLURM does not answer ({reason}); it is asked again every {RETRY_S} s")
        time.sleep(RETRY_S)
    raise ConfigError(f"compute=slurm: SLURM does not say {what}: {reason}; try again when it does")
