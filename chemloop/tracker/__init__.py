"""Where the metrics of a campaign are shown.

A tracker is told the whole history again after every stage, read from the stages' `metrics.json`: so a campaign that
was killed, or ran without network, loses no point and shows none twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Point:
    """One point of the history: which iteration it belongs to, and its metrics as `stage/metric_unit`."""

    iteration: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Table:
    """What a campaign found, as plain values; name: letters, digits and underscores."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Tracker(Protocol):
    """Shows metrics; `conf/tracker/NAME.yaml` + `chemloop/tracker/NAME.py`."""

    def begin(self, campaign: Path, config: dict[str, Any]) -> None:
        """Open; called once by a driver, before the first `show`."""

    def show(self, history: Sequence[Point], checkpoints: Mapping[int, Path] | None = None) -> None:
        """Show what is new; the history's points only ever grow at the end.

        checkpoints: of the force field, by iteration, all there are so far
        """

    def tabulate(self, tables: Sequence[Table]) -> None:
        """Show the tables, once, when a campaign has come to its end."""

    def end(self) -> bool:
        """Close; whether everything is shown."""
