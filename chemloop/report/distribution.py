"""How far above the hull the new structures of each iteration lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chemloop.report.data import ReportData
from chemloop.report.style import GREEN, GREY, INK, finish

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

BIN = 0.02
"""eV/atom, width of a bar of the E_hull distributions."""
WIDEST = 1.0
"""eV/atom above or below the hull; structures beyond are counted in the caption, not drawn: where a force field fails,
energies may have any size, and bars down to them would make the page as large."""


def binned(data: ReportData) -> tuple[np.ndarray, dict[int, np.ndarray], int]:
    """E_hull histograms: edges (n + 1,) eV/atom, counts (n,) of each iteration, and how many structures lie beyond."""
    arrays = {i.number: np.asarray(i.e_above_hull) for i in data.iterations if i.e_above_hull is not None}
    arrays = {number: values[np.isfinite(values)] for number, values in arrays.items()}
    drawn = {number: values[np.abs(values) <= WIDEST] for number, values in arrays.items()}
    n_beyond = sum(len(values) for values in arrays.values()) - sum(len(values) for values in drawn.values())
    together = np.concatenate([np.zeros(0), *drawn.values()])
    if len(together) == 0:
        return np.zeros(0), {}, n_beyond
    first, last = np.floor(together.min() / BIN), np.floor(together.max() / BIN) + 1
    edges = np.arange(first, last + 1) * BIN
    return edges, {number: np.histogram(values, edges)[0] for number, values in drawn.items()}, n_beyond


def e_hull_figure(data: ReportData) -> Figure | None:
    """One row of bars per iteration, all on one scale; the stable ones in another colour. None without structures."""
    import plotly.graph_objects as go

    edges, counts, _ = binned(data)
    if not counts:
        return None
    centres = (edges[:-1] + edges[1:]) / 2
    highest = max(values.max() / max(1, values.sum()) for values in counts.values())
    figure = go.Figure()
    for row, (number, values) in enumerate(counts.items()):
        fraction = values / max(1, values.sum())
        figure.add_bar(
            x=centres,
            y=0.85 * fraction / highest,
            base=np.full(len(centres), row),
            width=BIN,
            marker={"color": [GREEN if x < data.stable_below else GREY for x in centres], "line_width": 0},
            customdata=np.column_stack([values, 100 * fraction, edges[:-1], edges[1:]]),
            hovertemplate=f"iteration {number}<br>%{{customdata[2]:.2f}} to %{{customdata[3]:.2f}} eV/atom<br>"
            "%{customdata[0]:.0f} structures (%{customdata[1]:.1f} %)<extra></extra>",
            showlegend=False,
        )
    figure.add_vline(data.stable_below, line={"color": INK, "dash": "dot", "width": 1})
    figure.update_layout(barmode="overlay", bargap=0)
    figure.update_xaxes(title="Energy above the hull (eV/atom)")
    figure.update_yaxes(title="Iteration", tickvals=list(range(len(counts))), ticktext=[str(n) for n in counts])
    return finish(figure)
