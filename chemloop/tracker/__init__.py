"""Where the metrics of a campaign are shown.

A tracker is told the whole history again after every stage, read from the stages' `metrics.json`: so a campaign that
was killed, or ran without network, loses no point and shows none twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Point:
    """One point of the history: which iteration it belongs to, and its metrics as `stage/metric_unit`."""

    iteration: int
    metrics: dict[str, float]


class Tracker(Protocol):
    """Shows metrics; `conf/tracker/NAME.yaml` + `chemloop/tracker/NAME.py`."""

    def begin(self, campaign: Path, config: dict[str, Any]) -> None:
        """Open; called once by a driver, before the first `show`."""

    def show(self, history: Sequence[Point]) -> None:
        """Show what is new in the history; its points only ever grow at the end."""

    def end(self) -> bool:
        """Close; whether everything is shown."""
