"""How far above the hull new structures lie by the labels, and by force fields before and after learning them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chemloop.report.data import HullParity, ReportData
from chemloop.report.style import BLUE, INK, ORANGE, finish
from chemloop.report.thinning import drawn_of, extremes, thinned

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def rmse(parity: HullParity, when: str, only_again: bool = False) -> float:
    """eV/atom, of `found` or `again`; NaN where there is none.

    only_again: of the structures that the newest force field relaxed again
    """
    errors = getattr(parity, when) - parity.label
    known = np.isfinite(errors) & (np.isfinite(parity.again) | (not only_again))
    return float(np.sqrt(np.mean(errors[known] ** 2))) if known.any() else np.nan


def hull_parity_figure(data: ReportData) -> Figure | None:
    """One panel when found, and one with the newest force field, each where it has relaxed some of the structures."""
    from plotly.subplots import make_subplots

    parity = data.hull_parity
    if parity is None or len(parity.ids) == 0:
        return None
    panels = [("found", ORANGE, "when found"), ("again", BLUE, f"relaxed again in iteration {parity.again_iteration}")]
    panels = [panel for panel in panels if np.isfinite(getattr(parity, panel[0])).any()]
    if not panels:
        return None
    low, high = limits(parity)
    counts = {when: int(np.isfinite(getattr(parity, when)).sum()) for when, _, _ in panels}
    titles = [
        f"{counts[when]} structures {name}<br>RMSE {1000 * rmse(parity, when):.0f} meV/atom" for when, _, name in panels
    ]
    x_title = f"E<sub>hull</sub> by {data.label_source} (meV/atom)"
    figure = make_subplots(
        rows=1, cols=len(panels), shared_yaxes=True, horizontal_spacing=0.05, subplot_titles=titles, x_title=x_title
    )
    for column, (when, color, name) in enumerate(panels, start=1):
        values = getattr(parity, when)
        chosen = [index for index in drawn(parity) if np.isfinite(values[index])]
        diagonal = {"color": INK, "width": 1}
        where = {"row": 1, "col": column}
        figure.add_scatter(x=[low, high], y=[low, high], mode="lines", line=diagonal, hoverinfo="skip", **where)
        figure.add_scatter(
            x=1000 * parity.label[chosen],
            y=1000 * values[chosen],
            mode="markers",
            marker={"color": color, "size": 7, "opacity": 0.7},
            customdata=[[parity.ids[index]] for index in chosen],
            hovertemplate="<b>%{customdata[0]}</b><br>labels %{x:.0f} meV/atom<br>force field"
            f" {name} %{{y:.0f}} meV/atom<extra></extra>",
            **where,
        )
    figure.update_xaxes(range=[low, high])
    figure.update_yaxes(range=[low, high])
    figure.update_yaxes(title="E<sub>hull</sub> by the force field (meV/atom)", col=1)
    finish(figure, 460)
    figure.update_annotations(font_size=13)
    figure.update_layout(showlegend=False, margin={"t": 72, "b": 64})
    return figure


def drawn(parity: HullParity) -> np.ndarray:
    """Indices of the structures to draw, those of the largest errors among them."""
    return thinned(len(parity.ids), extremes(parity.found - parity.label) + extremes(parity.again - parity.label))


def limits(parity: HullParity) -> tuple[float, float]:
    """meV/atom, the common range of both axes."""
    together = np.concatenate([parity.label, parity.found, parity.again])
    low, high = 1000 * np.nanmin(together), 1000 * np.nanmax(together)
    margin = 0.04 * (high - low) or 10.0
    return float(low - margin), float(high + margin)


def hull_parity_caption(data: ReportData) -> str:
    """What the structures are, and what has been trained on them."""
    parity = data.hull_parity
    assert parity is not None
    text = (
        "New structures that were labelled, by their energy above the hull of the known structures: each as its own"
        f" method relaxed it, labels by {data.label_source}. When found, the force field had not been trained on them."
    )
    n_again = int(np.isfinite(parity.again).sum())
    if n_again:
        text += (
            f" {n_again} of them are S.U.N. structures that the newest force field has relaxed again, after their"
            " labels could be trained on"
        )
        earlier = rmse(parity, "found", True)
        text += f"; for these the error when found was {1000 * earlier:.0f} meV/atom." if np.isfinite(earlier) else "."
    return text + drawn_of(len(drawn(parity)), len(parity.ids), "structures")
