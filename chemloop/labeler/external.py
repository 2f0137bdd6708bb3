"""Labels from a program that runs as a process of its own, and what its end means."""

from __future__ import annotations

import os
import shlex
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from ase import Atoms

from chemloop.physics.limits import Limits, find_misshape
from chemloop.runtime.errors import ConfigError, ItemFailed
from chemloop.runtime.process import last_lines, run_program

KINDS = ("relax", "static")
LOG = "labeler.out"


@dataclass
class ExternalLabeler(ABC):
    """timeout_min: after this long a calculation is stopped; what it reached is where the next attempt begins."""

    is_instant: ClassVar[bool] = False

    timeout_min: float = 1440

    def __post_init__(self) -> None:
        if self.timeout_min <= 0:
            raise ConfigError(f"labeler.timeout_min = {self.timeout_min:g}: must be above 0")

    @abstractmethod
    def command(self, workdir: Path) -> list[str]:
        """The process that computes a label, to be started in `workdir`."""

    def run(self, workdir: Path) -> None:
        """Run `command` to its end; what it prints goes to `labeler.out`.

        Raises: ItemFailed, retryable, after `timeout_min`. Another bad end is for `read` to explain
        """
        # a checkout that is not installed is found from its own folder only
        here = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, here))}
        log = workdir / LOG
        if run_program(self.command(workdir), workdir, log, self.timeout_min * 60, environment) is None:
            raise ItemFailed(
                f"stopped after labeler.timeout_min = {self.timeout_min:g} min (log: {log})", retryable=True
            )


def check_kind(kind: str) -> None:
    """Raises: ValueError"""
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, it must be one of {KINDS}")


def check_program(line: str, key: str, remedy: str) -> list[str]:
    """The words of a command line whose first one is a program that exists.

    Raises: ConfigError, naming the key and what to do
    """
    words = shlex.split(line)
    if not words or shutil.which(words[0]) is None:
        raise ConfigError(f"{key} = {line!r}: there is no such program on this machine; {remedy}")
    return words


def check_shapes(frames: Sequence[Atoms]) -> None:
    """Check that a relaxation ended in a crystal.

    Raises: ItemFailed where it exploded or collapsed
    """
    for number, frame in enumerate(frames):
        flaw = find_misshape(frame, frames[0].cell.volume, Limits())
        if flaw is not None:
            raise ItemFailed(f"ionic step {number + 1} of {len(frames)}: {flaw}")


def is_same_crystal(a: Atoms, b: Atoms, tolerance: float) -> bool:
    """Whether two structures have the same atoms in the same order, cell and places, to a tolerance in A."""
    if list(a.numbers) != list(b.numbers) or not np.allclose(a.cell.array, b.cell.array, rtol=0, atol=tolerance):
        return False
    shifts = a.get_scaled_positions() - b.get_scaled_positions()
    return bool(np.abs((shifts - np.rint(shifts)) @ b.cell.array).max() < tolerance)


def log_tail(workdir: Path, n_lines: int = 3) -> str:
    """The last lines that the program printed."""
    return last_lines(workdir / LOG, n_lines) if (workdir / LOG).exists() else "nothing"
