"""A campaign in one static picture, for a README or a talk."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chemloop.report import curves, distribution
from chemloop.report.data import ReportData
from chemloop.report.hull_figure import KINDS, coordinates
from chemloop.report.phase_diagram import MOST_ELEMENTS, HullView, hull_view
from chemloop.report.style import BLUE, GREEN, GREY, INK, ORANGE, SEQUENTIAL, VERMILION
from chemloop.runtime.disk import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = {"circle": "o", "diamond": "D", "square": "s", "star": "*"}
"""Plotly's names of the markers in use, and matplotlib's."""


def write_picture(data: ReportData, path: Path) -> None:
    """Six panels: E_hull, S.U.N., entropy and labels, both parities, hull; the suffix (png, svg, pdf) is the format."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels: tuple[Callable[[Axes, ReportData], bool], ...] = (_e_hull, _yields, _entropy, _energies, _forces, _hull)
    for letter, axes, draw in zip("abcdef", figure.subplots(2, 3).flat, panels, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(letter, loc="left", fontweight="bold", x=-0.12)
        if not draw(axes, data):
            axes.set_axis_off()
            axes.text(0.5, 0.5, "not there yet", ha="center", color=GREY, transform=axes.transAxes)
    content = io.BytesIO()
    figure.savefig(content, dpi=160, format=Path(path).suffix.removeprefix("."))
    write_whole(Path(path), content.getvalue())


def _e_hull(axes: Axes, data: ReportData) -> bool:
    edges, counts, _ = distribution.binned(data)
    if not counts:
        return False
    highest = max(values.max() / max(1, values.sum()) for values in counts.values())
    for row, values in enumerate(counts.values()):
        height = 0.85 * values / max(1, values.sum()) / highest
        colors = [GREEN if x < data.stable_below else GREY for x in edges[:-1] + distribution.BIN / 2]
        axes.bar(edges[:-1], height, distribution.BIN, row, color=colors, align="edge")
    axes.axvline(data.stable_below, color=INK, linestyle=":", linewidth=1)
    axes.set(xlabel="Energy above the hull (eV/atom)", ylabel="Iteration")
    axes.set_yticks(range(len(counts)), [str(number) for number in counts])
    return True


def _yields(axes: Axes, data: ReportData) -> bool:
    for name, key, color, symbol in curves.YIELDS:
        numbers, percent, _, _ = curves.yield_series(data, key)
        if not numbers:
            return False
        axes.plot(
            numbers, percent, color=color, marker=MARKERS[symbol], label=name, linewidth=2.5 if "." in name else 1.2
        )
    axes.set(xlabel="Iteration", ylabel="Fraction of generated (%)", xticks=numbers)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    return True


def _entropy(axes: Axes, data: ReportData) -> bool:
    numbers, entropies = data.series("curate/entropy_nats")
    if not numbers:
        return False
    axes.plot(numbers, entropies, color=VERMILION, marker="o", linewidth=2)
    axes.set(xlabel="Iteration", xticks=numbers)
    axes.set_ylabel("Information entropy (nats)", color=VERMILION)
    right = axes.twinx()
    labelled = [(i.number, i.n_frames) for i in data.iterations if i.n_frames is not None]
    right.plot([n for n, _ in labelled], np.cumsum([c for _, c in labelled]), color=BLUE, marker="^", linestyle="--")
    right.set_ylabel(f"Frames labelled by\n{data.label_source}", color=BLUE)
    right.set_ylim(bottom=0)
    right.spines["top"].set_visible(False)
    return True


def _energies(axes: Axes, data: ReportData) -> bool:
    return _parity(axes, data, "energy", "Energy", "eV/atom")


def _forces(axes: Axes, data: ReportData) -> bool:
    return _parity(axes, data, "force", "Force", "eV/Å")


def _parity(axes: Axes, data: ReportData, channel: str, quantity: str, unit: str) -> bool:
    from chemloop.report.parity import drawn, limits

    parity = data.energy_parity if channel == "energy" else data.force_parity
    if parity is None or len(parity.label) == 0:
        return False
    indices, ends = drawn(parity), limits(parity)
    for when, color in (("before", ORANGE), ("after", BLUE)):
        label = f"{when}: {1000 * parity.rmse(when):.0f} m{unit}"
        axes.scatter(
            parity.label[indices], getattr(parity, when)[indices], s=6, alpha=0.5, lw=0, color=color, label=label
        )
    axes.plot(ends, ends, color=INK, linewidth=0.8)
    axes.set(xlim=ends, ylim=ends, xlabel=f"{quantity} by {data.label_source} ({unit})")
    axes.set_ylabel(f"{quantity} by the force field ({unit})")
    axes.legend(frameon=False, fontsize=9, title="RMSE, fine-tuning", title_fontsize=9, markerscale=2.5)
    return True


def _hull(axes: Axes, data: ReportData) -> bool:
    if not data.references or len(data.elements) >= MOST_ELEMENTS:
        return False
    view = hull_view(data)
    if len(view.elements) == 3:
        axes.set_axis_off()
        axes.set_aspect("equal")
        axes.plot(*np.vstack([view.corners, view.corners[:1]]).T, color=INK, linewidth=1.2)
        for a, b in view.lines:
            axes.plot(*np.array([a, b]).T, color=GREY, linewidth=0.7, zorder=0)
        for element, corner, shift in zip(view.elements, view.corners, ((-14, -6), (0, 10), (14, -6)), strict=True):
            axes.annotate(element, corner, shift, textcoords="offset points", ha="center", fontweight="bold")
    elif len(view.elements) == 2:
        axes.set(xlabel=f"Atomic fraction of {view.elements[1]}", ylabel="Formation energy (eV/atom)")
    else:
        axes.set(xlabel=f"Volume of {view.elements[0]} (Å³/atom)", ylabel="Energy above the hull (eV/atom)")
    _hull_markers(axes, view, 1000 * data.stable_below)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(-0.12, 1.0))
    return True


def _hull_markers(axes: Axes, view: HullView, limit: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(0, limit), SEQUENTIAL.lower())
    for is_new, is_on_hull, name, symbol, size, color in KINDS:
        markers = view.select(is_new, is_on_hull)
        if markers:
            at = coordinates(view, markers)
            colors = color or scale.to_rgba(np.array([1000 * marker.e_above_hull for marker in markers]))
            label = name if color else None
            look: dict[str, Any] = {"marker": MARKERS[symbol], "edgecolors": INK, "linewidths": 0.7, "zorder": 3}
            axes.scatter(at["x"], at["y"], s=5 * size, c=colors, label=label, **look)
    axes.figure.colorbar(scale, ax=axes, shrink=0.6, label="E_hull (meV/atom)")
