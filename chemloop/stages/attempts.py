"""What became of a calculation that has no label yet: kept in its folder for the next attempt of its item."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import ItemFailed

NOTE = "failure.json"


@dataclass
class Attempts:
    """The attempts at one calculation that failed and said so; those that were killed are the driver's to count.

    n_idle: how many of them, the latest, came no further than the one before; n_steps: ionic steps that they reached
    core_s: that all of them took
    reason: why there will be no label; None while one may still come
    """

    n_idle: int = 0
    n_steps: int = 0
    core_s: float = 0.0
    reason: str | None = None

    @classmethod
    def at(cls, folder: Path) -> Attempts:
        """Those of the calculation in a folder."""
        note = folder / NOTE
        return cls(**read_json(note)) if note.exists() else cls()

    def add(self, error: ItemFailed, n_steps: int, max_attempts: int) -> None:
        """Take one more into account; after `max_attempts` that came no further, a retryable failure is the last."""
        self.n_idle = 0 if n_steps > self.n_steps else self.n_idle + 1
        self.n_steps = max(n_steps, self.n_steps)
        if not error.retryable:
            self.reason = error.reason
        elif self.n_idle >= max_attempts:
            self.reason = f"{error.reason}; given up after {max_attempts} attempts that came no further"

    def write(self, folder: Path) -> None:
        write_json(folder / NOTE, asdict(self))


def forget(folder: Path) -> None:
    """Let all calculations in the folders below be tried again."""
    for note in folder.glob(f"*/{NOTE}"):
        note.unlink()
