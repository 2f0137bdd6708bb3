"""Metrics as plain lines of JSON in `<campaign>/metrics.jsonl`, written anew each time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chemloop.runtime.disk import write_whole
from chemloop.tracker import Point


@dataclass
class JsonlTracker:
    """One line per point: {"iteration": 1, "screen/n_sun": 7, ...}."""

    def begin(self, campaign: Path, config: dict[str, Any]) -> None:
        self._path = campaign / "metrics.jsonl"

    def show(self, history: Sequence[Point]) -> None:
        lines = [json.dumps({"iteration": point.iteration, **point.metrics}) for point in history]
        write_whole(self._path, ("\n".join(lines) + "\n").encode())

    def end(self) -> bool:
        return True
