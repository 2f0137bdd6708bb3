"""The campaign folder: where things lie, which configuration it belongs to, and who is driving it."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from chemloop.runtime.disk import write_whole
from chemloop.runtime.errors import CampaignError
from chemloop.runtime.queue import QueueUnavailable, is_queued

STAGES = ("seed", "generate", "relax", "screen", "describe", "select", "label", "curate", "finetune", "learn")
"""In their order; a stage's folder is `<its place>-<its name>`. New ones go to the end: numbers are part of what
campaigns are made of."""

FREE_KEYS = (
    *("compute", "tracker", "workflow", "options.compute", "options.tracker", "options.workflow"),
    *("outputs", "label_cache", "label_cache_gb", "system.downloads", "generator.downloads", "loop.max_iterations"),
    *("model.python", "generator.python", "labeler.python", "loop.relax.coarse.model.python", "generator.device"),
    *("labeler.executable", "labeler.n_cores", "labeler.timeout_min", "labeler.poll_s", "labeler.max_corrections"),
    *("labeler.n_ranks", "labeler.mpi", "labeler.datasets"),
)
"""Settings that decide where and for how long, never what comes out: they may change between runs."""


@dataclass(frozen=True)
class Campaign:
    """`outputs/<name>/`."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def ledger(self) -> Path:
        return self.folder / "structures.db"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def iteration(self, number: int) -> Path:
        return self.folder / f"iter-{number:03d}"

    def config(self) -> dict[str, Any]:
        """The resolved configuration, as written when the campaign began."""
        return yaml.safe_load((self.folder / "campaign.yaml").read_text())

    def begin(self, config: dict[str, Any]) -> None:
        """Write `campaign.yaml`, or check that the campaign was begun with the same configuration.

        Raises: CampaignError, listing the keys that differ, or when the folder cannot be written, or another version of
            ChemLoop numbered its stages otherwise
        """
        self.check_stages()
        path = self.folder / "campaign.yaml"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._compare(config)
            if not path.exists() or self.config() != config:
                write_whole(path, yaml.safe_dump(config, sort_keys=False).encode())
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise CampaignError(
                f"the campaign folder {self.folder} cannot be written ({error.strerror});"
                " choose a writable one with outputs=FOLDER"
            ) from error
        except OSError as error:
            raise explain_os_error(error, self.folder) from error

    def check_stages(self) -> None:
        """Check that the folders of stages have the numbers of this version: others would be taken for missing ones.

        Raises: CampaignError
        """
        for folder in sorted(self.folder.glob("iter-*/[0-9]*-*")):
            number, _, name = folder.name.partition("-")
            if name in STAGES and number != str(STAGES.index(name)):
                raise CampaignError(
                    f"campaign {self.name} was computed by another version of ChemLoop: it has {folder.parent.name}/"
                    f"{folder.name}, which this version calls {STAGES.index(name)}-{name}. Go on with the version that"
                    " began it, or begin a new one with campaign=NAME; its labels are taken from the label cache"
                )

    def _compare(self, config: dict[str, Any]) -> None:
        before, now = flatten(self.config()), flatten(config)
        changed = [
            f"{key}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and not _is_free(key)
        ]
        if changed:
            raise CampaignError(
                f"campaign {self.name} was begun with another configuration; changed: {'; '.join(changed)}."
                " Go back to the former values, or give the new campaign a name of its own with campaign=NAME"
            )

    @contextmanager
    def drive(self) -> Iterator[None]:
        """Be the one driver of this campaign; the lock of a process that died is taken over.

        The system drops the lock with the process; the file's content says who holds it, and, where a driver on
        another machine left it behind, that nobody here can know whether that one still runs.

        Raises: CampaignError when another driver is at work
        """
        path = self.folder / "campaign.lock"
        try:
            file = open(path, "a+")  # noqa: SIM115 - the with statement follows, outside the try
        except OSError as error:
            raise explain_os_error(error, self.folder) from error
        with file:
            file.seek(0)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                holder = file.read().split()
                is_mine = not holder or holder[0] == socket.gethostname() or is_of_ended_job(holder)
            except BlockingIOError:
                holder, is_mine = file.read().split(), False
            if not is_mine:
                host, pid = [*holder, "?", "?"][:2]
                raise CampaignError(
                    f"campaign {self.name} is being driven by process {pid} on {host};"
                    f" wait for it, stop it, or, if it is surely gone, delete {path}"
                )
            file.truncate(0)
            file.write(f"{socket.gethostname()} {os.getpid()} {os.environ.get('SLURM_JOB_ID', '')}\n")
            file.flush()
            yield
            file.truncate(0)


def is_of_ended_job(holder: list[str]) -> bool:
    """Whether the driver that left a lock ran in a SLURM job that is over, or that is this one, requeued elsewhere."""
    if len(holder) < 3:
        return False
    try:
        return holder[2] == os.environ.get("SLURM_JOB_ID") or not is_queued(holder[2])
    except QueueUnavailable:
        return False


def is_running(pid: int, started: float) -> bool:
    """Whether the process with this id, started at this time (s since the epoch), is alive on this machine."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def explain_os_error(error: OSError, folder: Path) -> CampaignError:
    """A full disk or a missing permission as an error with a way out; nothing that is finished is lost by it."""
    return CampaignError(
        f"writing below {folder} failed: {error.strerror or error}."
        " Make room or make the folder writable, then run the same command again: it continues where it stopped"
    )


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted keys."""
    if not isinstance(config, dict):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)
