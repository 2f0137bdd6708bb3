"""Jobs of a SLURM cluster, through submitit: which resources a class of work asks for, checked before anything runs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from chemloop.compute.local import check_device, check_waiting
from chemloop.compute.slurm_pool import SlurmPool, answer_to
from chemloop.compute.slurm_probe import probe
from chemloop.runtime.errors import ConfigError
from chemloop.runtime.queue import Partition, partitions

OURS = ("array", "chdir", "error", "job-name", "open-mode", "output", "signal", "time", "partition", "mem")
"""Options of sbatch that have a key of their own or are not free."""

SHORTEST_MIN = 5
"""SLURM may warn a job a minute early: one with a shorter limit would be warned when it begins, and never end."""


@dataclass
class SlurmResource:
    """What a job of one class of work asks for: `cpu`, `gpu` or `dft`.

    time_min: limit of one job; near it, the job puts itself back into the queue
    mem_gb, cpus, gpus: per job
    device: where torch computes, `cpu` or `cuda`
    max_jobs: in the queue at once; items_per_job: 0 = shared among max_jobs
    account, qos, constraint: as sbatch takes them; arguments: any other of its options
    modules: loaded, and setup: lines of shell run, before the worker starts
    """

    partition: str
    time_min: int
    mem_gb: float = 4.0
    cpus: int = 1
    gpus: int = 0
    device: str = "cpu"
    max_jobs: int = 32
    items_per_job: int = 0
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    arguments: dict[str, str] = field(default_factory=dict)
    modules: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for key, lowest in (
            ("time_min", SHORTEST_MIN),
            ("cpus", 1),
            ("gpus", 0),
            ("max_jobs", 1),
            ("items_per_job", 0),
        ):
            if getattr(self, key) < lowest:
                raise ConfigError(f"compute {key} = {getattr(self, key)}: must be {lowest} or above")
        if not self.mem_gb > 0:
            raise ConfigError(f"compute mem_gb = {self.mem_gb:g}: must be above 0")
        check_device(self.device)
        if self.device.startswith("cuda") and self.gpus < 1 and not {"gres", "gpus"} & self.arguments.keys():
            raise ConfigError(f"compute device = {self.device} with gpus = 0: ask for a GPU, or compute on the cpu")
        for key in ("partition", "account", "qos", "constraint"):
            check_value(key, getattr(self, key))
        for key, value in self.arguments.items():
            if key.replace("_", "-") in OURS or not key.replace("_", "").replace("-", "").isalnum():
                raise ConfigError(
                    f"compute arguments has {key!r}: must be an option of sbatch without its dashes, and none of"
                    f" {', '.join(OURS)}"
                )
            check_value(f"arguments.{key}", value)
        for module in self.modules:
            check_value("modules", module)

    @property
    def n_cores(self) -> int:
        """Cores that an item may use which has its stage to itself."""
        return self.cpus


def check_value(key: str, value: str | None) -> None:
    """A line break in a value would begin a line of shell in the script of the job.

    Raises: ConfigError
    """
    if value is not None and (not value or not value.isprintable()):
        raise ConfigError(f"compute {key} = {value!r}: must be printable characters on one line")


@dataclass
class SlurmCompute:
    """`conf/compute/slurm.yaml`.

    queue_s: s between two looks at the queue
    """

    cpu: SlurmResource
    gpu: SlurmResource
    dft: SlurmResource
    max_attempts: int = 3
    poll_s: float = 5.0
    queue_s: float = 15.0

    def __post_init__(self) -> None:
        check_waiting(self.max_attempts, self.poll_s)
        if not 0 < self.queue_s <= 30:
            raise ConfigError(f"compute.queue_s = {self.queue_s:g}: must be above 0 and at most 30")

    def pool(self, folder: Path, resource: str, label: str, python: str | None) -> SlurmPool:
        """Raises: ConfigError, before anything is queued, where partitions, limits or the nodes' Python do not fit"""
        self.check(folder)
        chosen = {"cpu": self.cpu, "gpu": self.gpu, "dft": self.dft}[resource]
        probe(folder, resource, chosen, python)
        return SlurmPool(folder, resource, chosen, self.queue_s, label, python)

    def one_at_a_time(self) -> SlurmCompute:
        return replace(self, gpu=replace(self.gpu, items_per_job=1))

    def check(self, folder: Path) -> None:
        """Raises: ConfigError for a machine without SLURM, and for what its partitions do not give"""
        if shutil.which("sbatch") is None:
            raise ConfigError(
                "compute=slurm: there is no sbatch on this machine; start this on a login node of the cluster, or"
                " compute here with compute=local"
            )
        # SLURM expands these in the names of log files, and would not find them
        if {"%", "\\"} & set(str(folder)) or not str(folder).isprintable():
            raise ConfigError(
                f"compute=slurm: the folder {str(folder)!r} has %, \\ or a line break in its name, which SLURM cannot"
                " write logs to; choose another with outputs=FOLDER or campaign=NAME"
            )
        found = answer_to(partitions, "which partitions there are")
        known = {partition.name: partition for partition in found}
        for key in ("gpu", "cpu", "dft"):
            check_partition(f"compute.{key}", getattr(self, key), known)


def check_partition(key: str, resource: SlurmResource, known: dict[str, Partition]) -> None:
    """Raises: ConfigError"""
    # a job may name several, of which SLURM takes the first that is free
    for name in resource.partition.split(","):
        partition = known.get(name)
        if partition is None:
            raise ConfigError(f"{key}.partition = {name}: there is no such partition; there are {', '.join(known)}")
        if not partition.is_up:
            raise ConfigError(f"{key}.partition = {name}: this partition is down and takes no jobs")
        if partition.limit_min is not None and resource.time_min > partition.limit_min:
            raise ConfigError(
                f"{key}.time_min = {resource.time_min}: partition {name} allows {partition.limit_min:g} minutes;"
                " longer work is continued job after job, so a lower limit costs little"
            )
