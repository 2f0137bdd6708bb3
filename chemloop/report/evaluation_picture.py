"""The figure of an evaluation as a static picture, for papers."""

from __future__ import annotations

from pathlib import Path

from chemloop.report.curve_picture import COLUMN, MARKERS, new_figure, save
from chemloop.report.evaluation_data import PANELS, EvaluationData, looks
from chemloop.report.style import GREY

N_COLUMNS = 4


def write_evaluation_picture(data: EvaluationData, path: Path) -> None:
    """One panel for each of PANELS against the number of atoms; the suffix (png, svg, pdf) is the format."""
    n_rows = -(-len(PANELS) // N_COLUMNS)
    figure = new_figure(2.6 * COLUMN, 0.75 * COLUMN * n_rows)
    panels = figure.subplots(n_rows, N_COLUMNS).ravel()
    trained, largest = data.record["trained_max_atoms"], max(row.n_atoms for row in data.rows)
    for axes, (panel, title) in zip(panels, PANELS, strict=True):
        for generator, (color, symbol) in looks(data).items():
            sizes, middle, low, high = data.line(generator, panel).T
            axes.errorbar(
                sizes, middle, (middle - low, high - middle) if (high > low).any() else None, color=color,
                marker=MARKERS[symbol], markersize=4, elinewidth=1, label=generator,
            )  # fmt: skip
        if trained is not None:
            axes.axvspan(trained, max(largest, trained) + 1, color=GREY, alpha=0.18, lw=0)
        axes.set_ylabel(title, fontsize=8)
        lowest = min((data.line(generator, panel)[:, 2].min(initial=0) for generator in data.generators), default=0)
        axes.set_ylim(*((-3, 103) if "%" in title else (lowest, None)))
        axes.set_xlabel("Atoms per cell", fontsize=8)
    if len(data.generators) > 1:
        handles = panels[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    save(figure, panels, path)
