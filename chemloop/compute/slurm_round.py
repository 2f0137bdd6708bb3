"""What a stage has given to SLURM: one folder per submission.

jobs/0003/round.json   the name of its jobs, which tells them from all others, and the items of each
jobs/0003/             submitit's script, logs and pickles
jobs/CANCELLED         workflow=cancel was here; a driver that sees it stops
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chemloop.runtime.disk import read_json, write_json

CANCELLED = "CANCELLED"
ROUND = "round.json"


@dataclass(frozen=True)
class Round:
    """One submission, `<stage>/jobs/0003/`: an array with one task per list of items, or one job for a single list."""

    folder: Path
    name: str
    items: tuple[tuple[str, ...], ...]
    mem_gb: float

    @classmethod
    def read(cls, folder: Path) -> Round:
        known: dict[str, Any] = read_json(folder / ROUND)
        return cls(folder, known["name"], tuple(map(tuple, known["items"])), known["mem_gb"])

    def write(self) -> None:
        write_json(self.folder / ROUND, {"name": self.name, "items": self.items, "mem_gb": self.mem_gb})

    def log(self, task: int) -> Path | None:
        """What a task printed, where it came to that."""
        pattern = "*_0_log.out" if len(self.items) == 1 else f"*_{task}_0_log.out"
        return max(self.folder.glob(pattern), default=None, key=lambda path: path.stat().st_mtime)


def rounds_in(folder: Path) -> list[Round]:
    """The submissions of a stage, oldest first."""
    return [Round.read(path.parent) for path in sorted(folder.glob(f"*/{ROUND}"))]


def job_name(label: str, folder: Path) -> str:
    """Safe in any script, and of this round only: the folder is in it."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-")
    return f"chemloop.{readable}.{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
