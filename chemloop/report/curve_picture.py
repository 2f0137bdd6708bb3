"""The figures of a learning curve as static pictures, for papers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chemloop.report.curve_data import DASHES, GROWTH, PANELS, CurveData, logarithms, looks
from chemloop.report.curves import is_logarithmic
from chemloop.report.data import Parity
from chemloop.report.parity import drawn
from chemloop.report.style import BLUE, INK
from chemloop.runtime.disk import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "star": "*", "cross": "P", "x": "X"}
LINES = {"solid": "-", "dash": "--"}
COLUMN = 3.4
"""Inches, the width of a journal's column."""


def write_curve_picture(data: CurveData, path: Path) -> None:
    """log10 dH/dN, energy RMSE and force RMSE, one above the other; the suffix (png, svg, pdf) is the format."""
    from matplotlib.ticker import LogFormatter

    figure = new_figure(1.25 * COLUMN, 2.1 * COLUMN)
    panels = figure.subplots(3, 1, sharex=True)
    for selection, (sizes, growth) in sorted(data.growth.items()):
        panels[0].plot(sizes, logarithms(growth), color=INK, linestyle=LINES[DASHES[selection]], label=selection)
        trained = np.isin(sizes, [row.n_train for row in data.rows if row.selection == selection])
        panels[0].plot(sizes[trained], logarithms(growth)[trained], "o", color=INK, markersize=4)
    panels[0].set_ylabel(GROWTH)
    panels[0].legend(frameon=False, fontsize=8)
    styles = looks(data)
    for axes, (key, title) in zip(panels[1:], PANELS, strict=True):
        for model, selection in data.lines:
            sizes, means, spread = data.line(model, selection, key)
            color, symbol = styles[model]
            axes.errorbar(
                sizes, means, spread if spread.any() else None, color=color, marker=MARKERS[symbol], markersize=4,
                elinewidth=1,
                linestyle=LINES[DASHES[selection]], label=f"{model}, {selection}",
                markerfacecolor=color if selection == "entropy" else "white",
            )  # fmt: skip
        axes.set_ylabel(title)
        if is_logarithmic([row.metrics[key] for row in data.rows]):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(LogFormatter())
            axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
        else:
            axes.set_ylim(bottom=0)
    panels[0].figure.legend(
        *panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=7
    )
    panels[2].set_xlabel("Training frames")
    if is_logarithmic([row.n_train for row in data.rows]):
        panels[2].set_xscale("log")
    save(figure, panels, path)


def write_parity_picture(data: CurveData, path: Path) -> None:
    """Energies and forces of each model's largest training set by the labels and by the fitted model."""
    n_rows = len(data.parities)
    figure = new_figure(2 * COLUMN, COLUMN * n_rows)
    panels = figure.subplots(n_rows, 2, squeeze=False)
    for (left, right), found in zip(panels, data.parities, strict=True):
        for axes, channel, unit in ((left, "energy", "eV/atom"), (right, "force", "eV/Å")):
            _parity(axes, found.parity(channel), unit)
            axes.set_xlabel(f"{channel.capitalize()} by {data.label_source} ({unit})", fontsize=8)
            axes.set_ylabel(
                f"{channel.capitalize()} by {found.row.model}, {found.row.n_train} frames ({unit})", fontsize=8
            )
    save(figure, panels.ravel(), path)


def _parity(axes: Axes, parity: Parity, unit: str) -> None:
    label, after, shown = parity.label, parity.after, drawn(parity)
    ends = float(min(label.min(), after.min())), float(max(label.max(), after.max()))
    axes.plot(ends, ends, color=INK, linewidth=0.8)
    axes.scatter(label[shown], after[shown], s=5, alpha=0.5, lw=0, color=BLUE, rasterized=True)
    axes.text(0.05, 0.92, f"RMSE {1000 * parity.rmse('after'):.1f} m{unit}", transform=axes.transAxes, fontsize=9)
    axes.set_aspect("equal", adjustable="datalim")


def new_figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, panels: Any, path: Path) -> None:
    for letter, axes in zip("abcdefghijklmnopqrstuvwxyz", panels, strict=False):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(letter, loc="left", fontweight="bold", fontsize=10)
        axes.tick_params(which="both", labelsize=8)
    content = io.BytesIO()
    figure.savefig(content, dpi=300, format=path.suffix.removeprefix("."))
    write_whole(path, content.getvalue())
