"""How the training set pays off: what a frame adds to its entropy, and the errors that are left, by its size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chemloop.report.curves import ERRORS, error_key
from chemloop.report.data import ReportData
from chemloop.report.style import BLUE, GREY, VERMILION, finish

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

GROWTH = "curate/entropy_growth_nats_per_frame"


def by_size(data: ReportData, key: str) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Iterations that know a metric and the size of their training set, those sizes and the values."""
    sizes = dict(zip(*data.series("curate/n_train"), strict=True))
    numbers, values = data.series(key)
    rows = [(number, sizes[number], value) for number, value in zip(numbers, values, strict=True) if number in sizes]
    return [row[0] for row in rows], np.array([row[1] for row in rows]), np.array([row[2] for row in rows])


def training_figure(data: ReportData) -> Figure | None:
    """log10 dH/dN, energy RMSE and force RMSE against the frames trained on; None before the first curate stage.

    Source: figure 3a of the paper
    """
    from plotly.subplots import make_subplots

    numbers, sizes, growth = by_size(data, GROWTH)
    if not numbers:
        return None
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.05)
    figure.add_scatter(
        x=sizes,
        y=np.log10(np.where(growth > 0, growth, np.nan)),
        text=growth,
        customdata=numbers,
        mode="lines+markers",
        line={"color": VERMILION, "width": 2.5},
        marker={"size": 9},
        showlegend=False,
        hovertemplate="iteration %{customdata}: %{x} frames<br>dH/dN %{text:.2e} nats/frame<extra></extra>",
        row=1,
        col=1,
    )
    for row, (channel, unit, _) in enumerate(ERRORS, start=2):
        for when, name, color, symbol, dash in (
            ("base", "as it was at the start", GREY, "circle-open", "dot"),
            ("after", "fine-tuned", BLUE, "circle", "solid"),
        ):
            numbers, sizes, errors = by_size(data, error_key(channel, when, unit))
            figure.add_scatter(
                x=sizes,
                y=errors,
                name=name,
                legendgroup=when,
                showlegend=row == 2 and len(numbers) > 0,
                customdata=numbers,
                mode="lines+markers",
                line={"color": color, "width": 2.5, "dash": dash},
                marker={"size": 9, "symbol": symbol, "line": {"width": 2, "color": color}},
                hovertemplate=f"iteration %{{customdata}}: %{{x}} frames<br>{name}: %{{y:.1f}}<extra></extra>",
                row=row,
                col=1,
            )
    titles = ("log₁₀ dH/dN<br>(nats/frame)", *(title.replace(" (", "<br>(") for _, _, title in ERRORS))
    for row, title in enumerate(titles, start=1):
        figure.update_yaxes(title=title, row=row, col=1)
    figure.update_yaxes(rangemode="tozero", row=2, col=1)
    figure.update_yaxes(rangemode="tozero", row=3, col=1)
    figure.update_xaxes(title="Training frames", row=3, col=1)
    finish(figure, 640)
    figure.update_layout(margin_l=84)
    return figure
