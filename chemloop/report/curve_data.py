"""What a learning curve shows, as plain data, and its table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chemloop.report.data import Parity
from chemloop.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION

COLORS = (VERMILION, BLUE, GREEN, ORANGE, PURPLE, SKY, GREY)
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "star", "cross", "x")
DASHES = {"entropy": "solid", "random": "dash"}
GROWTH = "log₁₀ dH/dN (nats/frame)"
PANELS = (
    ("test_energy_rmse_mev_per_atom", "Energy RMSE (meV/atom)"),
    ("test_force_rmse_mev_per_ang", "Force RMSE (meV/Å)"),
)
"""Metric and axis title of the panels below the first one."""
COLUMNS = (
    ("E meV/atom", "test_energy_rmse_mev_per_atom", "{:.1f}"),
    ("base", "base_test_energy_rmse_mev_per_atom", "{:.1f}"),
    ("F meV/Å", "test_force_rmse_mev_per_ang", "{:.1f}"),
    ("base", "base_test_force_rmse_mev_per_ang", "{:.1f}"),
    ("stress meV/Å³", "test_stress_rmse_mev_per_ang3", "{:.2f}"),
    ("base", "base_test_stress_rmse_mev_per_ang3", "{:.2f}"),
    ("dH/dN", "entropy_growth_nats_per_frame", "{:.1e}"),
    ("epochs", "n_epochs", "{:.0f}"),
    ("wall s", "wall_s", "{:.0f}"),
    ("frames/s", "frames_per_s", "{:.1f}"),
)
"""Title, metric and format of the columns after model, selection, n_train, seed; errors are RMSE on the test frames."""
HEADER = ("model", "selection", "n_train", "seed", *(title for title, _, _ in COLUMNS))


@dataclass
class CurveRow:
    """One point: a model trained on the first n_train frames of a selection. metrics: by their names with units."""

    model: str
    selection: str
    n_train: int
    seed: int
    metrics: dict[str, float]
    folder: Path


@dataclass
class CurveParity:
    """One point's test values; arrays: label_energy, before_energy, after_energy (eV/atom), label_force, ... (eV/A),
    n_forces, of which the force components are a sample."""

    row: CurveRow
    arrays: dict[str, np.ndarray]

    def parity(self, channel: str) -> Parity:
        """energy or force by the labels, the base and the fitted model."""
        label, before, after = (self.arrays[f"{who}_{channel}"] for who in ("label", "before", "after"))
        return Parity(label, before, after, int(self.arrays["n_forces"]) if channel == "force" else None)


@dataclass
class CurveData:
    """name: of the sweep; record: its sweep.yaml
    growth: per selection numbers of frames and dH/dN (nats per frame) there
    parities: one per model
    notices: what people should know
    """

    name: str
    record: dict[str, Any]
    rows: Sequence[CurveRow]
    growth: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    parities: Sequence[CurveParity] = ()
    notices: Sequence[str] = ()

    @property
    def label_source(self) -> str:
        """Who computed the labels; a teacher is never taken for DFT."""
        frame = str(self.record["energy_frame"])
        return f"{frame.rpartition('-')[0]} (not DFT)" if frame.startswith("teacher-") else frame

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Model and selection of each line of the figure."""
        return sorted({(row.model, row.selection) for row in self.rows})

    def line(self, model: str, selection: str, key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers of frames, mean and standard deviation over the seeds of a metric; 0 where there is one seed."""
        values: dict[int, list[float]] = {}
        for row in self.rows:
            if (row.model, row.selection) == (model, selection):
                values.setdefault(row.n_train, []).append(row.metrics[key])
        sizes = sorted(values)
        spread = [float(np.std(values[n], ddof=1)) if len(values[n]) > 1 else 0.0 for n in sizes]
        return np.array(sizes), np.array([np.mean(values[n]) for n in sizes]), np.array(spread)


def looks(data: CurveData) -> dict[str, tuple[str, str]]:
    """Colour and marker of each model; beyond seven models they come again."""
    models = sorted({row.model for row in data.rows})
    return dict(zip(models, itertools.cycle(zip(COLORS, SYMBOLS, strict=True)), strict=False))


def logarithms(growth: np.ndarray) -> np.ndarray:
    """log10 of dH/dN; no number where the entropy did not grow."""
    return np.log10(np.where(growth > 0, growth, np.nan))


def cells(row: CurveRow) -> list[str]:
    """One line of the table; a base that was kept is marked."""
    numbers = [shown.format(row.metrics[key]) for _, key, shown in COLUMNS]
    model = f"{row.model} (base kept)" if row.metrics["kept_base"] else row.model
    return [model, row.selection, str(row.n_train), str(row.seed), *numbers]


def markdown(rows: Sequence[CurveRow]) -> str:
    """The table, aligned, as it reads in a terminal and in Markdown."""
    lines = [list(HEADER), *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    is_text = [column < 2 for column in range(len(HEADER))]
    columns = list(zip(widths, is_text, strict=True))
    rule = ["-" * width if text else "-" * (width - 1) + ":" for width, text in columns]
    padded = [
        [cell.ljust(width) if text else cell.rjust(width) for cell, (width, text) in zip(line, columns, strict=True)]
        for line in (lines[0], rule, *lines[1:])
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)
