"""Labels against the force field, before and after fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chemloop.report.data import Parity
from chemloop.report.style import BLUE, INK, ORANGE, finish

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

N_DRAWN = 2500
"""Points per panel; the errors are those of all points."""
PANELS = (("before", ORANGE), ("after", BLUE))


def drawn(parity: Parity) -> np.ndarray:
    """Indices of the points to draw: all, or evenly spread ones together with the largest errors after fine-tuning."""
    n = len(parity.label)
    if n <= N_DRAWN:
        return np.arange(n)
    worst = np.argsort(np.abs(parity.after - parity.label))[-N_DRAWN // 25 :]
    even = np.linspace(0, n - 1, N_DRAWN - len(worst)).astype(int)
    return np.unique(np.concatenate([even, worst]))


def limits(parity: Parity) -> tuple[float, float]:
    """The common range of both axes: all labels and predictions with a margin."""
    together = np.concatenate([parity.label, parity.before, parity.after])
    low, high = float(together.min()), float(together.max())
    margin = 0.04 * (high - low) or 0.1
    return low - margin, high + margin


def parity_figure(parity: Parity, quantity: str, unit: str, label_source: str) -> Figure:
    """Two panels on the same axes; quantity and unit name the axes, errors are given in thousandths of the unit."""
    from plotly.subplots import make_subplots

    low, high = limits(parity)
    indices = drawn(parity)
    titles = [f"{when} fine-tuning<br>RMSE {1000 * parity.rmse(when):.1f} m{unit}" for when, _ in PANELS]
    x_title = f"{quantity} by {label_source} ({unit})"
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.05, subplot_titles=titles, x_title=x_title
    )
    for column, (when, color) in enumerate(PANELS, start=1):
        figure.add_scatter(
            x=[low, high],
            y=[low, high],
            mode="lines",
            line={"color": INK, "width": 1},
            hoverinfo="skip",
            row=1,
            col=column,
        )
        figure.add_scatter(
            x=parity.label[indices].astype(np.float32),
            y=getattr(parity, when)[indices].astype(np.float32),
            mode="markers",
            marker={"color": color, "size": 5, "opacity": 0.45},
            hovertemplate=f"label %{{x:.3f}} {unit}<br>force field %{{y:.3f}} {unit}<extra></extra>",
            row=1,
            col=column,
        )
    figure.update_xaxes(range=[low, high])
    figure.update_yaxes(range=[low, high])
    figure.update_yaxes(title=f"{quantity} by the force field ({unit})", col=1)
    finish(figure, 460)
    figure.update_annotations(font_size=13)
    figure.update_layout(showlegend=False, margin={"t": 72, "b": 64})
    return figure
