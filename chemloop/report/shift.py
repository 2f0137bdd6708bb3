"""Whether the iterations still go to new places: where each one lies on the map of structures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chemloop.report.data import ReportData
from chemloop.report.maps import SPACES, has_map, known
from chemloop.report.style import BLUE, VERMILION, finish

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

N_GRID = 150
LEAST = 3
"""Structures that an iteration must have for a distribution of its own."""


def densities(data: ReportData, axis: int) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """A grid along a component of the map, and on it the density of the structures of each iteration, and all counts.

    Returns: (N_GRID,), iteration -> (N_GRID,); iterations of fewer than LEAST structures are left out
    """
    from scipy.stats import gaussian_kde

    embedding = data.embedding
    assert embedding is not None
    placed = known(embedding, "framework")
    values = embedding.framework[placed, axis]
    numbers = np.array([data.structures[id].iteration for id in embedding.ids])[placed]
    margin = 0.08 * np.ptp(values) or 1.0
    grid = np.linspace(values.min() - margin, values.max() + margin, N_GRID)
    # One bandwidth for all: a few structures would otherwise look smoother than many.
    width = 0.06 * np.ptp(values) or 1.0
    rows = {}
    for number in np.unique(numbers):
        own = values[numbers == number]
        if len(own) >= LEAST and np.ptp(own) > 0:
            rows[int(number)] = gaussian_kde(own, bw_method=width / own.std(ddof=1))(grid)
    return grid, rows


def shift_figure(data: ReportData) -> Figure | None:
    """Distributions of the two t-SNE components, a row per iteration; None where there are none.

    Source: supplementary figure 2 of the paper
    """
    from plotly.subplots import make_subplots

    if not has_map(data, "framework"):
        return None
    axes = [densities(data, axis) for axis in range(2)]
    numbers = list(axes[0][1])
    if not numbers or list(axes[1][1]) != numbers:
        return None
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    for column, (grid, rows) in enumerate(axes, start=1):
        highest = max(density.max() for density in rows.values())
        for row, (number, density) in enumerate(rows.items()):
            color = VERMILION if number == 0 else BLUE
            top = row + 1.25 * density / highest
            base = {"mode": "lines", "showlegend": False, "row": 1, "col": column}
            x = grid.astype(np.float32)
            figure.add_scatter(x=x[[0, -1]], y=[row, row], line_width=0, hoverinfo="skip", **base)
            figure.add_scatter(
                x=x,
                y=top.astype(np.float32),
                fill="tonexty",
                fillcolor=_faint(color),
                line={"color": color, "width": 1.8},
                hovertemplate=f"{'known structures' if number == 0 else f'iteration {number}'}<extra></extra>",
                **base,
            )
        title = f"{('First', 'Second')[column - 1]} t-SNE component"
        figure.update_xaxes(title=title, showticklabels=False, ticks="", row=1, col=column)
    names = ["known" if number == 0 else str(number) for number in numbers]
    figure.update_yaxes(tickvals=list(range(len(numbers))), ticktext=names)
    figure.update_yaxes(title="Iteration", col=1)
    return finish(figure, max(380, 120 + 46 * len(numbers)))


def _faint(color: str) -> str:
    red, green, blue = (int(color[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.3)"


def shift_caption(data: ReportData) -> str:
    """How to read the distributions."""
    which = f"the map {SPACES['framework']}" if data.mobile_ion else "the map"
    return (
        f"Where the structures of each iteration lie on {which}: densities along its two components, each iteration"
        " scaled to the same number of structures. Where one iteration covers the one before, it has brought no new"
        f" kinds of {'framework' if data.mobile_ion else 'structure'}; iterations of fewer than three structures have"
        " no row."
    )
