"""What happened from iteration to iteration: yields, entropy, errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chemloop.report.data import ReportData
from chemloop.report.style import BLUE, GREEN, ORANGE, PURPLE, VERMILION, finish

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

YIELDS = (
    ("stable", "screen/n_stable", GREEN, "circle"),
    ("unique", "screen/n_unique", BLUE, "square"),
    ("novel", "screen/n_novel", PURPLE, "diamond"),
    ("S.U.N.", "screen/n_sun", VERMILION, "star"),
)
"""Name, metric, colour and marker of the fractions of generated structures."""
ERRORS = (
    ("energy", "mev_per_atom", "Energy RMSE (meV/atom)"),
    ("force", "mev_per_ang", "Force RMSE (meV/Å)"),
)
"""Channel, unit in the metric's name and axis title of the test errors."""


def error_key(channel: str, when: str, unit: str) -> str:
    """The metric of a test error."""
    return f"finetune/test_{channel}_rmse_{when}_{unit}"


def yield_series(data: ReportData, key: str) -> tuple[list[int], list[float], list[int], list[int]]:
    """Iterations, fraction of the generated structures in percent, the count, and how many were generated."""
    rows = []
    for iteration in data.iterations:
        count, generated = iteration.value(key), iteration.value("generate/n_generated")
        if count is not None and generated:
            rows.append((iteration.number, 100 * count / generated, int(count), int(generated)))
    numbers, percent, counts, totals = ([row[k] for row in rows] for k in range(4))
    return numbers, percent, counts, totals  # type: ignore[return-value]  # four lists out of one generator


def yield_figure(data: ReportData) -> Figure | None:
    """Stable, unique, novel and S.U.N. fractions of the generated structures; None before the first screening."""
    import plotly.graph_objects as go

    if not yield_series(data, "screen/n_sun")[0]:
        return None
    figure = go.Figure()
    for name, key, color, symbol in YIELDS:
        numbers, percent, counts, totals = yield_series(data, key)
        figure.add_scatter(
            x=numbers,
            y=percent,
            name=name,
            mode="lines+markers",
            line={"color": color, "width": 3 if name == "S.U.N." else 1.5},
            marker={"symbol": symbol, "size": 11 if name == "S.U.N." else 8},
            customdata=np.column_stack([counts, totals]) if counts else None,
            hovertemplate=f"iteration %{{x}}<br>{name}: %{{customdata[0]}} of %{{customdata[1]}} (%{{y:.1f}} %)"
            "<extra></extra>",
        )
    figure.update_xaxes(**iteration_axis(data))
    figure.update_yaxes(title="Fraction of generated (%)", rangemode="tozero")
    return finish(figure)


def sample_size(data: ReportData) -> int | None:
    """Environments in each sample whose entropy is drawn; None where an older version did not write it down."""
    return next((c.n_environments for c in data.completeness if c is not None and c.n_environments), None)


def entropy_figure(data: ReportData) -> Figure | None:
    """Entropy of the explored environments and its cap on the left axis, all labels so far on the right one."""
    import plotly.graph_objects as go

    numbers, entropies = data.series("curate/entropy_nats")
    if not numbers:
        return None
    figure = go.Figure()
    errors = dict(zip(*data.series("curate/entropy_error_nats"), strict=True))
    figure.add_scatter(
        x=numbers,
        y=entropies,
        error_y={"array": [errors.get(number, 0) for number in numbers], "thickness": 1.2},
        name="entropy",
        mode="lines+markers",
        line={"color": VERMILION, "width": 2.5},
        marker={"size": 9},
        hovertemplate="iteration %{x}<br>entropy %{y:.3f} nats<extra></extra>",
    )
    sample = sample_size(data)
    if sample is not None:
        # A line of its own: a shape would not take part in what the reader switches on and off, nor in the range.
        figure.add_scatter(
            x=[numbers[0] - 0.3, numbers[-1] + 0.3],
            y=[np.log(sample)] * 2,
            name=f"cap, log {sample:,}",
            mode="lines",
            line={"color": VERMILION, "width": 1.5, "dash": "dot"},
            hovertemplate="no sample of this size can have more<br>%{y:.3f} nats<extra></extra>",
        )
    labelled = [(i.number, i.n_frames) for i in data.iterations if i.n_frames is not None]
    figure.add_scatter(
        x=[number for number, _ in labelled],
        y=np.cumsum([count for _, count in labelled]),
        name="labels",
        yaxis="y2",
        mode="lines+markers",
        line={"color": BLUE, "width": 2, "dash": "dash"},
        marker={"size": 9, "symbol": "triangle-up"},
        hovertemplate="iteration %{x}<br>%{y:.0f} labelled frames so far<extra></extra>",
    )
    finish(figure)
    figure.update_layout(
        margin_r=72,
        yaxis={"title": {"text": "Information entropy (nats)", "font_color": VERMILION}},
        yaxis2={
            "title": {"text": "Labelled frames, all iterations", "font_color": BLUE},
            "overlaying": "y",
            "tickmode": "auto",
            "side": "right",
            "rangemode": "tozero",
            "showgrid": False,
        },
    )
    figure.update_xaxes(**iteration_axis(data))
    return figure


def error_figure(data: ReportData) -> Figure | None:
    """Test errors before and after the fine-tuning of each iteration; None before the first one."""
    from plotly.subplots import make_subplots

    if not any(data.series(error_key(channel, "after", unit))[0] for channel, unit, _ in ERRORS):
        return None
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.12)
    for column, (channel, unit, title) in enumerate(ERRORS, start=1):
        for when, color, symbol in (("before", ORANGE, "circle-open"), ("after", BLUE, "circle")):
            numbers, errors = data.series(error_key(channel, when, unit))
            figure.add_scatter(
                x=numbers,
                y=errors,
                name=f"{when} fine-tuning",
                legendgroup=when,
                showlegend=column == 1,
                mode="lines+markers",
                line={"color": color, "width": 2.5},
                marker={"size": 10, "symbol": symbol, "line": {"width": 2, "color": color}},
                hovertemplate=f"iteration %{{x}}<br>{when} fine-tuning: %{{y:.1f}}<extra></extra>",
                row=1,
                col=column,
            )
        figure.update_yaxes(title=title, rangemode="tozero", row=1, col=column)
    figure.update_xaxes(**iteration_axis(data))
    return finish(figure)


def is_logarithmic(values: Sequence[float]) -> bool:
    """Whether values span so much that a logarithmic axis shows them better, and are all above zero."""
    return min(values) > 0 and max(values) > 10 * min(values)


def iteration_axis(data: ReportData) -> dict[str, Any]:
    """Settings of an axis of iterations: whole numbers, at most a dozen ticks."""
    numbers = [iteration.number for iteration in data.iterations]
    return {
        "title": "Iteration",
        "dtick": max(1, -(-len(numbers) // 12)),
        "range": [min(numbers) - 0.3, max(numbers) + 0.3],
    }
