"""Hands items to worker processes through submitit, watches their markers, and takes dead workers into account.

Where things stand is read from the item folders alone, so a new driver sees what an old one saw. What each job was
given lies in `<stage>/jobs/<job id>.json`; a job that outlived its driver is found there and waited for.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import submitit
from tqdm import tqdm

from chemloop.runtime import worker
from chemloop.runtime.campaign import explain_os_error, is_running
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import ChemLoopError, ConfigError
from chemloop.runtime.item import Item

RESOURCES = ("cpu", "gpu", "dft")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass
class Resource:
    """What one class of work may use: `cpu`, `gpu` or `dft`.

    workers: processes at once; 0 = one per core
    device: where torch computes, `cpu` or `cuda`
    timeout_min: after this long a worker is stopped and its unfinished items start again
    """

    workers: int = 0
    device: str = "cpu"
    timeout_min: int = 1440

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ConfigError(f"compute workers = {self.workers}: must be 0 (one per core) or above")
        if self.timeout_min <= 0:
            raise ConfigError(f"compute timeout_min = {self.timeout_min}: must be above 0")
        if self.device != "cpu" and not self.device.startswith("cuda"):
            raise ConfigError(f"compute device = {self.device!r}: allowed are cpu, cuda, cuda:N")

    @property
    def n_gpus(self) -> int:
        """GPUs that a worker must see for its device to exist; submitit hides those that it is not asked for."""
        kind, _, number = self.device.partition(":")
        return 0 if kind == "cpu" else int(number or 0) + 1


@dataclass
class Compute:
    """`conf/compute/*.yaml`: the submitit cluster and what each resource class means there.

    max_attempts: how often an item may be started without getting any further before it counts as failed
    poll_s: s between two looks at the markers
    """

    cluster: str
    cpu: Resource
    gpu: Resource
    dft: Resource
    max_attempts: int = 3
    poll_s: float = 0.2

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigError(f"compute.max_attempts = {self.max_attempts}: must be 1 or above")
        if self.poll_s <= 0:
            raise ConfigError(f"compute.poll_s = {self.poll_s}: must be above 0")

    def resource(self, name: str) -> Resource:
        return {"cpu": self.cpu, "gpu": self.gpu, "dft": self.dft}[name]


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
        controller = psutil.Process(read_json(self.record)["pid"])
        for process in (*controller.children(recursive=True), controller):
            process.kill()


def run_to_end(
    items: Sequence[Item], stage: Path, resource: str, compute: Compute, label: str, python: str | None = None
) -> None:
    """Bring all items to DONE or FAILED.

    python: the interpreter of the workers, None for the driver's own

    Raises: ChemLoopError as soon as one item failed fatally; items in progress are stopped then
    """
    pending = [item for item in items if not is_settled(item)]
    if not pending:
        return
    try:
        with (
            progress_bar(label, len(items)) as bar,
            Pool(stage / "jobs", compute, compute.resource(resource), python) as pool,
        ):
            trials = Trials(pending, compute.max_attempts)
            while pending:
                if not pool.is_busy():
                    pending = trials.not_hopeless(pending)
                    if not pending:
                        break
                    for item in pending:
                        item.reopen()
                    pool.start(pending)
                time.sleep(compute.poll_s)
                pending = [item for item in pending if not is_settled(item)]
                bar.show(len(items) - len(pending), len(items), items[0].progress if len(items) == 1 else None)
                _raise_if_fatal(pending)
    except OSError as error:
        raise explain_os_error(error, stage) from error


def is_settled(item: Item) -> bool:
    """Whether there is nothing left to do: done, or failed in a way that trying again would not change."""
    failure = item.failure
    return item.is_done or (failure is not None and not failure["retryable"] and not failure["is_fatal"])


def _raise_if_fatal(items: Sequence[Item]) -> None:
    for item in items:
        failure = item.failure
        if failure is not None and failure["is_fatal"]:
            raise ChemLoopError(f"{failure['reason']} (log: {item.folder / 'log.out'})")


class Trials:
    """How often each item was begun without getting any further, since this driver came."""

    def __init__(self, items: Sequence[Item], max_attempts: int):
        self.max_attempts = max_attempts
        self.origins = {item: (item.progress, item.n_starts) for item in items}
        self.n_starts = -1
        self.n_idle = 0

    def not_hopeless(self, items: Sequence[Item]) -> list[Item]:
        """The items that deserve another start; the others are marked as failed."""
        n_starts = sum(item.n_starts for item in self.origins)
        self.n_idle = self.n_idle + 1 if n_starts == self.n_starts else 0
        self.n_starts = n_starts
        left = []
        for item in items:
            progress, first = self.origins[item]
            if item.progress != progress:
                self.origins[item] = item.progress, item.n_starts
                left.append(item)
            elif max(item.n_starts - first, self.n_idle) < self.max_attempts:
                left.append(item)
            elif item.failure is None:
                times = f"ended {self.max_attempts} times without a result"
                item.fail(f"its worker {times}; last lines: {item.log_tail()!r}")
        return left


class Pool:
    """At most `workers` jobs of one stage; leaving it by an error, or by Ctrl-C, stops what still runs."""

    def __init__(self, folder: Path, compute: Compute, resource: Resource, python: str | None):
        folder.mkdir(parents=True, exist_ok=True)
        self.python = python
        self.folder = folder
        self.compute = compute
        self.resource = resource
        self.jobs = [Job(record, None) for record in sorted(folder.glob("*.json"))]

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for job in self.jobs if kind is not None else []:
            if job.is_alive:
                job.stop()

    def is_busy(self) -> bool:
        self.jobs = [job for job in self.jobs if job.is_alive]
        return bool(self.jobs)

    def start(self, items: Sequence[Item]) -> None:
        """Give all items to every worker, each beginning elsewhere: what one has taken the others skip."""
        n_workers = min(len(items), self.resource.workers or len(os.sched_getaffinity(0)))
        logging.getLogger("submitit").setLevel(logging.WARNING)
        python = {} if self.python is None else {f"{self.compute.cluster}_python": shlex.quote(self.python)}
        executor = submitit.AutoExecutor(folder=self.folder / "%j", cluster=self.compute.cluster, **python)
        executor.update_parameters(timeout_min=self.resource.timeout_min, gpus_per_node=self.resource.n_gpus)
        folders = [str(item.folder) for item in items]
        with thread_variables(1), interrupts_ignored():
            for number in range(n_workers):
                handle = executor.submit(worker.run_items, folders, number * len(items) // n_workers)
                record = self.folder / f"{handle.job_id}.json"
                pid = int(handle.job_id)
                write_json(record, {"pid": pid, "started": psutil.Process(pid).create_time()})
                self.jobs.append(Job(record, handle))


@contextmanager
def thread_variables(n_threads: int) -> Iterator[None]:
    """Set the thread counts that processes started inside inherit, and sleep instead of spin when they wait."""
    wanted = dict.fromkeys(THREAD_VARIABLES, str(n_threads)) | {
        "OMP_WAIT_POLICY": "PASSIVE",
        "NUMBA_THREADING_LAYER": "workqueue",
        "PYTHONWARNINGS": "ignore",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Processes started inside do not see Ctrl-C: the driver stops them itself, and they leave no traceback."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_main else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


class Bar:
    """Counts settled items, or the steps of a single item that reports its progress."""

    def __init__(self, bar: tqdm):
        self.bar = bar

    def show(self, done: int, total: int, steps: tuple[int, int] | None) -> None:
        if steps and done < total:
            done, total = steps
        if total != self.bar.total:
            self.bar.reset(total)
        self.bar.update(done - self.bar.n)


@contextmanager
def progress_bar(label: str, n_items: int) -> Iterator[Bar]:
    """One line per stage with counts and time left; redrawn rarely where nobody watches."""
    interval = 0.2 if sys.stderr.isatty() else 30
    with tqdm(total=n_items, desc=label, mininterval=interval, maxinterval=interval, dynamic_ncols=True) as bar:
        yield Bar(bar)
