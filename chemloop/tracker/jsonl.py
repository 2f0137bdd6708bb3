"""Metrics as plain lines of JSON in `<campaign>/metrics.jsonl`, written anew each time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chemloop.runtime.disk import write_whole
from chemloop.tracker import Point, Table


@dataclass
class JsonlTracker:
    """One line per point: {"iteration": 1, "screen/n_sun": 7, ...}; checkpoints and tables stay where they are."""

    def begin(self, campaign: Path, config: dict[str, Any]) -> None:
        self._path = campaign / "metrics.jsonl"

    def show(self, history: Sequence[Point], checkpoints: Mapping[int, Path] | None = None) -> None:
        lines = [json.dumps({"iteration": point.iteration, **point.metrics}) + "\n" for point in history]
        write_whole(self._path, "".join(lines).encode())

    def tabulate(self, tables: Sequence[Table]) -> None:
        """Nothing: the structures are in `structures.db`, the motifs in `catalogue.json`."""

    def end(self) -> bool:
        return True
