"""What became of the attempts of several generators, and the CPU time that they took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chemloop.runtime.disk import write_json

YIELD = "yield.json"


@dataclass
class Tally:
    """Of one generator: attempts, those rejected by reason, CPU seconds, and what it warns of."""

    attempts: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    cpu_seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)

    def add(self, counts: Mapping[str, Any], measured_seconds: float) -> None:
        """counts: a yield.json; where it has no `cpu_seconds` of its own, those measured count."""
        self.attempts += counts["attempts"]
        self.rejected.update(counts["rejected"])
        self.cpu_seconds += counts.get("cpu_seconds", measured_seconds)
        self.warnings = list(dict.fromkeys([*self.warnings, *counts.get("warnings", [])]))


def write_yield(
    path: Path, tallies: Mapping[str, Tally], weights: Mapping[str, float], failures: Mapping[str, Exception]
) -> None:
    """`yield.json` of all members together, with what each of them did, its share, and why some failed."""
    total = Tally()
    for tally in tallies.values():
        total.add(vars(tally), 0.0)
    by_generator = {name: {**vars(tally), "share": weights[name]} for name, tally in tallies.items()}
    write_json(
        path,
        {
            **vars(total),
            "by_generator": by_generator,
            "failures": {name: str(error) for name, error in failures.items()},
        },
    )
