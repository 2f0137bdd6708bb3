"""What the evaluation of a generator shows, as plain data, and its tables."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from chemloop.report.curve_data import COLORS, SYMBOLS

ANY = "any"
"""The row of all samples of a generator that is not asked for sizes."""
SHARES = (
    ("valid", "n_valid", "n_asked", "Valid (% of asked)"),
    ("converged", "n_converged", "n_valid", "Converged (% of valid)"),
    ("unique", "n_unique", "n_compared", "Unique (% of converged)"),
    ("novel", "n_novel", "n_converged", "Novel (% of converged)"),
    ("stable", "n_stable", "n_converged", "Stable (% of converged)"),
    ("S.U.N.", "n_sun", "n_asked", "S.U.N. (% of asked)"),
)
"""Name, what is counted, of what, and the title of its axis."""
PANELS = (
    *((name, title) for name, _, _, title in SHARES if name != "converged"),
    ("e_above_hull", "Energy above hull (eV/atom)"),
    ("rmsd", "RMSD to relaxed (Å)"),
    ("cpu", "CPU seconds per structure"),
)
"""What the figure shows against the number of atoms, and the titles of the axes."""
QUANTILES = (0.0, 0.25, 0.5, 0.75)


@dataclass
class EvaluationRow:
    """Cells of one size by one generator.

    atoms: range of sizes, such as `12` or `9-12`; n_atoms: its upper end
    n_asked: structures asked for; of the sizes that the generator chose itself, those that it proposed
    faults: why proposals were not valid, with their numbers
    n_unique, n_novel, n_stable: of converged ones; n_sun: all three
    n_duplicates: of those that were dropped before they were relaxed; they count as converged, but not unique
    e_above_hull (eV/atom), rmsd (A): least, lower quartile, median, upper quartile of the converged ones; or empty
    generate_cpu_s, relax_cpu_s: seconds of one core
    """

    generator: str
    atoms: str
    n_atoms: int
    n_asked: int = 0
    n_valid: int = 0
    n_converged: int = 0
    n_unique: int = 0
    n_novel: int = 0
    n_stable: int = 0
    n_sun: int = 0
    n_duplicates: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    e_above_hull: list[float] = field(default_factory=list)
    rmsd: list[float] = field(default_factory=list)
    generate_cpu_s: float = 0.0
    relax_cpu_s: float = 0.0

    def share(self, name: str) -> tuple[float, float, float] | None:
        """One of SHARES in percent, and the ends of its 95 % interval (Wilson); None where it is a share of nothing."""
        from scipy.stats import binomtest

        _, counted, of, _ = next(share for share in SHARES if share[0] == name)
        n, total = getattr(self, counted), getattr(self, of)
        if total == 0:
            return None
        low, high = binomtest(n, total).proportion_ci(method="wilson")
        return 100 * n / total, 100 * float(low), 100 * float(high)

    def shown(self, panel: str) -> tuple[float, float, float] | None:
        """Value, lower and upper end of one of PANELS: a share with its interval, or a median with its quartiles."""
        if panel == "cpu":
            seconds = self.generate_cpu_s + self.relax_cpu_s
            return (seconds / self.n_asked,) * 3 if seconds and self.n_asked else None
        if panel in ("e_above_hull", "rmsd"):
            _, *spread = getattr(self, panel) or [None]
            return (spread[1], spread[0], spread[2]) if spread else None
        if panel == "valid" and self.is_range:
            return None
        return self.share(panel)

    @property
    def n_compared(self) -> int:
        """Structures that might have been unique."""
        return self.n_converged + self.n_duplicates

    @property
    def is_range(self) -> bool:
        """Whether the generator was not asked for this size; then nothing is known of what was not valid."""
        return not self.atoms.isdigit()

    @property
    def sun_per_cpu_minute(self) -> float | None:
        """Generating and relaxing together."""
        seconds = self.generate_cpu_s + self.relax_cpu_s
        return 60 * self.n_sun / seconds if seconds else None


@dataclass
class EvaluationData:
    """name: of the evaluation; record: its evaluation.json without the rows; notices: what people should know.

    rows: of this evaluation, then of those that it is compared with, by size
    """

    name: str
    record: dict[str, Any]
    rows: Sequence[EvaluationRow]
    notices: Sequence[str] = ()

    @property
    def generators(self) -> list[str]:
        return list(dict.fromkeys(row.generator for row in self.rows))

    def line(self, generator: str, panel: str) -> np.ndarray:
        """(n_points, 4): atoms per cell, value, lower and upper end of one of PANELS, where there is a value."""
        rows = [row for row in self.rows if row.generator == generator and row.atoms != ANY]
        points = [(row.n_atoms, shown) for row in rows if (shown := row.shown(panel)) is not None]
        return np.array([(n_atoms, *shown) for n_atoms, shown in points], dtype=float).reshape(-1, 4)


def looks(data: EvaluationData) -> dict[str, tuple[str, str]]:
    """Colour and marker of each generator; beyond seven they come again."""
    return dict(zip(data.generators, itertools.cycle(zip(COLORS, SYMBOLS, strict=True)), strict=False))


def quantiles(values: Sequence[float]) -> list[float]:
    """QUANTILES of the values; empty where there are none."""
    return [float(value) for value in np.quantile(values, QUANTILES)] if len(values) else []


HEADER = (
    *("generator", "atoms", "asked", "valid", "converged", "unique", "novel", "stable", "S.U.N."),
    *("E_hull eV", "lowest", "RMSD Å", "valid/s", "S.U.N./min"),
)


def cells(row: EvaluationRow) -> list[str]:
    """One line of the table: counts, medians of the converged ones, yields per second and minute of one core."""
    counts = [row.n_asked, row.n_valid, row.n_converged, row.n_unique, row.n_novel, row.n_stable, row.n_sun]
    lowest, median = (row.e_above_hull[0], row.e_above_hull[2]) if row.e_above_hull else (None, None)
    rmsd = row.rmsd[2] if row.rmsd else None
    valid_per_s = row.n_valid / row.generate_cpu_s if row.generate_cpu_s else None
    numbers = ((median, "{:.3f}"), (lowest, "{:+.3f}"), (rmsd, "{:.2f}"), (valid_per_s, "{:.1f}"))
    shown = ["-" if value is None else text.format(value) for value, text in numbers]
    per_minute = "-" if row.sun_per_cpu_minute is None else f"{row.sun_per_cpu_minute:.2f}"
    return [row.generator, row.atoms, *map(str, counts), *shown, per_minute]


def markdown(rows: Sequence[EvaluationRow]) -> str:
    """The table, aligned, as it reads in a terminal and in Markdown."""
    lines = [list(HEADER), *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in (lines[0], rule, *lines[1:])
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def table(rows: Sequence[EvaluationRow]) -> str:
    """CSV, one line per row; units in the names of the columns."""
    names = ["least", "lower_quartile", "median", "upper_quartile"]
    spreads = {"e_above_hull": "ev_per_atom", "rmsd": "ang"}
    counts = [f.name for f in fields(EvaluationRow) if f.name.startswith("n_") and f.name != "n_atoms"]
    faults = sorted({fault for row in rows for fault in row.faults})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["generator", "atoms", *counts, *(f"n_dropped_{fault.replace(' ', '_')}" for fault in faults)]
        + [f"{key}_{name}_{unit}" for key, unit in spreads.items() for name in names]
        + ["generate_cpu_s", "relax_cpu_s", "sun_per_cpu_minute"]
    )
    for row in rows:
        values = asdict(row)
        writer.writerow(
            [row.generator, row.atoms, *(values[key] for key in counts), *(row.faults.get(key, 0) for key in faults)]
            + [value for key in spreads for value in (values[key] or [""] * len(names))]
            + [row.generate_cpu_s, row.relax_cpu_s, row.sun_per_cpu_minute]
        )
    return text.getvalue()
