"""Attempts, crystals, rejections and CPU time of a generator that has several operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Row:
    """What became of the attempts of one operator; rejected: their number by reason."""

    attempts: int = 0
    crystals: int = 0
    cpu_seconds: float = 0.0
    rejected: Counter[str] = field(default_factory=Counter)


class OperatorYield:
    """The rows of all operators, filled attempt by attempt."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def add(self, operator: str, reason: str | None, cpu_seconds: float) -> None:
        """One attempt; reason: why it gave no crystal, None where it did."""
        self.add_all(operator, 1, {} if reason is None else {reason: 1}, cpu_seconds)

    def add_all(self, operator: str, attempts: int, rejected: Mapping[str, int], cpu_seconds: float) -> None:
        """Many attempts at once; rejected: by reason, the others gave crystals."""
        row = self.rows.setdefault(operator, Row())
        row.attempts += attempts
        row.crystals += attempts - sum(rejected.values())
        row.cpu_seconds += cpu_seconds
        row.rejected.update(rejected)

    def report(self) -> dict[str, Any]:
        """The content of `yield.json`: all operators together, and each."""
        total = Row()
        for row in self.rows.values():
            total.attempts += row.attempts
            total.crystals += row.crystals
            total.cpu_seconds += row.cpu_seconds
            total.rejected += row.rejected
        per_second = {"crystals_per_cpu_second": total.crystals / max(total.cpu_seconds, 1e-9)}
        return {**vars(total), **per_second, "by_operator": {name: vars(row) for name, row in self.rows.items()}}
