"""The smallest unit of work: a folder that holds its task, its inputs, its outputs and a marker.

item.yaml       what to do; written last, so a folder with it is complete
input.extxyz    the structures it works on, where it has any
log.out         what it printed
DONE | FAILED   how it ended (JSON); DONE lists the hash of every output
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from chemloop.runtime.disk import file_hash, is_intact, read_json, write_json, write_whole
from chemloop.runtime.process import last_lines

VERSIONED = ("torch", "ase", "pymatgen", "lightning", "numpy")


def derived_seed(*parts: object) -> int:
    """A seed in [0, 2^32) that depends on nothing but its parts: campaign seed, iteration, stage, item."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


@dataclass(frozen=True)
class Item:
    """One item folder, `<campaign>/iter-003/2-relax/items/0007`."""

    folder: Path

    @property
    def task(self) -> dict[str, Any]:
        """What `item.yaml` says: stage, iteration, seed and the stage's own keys."""
        return yaml.safe_load((self.folder / "item.yaml").read_text())

    @property
    def is_planned(self) -> bool:
        return (self.folder / "item.yaml").exists()

    @property
    def is_done(self) -> bool:
        return os.path.exists(f"{self.folder}/DONE")

    @property
    def is_finished(self) -> bool:
        return self.is_done or (self.folder / "FAILED").exists()

    @property
    def is_intact(self) -> bool:
        """Whether it is done and its outputs still have the hashes recorded in DONE."""
        return is_intact(self.folder / "DONE")

    @property
    def failure(self) -> dict[str, Any] | None:
        """reason, retryable, is_fatal, where it failed."""
        # strings: a driver looks at ten thousand of these again and again
        return read_json(self.folder / "FAILED") if os.path.exists(f"{self.folder}/FAILED") else None

    @property
    def progress(self) -> tuple[int, int] | None:
        """Steps done and steps in all, where the item reports them."""
        try:
            steps = read_json(self.folder / "progress.json")
            return int(steps["done"]), int(steps["total"])
        except (FileNotFoundError, ValueError, KeyError):
            return None

    @property
    def reached(self) -> tuple[int, int]:
        """How far it has come: steps done, and those of a finer kind inside the next one; (0, 0) where it says nothing.

        Greater means further.
        """
        try:
            steps = read_json(self.folder / "progress.json")
            return int(steps["done"]), int(steps.get("n_steps", 0))
        except (FileNotFoundError, ValueError, KeyError):
            return 0, 0

    @property
    def n_starts(self) -> int:
        """How often a worker has begun it."""
        path = self.folder / ".starts"
        return path.stat().st_size if path.exists() else 0

    def count_start(self) -> None:
        """Note that a worker begins it now."""
        with open(self.folder / ".starts", "ab") as file:
            file.write(b".")

    def plan(self, task: dict[str, Any]) -> None:
        """Write the task; inputs must be there already."""
        write_whole(self.folder / "item.yaml", yaml.safe_dump(task, sort_keys=False).encode())

    def finish(self, outputs: Iterable[str], wall_s: float) -> None:
        """Mark as done; outputs are names of files in the folder."""
        record = {
            "outputs": {name: file_hash(self.folder / name) for name in sorted(outputs)},
            "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
            "wall_s": round(wall_s, 3),
            "host": socket.gethostname(),
        }
        write_json(self.folder / "DONE", record)

    def fail(self, reason: str, retryable: bool = False, is_fatal: bool = False) -> None:
        """Mark as failed. A fatal failure stops the campaign with `reason` as its message."""
        write_json(self.folder / "FAILED", {"reason": reason, "retryable": retryable, "is_fatal": is_fatal})

    def reopen(self) -> None:
        """Forget how it ended, so that it runs again; one that was done begins anew."""
        if self.is_done:
            (self.folder / "progress.json").unlink(missing_ok=True)
        for marker in ("DONE", "FAILED"):
            (self.folder / marker).unlink(missing_ok=True)

    def log_tail(self, n_lines: int = 5) -> str:
        """The last lines that it printed."""
        return last_lines(self.folder / "log.out", n_lines)
