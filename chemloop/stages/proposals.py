"""What became of the structures that generators proposed, counted by generator, operator and reason."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ase import Atoms

from chemloop.runtime.disk import read_json

PROPOSALS = "proposals.json"
YIELD = "yield.json"
"""What a generator may leave in its folder: the number of `attempts`, of those `rejected` for each reason, and
`cpu_seconds`, `warnings` for people; `by_generator`, the same for each of several generators that it has called."""


@dataclass
class Made:
    """What one operator of one generator made; operator: empty where there is none."""

    generator: str
    operator: str = ""
    n_proposed: int = 0
    n_valid: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass
class Proposals:
    """made: by generator and operator; n_attempts, rejected: by generator, what each says of its own attempts.

    warnings: by generator, what people should know of what was asked of it
    n_missing: structures asked for that nobody proposed
    """

    made: dict[tuple[str, str], Made] = field(default_factory=dict)
    n_attempts: Counter[str] = field(default_factory=Counter)
    rejected: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    warnings: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    n_missing: int = 0

    def of(self, atoms: Atoms) -> Made:
        """The row of the operator that made a structure."""
        key = str(atoms.info["generator"]), str(atoms.info.get("operator", ""))
        return self.made.setdefault(key, Made(*key))

    def count(self, atoms: Atoms, fault: str | None) -> None:
        """A structure is proposed; fault: why it is dropped, None where it is valid."""
        row = self.of(atoms)
        row.n_proposed += 1
        if fault is None:
            row.n_valid += 1
        else:
            row.dropped[fault] += 1

    def count_yields(self, yields: Mapping[str, Mapping[str, Any]]) -> None:
        """yields: as `yields_in` has them."""
        for generator, counts in yields.items():
            self.n_attempts[generator] += counts["attempts"]
            self.rejected[generator].update(counts["rejected"])
            self._warn(generator, counts.get("warnings", []))

    def _warn(self, generator: str, warnings: Sequence[str]) -> None:
        if warnings:
            self.warnings[generator] = list(dict.fromkeys([*self.warnings[generator], *warnings]))

    def drop(self, atoms: Atoms, fault: str) -> None:
        """A structure that was counted as valid is none after all."""
        row = self.of(atoms)
        row.n_valid -= 1
        row.dropped[fault] += 1

    def __iadd__(self, other: Proposals) -> Proposals:
        for key, row in other.made.items():
            mine = self.made.setdefault(key, Made(*key))
            mine.n_proposed += row.n_proposed
            mine.n_valid += row.n_valid
            mine.dropped.update(row.dropped)
        self.n_attempts.update(other.n_attempts)
        for generator, reasons in other.rejected.items():
            self.rejected[generator].update(reasons)
        for generator, warnings in other.warnings.items():
            self._warn(generator, warnings)
        self.n_missing += other.n_missing
        return self

    @property
    def n_proposed(self) -> int:
        return sum(row.n_proposed for row in self.made.values())

    @property
    def dropped(self) -> Counter[str]:
        """By reason, all generators together."""
        return sum((row.dropped for row in self.made.values()), Counter[str]())

    @property
    def generators(self) -> list[str]:
        """All that have tried."""
        return sorted({generator for generator, _ in self.made} | set(self.n_attempts))

    def of_generator(self, generator: str) -> Made:
        """All operators of one generator together."""
        total = Made(generator)
        for row in self.made.values():
            if row.generator == generator:
                total.n_proposed += row.n_proposed
                total.n_valid += row.n_valid
                total.dropped.update(row.dropped)
        return total

    def metrics(self) -> dict[str, float]:
        """Counts, those that fell out by reason; all together, and after its name for each generator."""
        rejected = sum(self.rejected.values(), Counter[str]())
        metrics = _counts("", self.n_proposed, None if not self.n_attempts else self.n_attempts.total())
        metrics |= _by_reason("", self.dropped, rejected)
        for name in self.generators:
            row = self.of_generator(name)
            metrics |= _counts(f"{name}/", row.n_proposed, self.n_attempts.get(name))
            metrics[f"{name}/n_valid"] = row.n_valid
            metrics |= _by_reason(f"{name}/", row.dropped, self.rejected.get(name, Counter()))
        return metrics

    def to_json(self) -> dict[str, Any]:
        made = [vars(self.made[key]) for key in sorted(self.made)]
        others = {key: getattr(self, key) for key in ("n_attempts", "rejected", "warnings", "n_missing")}
        return {"made": made, **others}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Proposals:
        rows = [Made(**{**row, "dropped": Counter(row["dropped"])}) for row in content["made"]]
        rejected = defaultdict(Counter, {name: Counter(reasons) for name, reasons in content["rejected"].items()})
        made = {(row.generator, row.operator): row for row in rows}
        warnings = defaultdict(list, content.get("warnings", {}))  # which earlier versions did not write
        return cls(made, Counter(content["n_attempts"]), rejected, warnings, content["n_missing"])


def yields_in(folder: Path, generator: str) -> dict[str, dict[str, Any]]:
    """What the generators that worked in a folder say of their attempts, by generator; empty where they say nothing.

    generator: whose folder it is
    """
    if not (folder / YIELD).exists():
        return {}
    counts = read_json(folder / YIELD)
    return counts.get("by_generator") or {generator: counts}


def read_proposals(folder: Path) -> Proposals:
    """Those of a finished item, or of a finished stage."""
    return Proposals.from_json(read_json(folder / PROPOSALS))


def _counts(prefix: str, n_generated: int, n_attempts: int | None) -> dict[str, float]:
    counts: dict[str, float] = {f"{prefix}n_generated": n_generated}
    return counts if n_attempts is None else counts | {f"{prefix}n_attempts": n_attempts}


def _by_reason(prefix: str, dropped: Counter[str], rejected: Counter[str]) -> dict[str, float]:
    return {
        f"{prefix}n_{kind}_{re.sub(r'[^A-Za-z0-9-]+', '_', reason)}": n
        for kind, reasons in (("dropped", dropped), ("rejected", rejected))
        for reason, n in sorted(reasons.items())
    }
