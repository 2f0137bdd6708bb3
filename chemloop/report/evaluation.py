"""The evaluation of a generator: evaluation.html, one file that needs no network, and pictures for papers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chemloop.report.evaluation_data import (
    HEADER,
    PANELS,
    EvaluationData,
    cells,
    looks,
    markdown,
)
from chemloop.report.evaluation_picture import write_evaluation_picture
from chemloop.report.page import Panel
from chemloop.report.style import GREY, embed, finish
from chemloop.report.template import write_page
from chemloop.runtime.disk import write_whole

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

N_COLUMNS = 2
PICTURES = ("evaluation.png", "evaluation.svg")


def write_evaluation(data: EvaluationData, folder: Path) -> None:
    """The table as Markdown, the page and the pictures."""
    write_whole(folder / "evaluation.md", markdown(data.rows).encode())
    write_evaluation_page(data, folder / "evaluation.html")
    for name in PICTURES:
        write_evaluation_picture(data, folder / name)


def write_evaluation_page(data: EvaluationData, path: Path) -> None:
    """The page."""
    panels = [size_panel(data)]
    faults = sorted({fault for row in data.rows for fault in row.faults})
    rows = [cells(row) for row in data.rows]
    write_page("evaluation.html.j2", path, data=data, header=HEADER, rows=rows, panels=panels, faults=faults)


def size_figure(data: EvaluationData) -> Figure:
    """One panel for each of PANELS, against the number of atoms per cell, one line for each generator."""
    from plotly.subplots import make_subplots

    n_rows = -(-len(PANELS) // N_COLUMNS)
    figure = make_subplots(rows=n_rows, cols=N_COLUMNS, horizontal_spacing=0.12, vertical_spacing=0.06)
    for number, (panel, title) in enumerate(PANELS):
        place = {"row": number // N_COLUMNS + 1, "col": number % N_COLUMNS + 1}
        for generator, (color, symbol) in looks(data).items():
            sizes, middle, low, high = data.line(generator, panel).T
            figure.add_scatter(
                x=sizes,
                y=middle,
                error_y={
                    "array": high - middle, "arrayminus": middle - low, "symmetric": False, "thickness": 1.2,
                    "visible": bool((high > low).any()),
                },
                name=generator,
                legendgroup=generator,
                showlegend=number == 0,
                mode="lines+markers",
                line={"color": color, "width": 2.5},
                marker={"size": 8, "symbol": symbol},
                hovertemplate=f"{generator}<br>%{{x}} atoms<br>{title}: %{{y:.3g}}<extra></extra>",
                **place,
            )  # fmt: skip
        is_share = "%" in title
        figure.update_yaxes(title=title, **({"range": [-3, 103]} if is_share else {"rangemode": "tozero"}), **place)
    trained = data.record["trained_max_atoms"]
    if trained is not None:
        # A line alone would not say on which side the generator is at home.
        figure.add_vrect(
            x0=trained, x1=max(row.n_atoms for row in data.rows) + 1, fillcolor=GREY, opacity=0.18, line_width=0,
            layer="below", row="all", col="all",
        )  # fmt: skip
    finish(figure, 300 * n_rows)
    figure.update_xaxes(title="Atoms per cell", row=n_rows)
    return figure


def size_panel(data: EvaluationData) -> Panel:
    """The figure with its caption."""
    caption = (
        "Valid structures keep the bounds that every generator's do: elements, size, volume, distances, no duplicates;"
        f" stable is below {data.record['stable_below']:g} eV/atom above the hull of the known structures, novel unlike"
        " all of them, unique unlike those of the same size. Shares have 95 % intervals (Wilson); energies and RMSD are"
        " medians with quartiles of the structures that converged. RMSD is that of the atoms' displacements during"
        " relaxation, without the strain of the cell. CPU seconds, generating and relaxing, are of one core."
    )
    if data.record["trained_max_atoms"] is not None:
        caption += f" Grey: beyond the {data.record['trained_max_atoms']} atoms that the generator was trained on."
    return Panel("sizes", "By number of atoms per cell", caption, embed(size_figure(data), "sizes"), is_wide=True)
