"""Figures of a learning curve: learning_curve.html, one file that needs no network, and pictures for papers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chemloop.report.curve_data import (
    DASHES,
    GROWTH,
    HEADER,
    PANELS,
    CurveData,
    CurveParity,
    cells,
    logarithms,
    looks,
    markdown,
)
from chemloop.report.curve_picture import write_curve_picture, write_parity_picture
from chemloop.report.curves import is_logarithmic
from chemloop.report.page import Panel
from chemloop.report.parity import parity_figure
from chemloop.report.style import INK, embed, finish
from chemloop.report.template import write_page
from chemloop.runtime.disk import write_whole

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PICTURES = ("learning_curve.png", "learning_curve.svg", "parity.png", "parity.svg")


def write_curve_report(data: CurveData, folder: Path) -> list[str]:
    """Write table, page and pictures; returns the names of the files."""
    write_whole(folder / "learning_curve.md", markdown(data.rows).encode())
    write_curves(data, folder / "learning_curve.html")
    for name in PICTURES:
        draw = write_curve_picture if name.startswith("learning_curve") else write_parity_picture
        draw(data, folder / name)
    return ["learning_curve.md", "learning_curve.html", *PICTURES]


def curve_figure(data: CurveData) -> Figure:
    """log10 dH/dN, energy RMSE and force RMSE against the number of training frames, as figure 3a of the paper."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.04)
    for selection, (sizes, growth) in sorted(data.growth.items()):
        trained = np.isin(sizes, [row.n_train for row in data.rows if row.selection == selection])
        figure.add_scatter(
            x=sizes,
            y=logarithms(growth),
            name=f"pool, {selection}",
            mode="lines+markers",
            line={"color": INK, "width": 2, "dash": DASHES[selection]},
            marker={"size": np.where(trained, 7, 0)},
            hovertemplate=f"%{{x}} frames by {selection}<br>log₁₀ dH/dN %{{y:.2f}}<extra></extra>",
            row=1,
            col=1,
        )
    styles = looks(data)
    for number, (key, title) in enumerate(PANELS, start=2):
        for model, selection in data.lines:
            sizes, means, spread = data.line(model, selection, key)
            color, symbol = styles[model]
            figure.add_scatter(
                x=sizes,
                y=means,
                error_y={"array": spread, "thickness": 1.2, "visible": bool(spread.any())},
                name=f"{model}, {selection}",
                legendgroup=f"{model}, {selection}",
                showlegend=number == 2,
                mode="lines+markers",
                line={"color": color, "width": 2.5, "dash": DASHES[selection]},
                marker={"size": 9, "symbol": symbol if selection == "entropy" else f"{symbol}-open", "line_width": 2},
                hovertemplate=f"{model}, {selection}<br>%{{x}} frames<br>%{{y:.1f}}<extra></extra>",
                row=number,
                col=1,
            )
        figure.update_yaxes(title=title, **error_axis(data, key), row=number, col=1)
    figure.update_yaxes(title=GROWTH, row=1, col=1)
    finish(figure, 860)
    figure.update_xaxes(type="log" if is_logarithmic([row.n_train for row in data.rows]) else "linear")
    figure.update_xaxes(title="Training frames", row=3, col=1)
    return figure


def error_axis(data: CurveData, key: str) -> dict[str, str]:
    """Logarithmic where the errors span more than a factor of ten."""
    is_log = is_logarithmic([row.metrics[key] for row in data.rows])
    return {"type": "log"} if is_log else {"rangemode": "tozero"}


def write_curves(data: CurveData, path: Path) -> None:
    """The page."""
    panels = [curve_panel(data), *(panel for found in data.parities for panel in parity_panels(data, found))]
    rows = [cells(row) for row in data.rows]
    write_page("learning_curve.html.j2", path, data=data, header=HEADER, rows=rows, panels=panels)


def curve_panel(data: CurveData) -> Panel:
    """The three panels with their caption."""
    record = data.record
    caption = (
        f"All models are tested on the same {record['n_test']} frames, of structures none of whose frames trained any"
        " of them; solid lines are training sets by information entropy, dashed ones random. The upper panel belongs to"
        " the training sets alone: dH/dN is what their last tenth added to the entropy, with gaps where the entropy did"
        " not grow. Bars are standard deviations over seeds."
    )
    figure = embed(curve_figure(data), "curve")
    return Panel("curve", "Errors against the number of training frames", caption, figure, is_wide=True)


def parity_panels(data: CurveData, found: CurveParity) -> list[Panel]:
    """Energies and forces of one model."""
    row, panels = found.row, []
    for channel, quantity, unit in (("energy", "Energy", "eV/atom"), ("force", "Force component", "eV/Å")):
        parity = found.parity(channel)
        name = f"parity-{row.model}-{channel}"
        caption = f"{row.model} trained on {row.n_train} frames ({row.selection}, seed {row.seed}); test frames."
        if parity.sampled_from is not None and len(parity.label) < parity.sampled_from:
            caption += f" An even sample of {len(parity.label)} of the {parity.sampled_from} components."
        figure = embed(parity_figure(parity, quantity, unit, data.label_source), name)
        panels.append(Panel(name, f"{row.model}: {quantity.lower()}", caption, figure, is_wide=True))
    return panels
