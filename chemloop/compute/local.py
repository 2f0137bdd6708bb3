"""Processes on this machine, through submitit's local executor.

What each job was given lies in `<stage>/jobs/<job id>.json`; a job that outlived its driver is found there and waited
for.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from chemloop.compute import HandedBack
from chemloop.runtime import worker
from chemloop.runtime.campaign import is_running
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import ConfigError
from chemloop.runtime.inherited import interrupts_ignored, thread_variables, variables
from chemloop.runtime.item import Item

if TYPE_CHECKING:
    import submitit


@dataclass
class LocalResource:
    """What one class of work may use: `cpu`, `gpu` or `dft`.

    workers: processes at once; 0 = one per core, or on a GPU one: each takes its memory as if it were alone there
    device: where torch computes, `cpu` or `cuda`
    timeout_min: after this long a worker is stopped and its unfinished items start again
    """

    workers: int = 0
    device: str = "cpu"
    timeout_min: int = 1440

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ConfigError(f"compute workers = {self.workers}: must be 0 (one per core, or one on a GPU) or above")
        if self.timeout_min <= 0:
            raise ConfigError(f"compute timeout_min = {self.timeout_min}: must be above 0")
        check_device(self.device)

    @property
    def n_workers(self) -> int:
        """Processes at once, where there is work for as many."""
        return self.workers or (n_cores() if self.device == "cpu" else 1)

    @property
    def n_cores(self) -> int:
        """Cores that an item may use which has its stage to itself: those that as many workers would keep busy."""
        return self.workers or n_cores()

    @property
    def n_gpus(self) -> int:
        """GPUs that a worker must see for its device to exist; submitit hides those that it is not asked for."""
        kind, _, number = self.device.partition(":")
        return 0 if kind == "cpu" else int(number or 0) + 1


@dataclass
class LocalCompute:
    """`conf/compute/local.yaml`: submitit's name for it, `local`, and what each resource class means."""

    cluster: str
    cpu: LocalResource
    gpu: LocalResource
    dft: LocalResource
    max_attempts: int = 3
    poll_s: float = 0.2

    def __post_init__(self) -> None:
        check_waiting(self.max_attempts, self.poll_s)

    def pool(self, folder: Path, resource: str, label: str, python: str | None) -> LocalPool:
        resources = {"cpu": self.cpu, "gpu": self.gpu, "dft": self.dft}
        return LocalPool(folder, self.cluster, resources[resource], python)

    def one_at_a_time(self) -> LocalCompute:
        return self


def check_device(device: str) -> None:
    """Raises: ConfigError"""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ConfigError(f"compute device = {device!r}: allowed are cpu, cuda, cuda:N")


def check_waiting(max_attempts: int, poll_s: float) -> None:
    """Raises: ConfigError"""
    if max_attempts < 1:
        raise ConfigError(f"compute.max_attempts = {max_attempts}: must be 1 or above")
    if poll_s <= 0:
        raise ConfigError(f"compute.poll_s = {poll_s}: must be above 0")


def n_cores() -> int:
    """Cores that this process may use; inside a SLURM job that does not confine it, those that the job asked for."""
    cores = len(os.sched_getaffinity(0))
    return min(cores, int(os.environ.get("SLURM_CPUS_PER_TASK", cores)))


@dataclass
class Job:
    """One worker process and the record that finds it again."""

    record: Path
    handle: submitit.Job[None] | None

    @property
    def is_alive(self) -> bool:
        if self.handle is not None:
            return not self.handle.done()
        known: dict[str, Any] = read_json(self.record)
        return is_running(known["pid"], known["started"])

    def stop(self) -> None:
        """End the worker and all that it started; submitit's processes ignore anything milder than a kill."""
        # any of them may come to its own end meanwhile
        with suppress(psutil.NoSuchProcess):
            controller = psutil.Process(read_json(self.record)["pid"])
            for process in (*controller.children(recursive=True), controller):
                with suppress(psutil.NoSuchProcess):
                    process.kill()


class LocalPool:
    """At most `workers` jobs of one stage; leaving it by an error, or by Ctrl-C, stops what still runs."""

    note = ""

    def __init__(self, folder: Path, cluster: str, resource: LocalResource, python: str | None):
        folder.mkdir(parents=True, exist_ok=True)
        self.python = python
        self.folder = folder
        self.cluster = cluster
        self.resource = resource
        self.jobs = [Job(record, None) for record in sorted(folder.glob("*.json"))]

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for job in self.jobs if kind is not None else []:
            if job.is_alive:
                job.stop()

    def handed_back(self, pending: Sequence[Item]) -> list[HandedBack]:
        """All at once, when the last worker is gone.

        A driver that was killed just after it had started a worker has left no record of it; what such a worker is at
        shows by the lock that it holds, and comes back when it has dropped that.
        """
        self.jobs = [job for job in self.jobs if job.is_alive]
        unheld = [] if self.jobs else [item for item in pending if not worker.is_claimed(item)]
        return [HandedBack(unheld)] if unheld else []

    def start(self, items: Sequence[Item]) -> None:
        """Give all items to every worker, each beginning elsewhere: what one has taken the others skip."""
        import submitit

        n_workers = min(len(items), self.resource.n_workers)
        logging.getLogger("submitit").setLevel(logging.WARNING)
        python = {} if self.python is None else {f"{self.cluster}_python": shlex.quote(self.python)}
        executor = submitit.AutoExecutor(folder=self.folder / "%j", cluster=self.cluster, **python)
        executor.update_parameters(timeout_min=self.resource.timeout_min, gpus_per_node=self.resource.n_gpus)
        folders = [str(item.folder) for item in items]
        with variables(thread_variables(1)), interrupts_ignored():
            for number in range(n_workers):
                handle = executor.submit(worker.run_items, folders, number * len(items) // n_workers)
                record = self.folder / f"{handle.job_id}.json"
                pid = int(handle.job_id)
                write_json(record, {"pid": pid, "started": psutil.Process(pid).create_time()})
                self.jobs.append(Job(record, handle))
