"""Where workers run: `compute=NAME` is `conf/compute/NAME.yaml` + `chemloop/compute/NAME.py`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from chemloop.runtime.item import Item


class HandedBack(NamedTuple):
    """Items that no worker has any more, or has had yet; they were given out together.

    reason: what became of their worker, where more is known than that it is gone
    """

    items: list[Item]
    reason: str | None = None


class Pool(Protocol):
    """The workers of one stage. Leaving its with statement by an error stops them, where that is wanted."""

    def handed_back(self, pending: Sequence[Item]) -> list[HandedBack]:
        """Those of the unfinished items that nobody works on or is going to."""

    def start(self, items: Sequence[Item]) -> None:
        """Give items to workers."""

    @property
    def note(self) -> str:
        """What a person who waits wants to know, in a few words."""


class Resource(Protocol):
    """What one class of work may use: `cpu`, `gpu` or `dft`."""

    device: str

    @property
    def n_cores(self) -> int:
        """Cores that an item may use which has its stage to itself, asked in its worker."""


class Compute(Protocol):
    """`conf/compute/*.yaml`: what each resource class means here.

    max_attempts: how often an item may be started without getting any further before it counts as failed
    poll_s: s between two looks at the items, at least
    """

    max_attempts: int
    poll_s: float
    cpu: Resource
    gpu: Resource
    dft: Resource

    def pool(self, folder: Path, resource: str, label: str, python: str | None) -> AbstractContextManager[Pool]:
        """The workers of one stage, those that an earlier driver left behind included.

        folder: where the records of the jobs lie
        python: the interpreter of the workers, None for the driver's own
        Raises: ConfigError where the configuration does not fit the machine
        """

    def one_at_a_time(self) -> Compute:
        """The same, but with one item of the class `gpu` at a time on each GPU."""
