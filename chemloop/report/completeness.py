"""Is the space complete? Coverage, the kinds seen and estimated, and what another iteration would bring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from chemloop.physics.completeness import predictions
from chemloop.report.data import ReportData
from chemloop.report.style import BLUE, GREEN, VERMILION, finish

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from chemloop.physics.completeness import Seen
    from chemloop.physics.unseen import Estimate

KINDS = (("environments", VERMILION, "circle"), ("motifs", BLUE, "square"))
ABSENT = (
    "The completeness of this campaign has not been measured: no iteration has generated structures and come as far as"
    " the curate stage, or an earlier version of ChemLoop computed it."
)


def measured(data: ReportData, kind: str) -> list[tuple[int, Seen]]:
    """Iterations that have estimates, and these; kind is `environments` or `motifs`."""
    seen = [(c.iteration, getattr(c, kind)) for c in data.completeness if c is not None]
    return [(iteration, of_kind) for iteration, of_kind in seen if of_kind is not None]


def is_measured(data: ReportData) -> bool:
    """Whether there is anything to draw."""
    return any(measured(data, kind) for kind, _, _ in KINDS)


def bars(estimates: Sequence[Estimate], scale: float = 1.0) -> dict[str, Any]:
    """Values with 95 % intervals as error bars."""
    return {
        "y": [scale * e.value for e in estimates],
        "error_y": {
            "array": [scale * max(0.0, e.high - e.value) for e in estimates],
            "arrayminus": [scale * max(0.0, e.value - e.low) for e in estimates],
            "thickness": 1.4,
            "width": 5,
        },
        "customdata": [[scale * e.low, scale * e.high] for e in estimates],
    }


def _by_iteration(data: ReportData, estimate: Callable[[Seen], Estimate], scale: float, shown: str) -> Figure:
    """Environments and motifs side by side at each iteration, so that their error bars do not hide one another."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for place, (kind, color, symbol) in enumerate(KINDS):
        rows = measured(data, kind)
        if rows:
            figure.add_scatter(
                x=[iteration + 0.06 * (2 * place - 1) for iteration, _ in rows],
                **bars([estimate(seen) for _, seen in rows], scale),
                name=kind,
                text=[str(iteration) for iteration, _ in rows],
                mode="lines+markers",
                line={"color": color, "width": 2.5},
                marker={"size": 9, "symbol": symbol},
                hovertemplate=f"iteration %{{text}}, {kind}<br>{shown}<extra></extra>",
            )
    _number_axis(figure, [iteration for kind, _, _ in KINDS for iteration, _ in measured(data, kind)])
    return figure


def _number_axis(figure: Figure, numbers: Sequence[int]) -> None:
    """Whole numbers of iterations, at most a dozen ticks."""
    step = max(1, -(-(max(numbers) - min(numbers) + 1) // 12))
    figure.update_xaxes(title="Iteration", dtick=step, range=[min(numbers) - 0.4, max(numbers) + 0.4])


def coverage_figure(data: ReportData) -> Figure | None:
    """Expected share of known kinds in a further structure, with 95 % intervals; None where not measured."""
    if not is_measured(data):
        return None
    shown = "%{y:.1f} % (%{customdata[0]:.1f} to %{customdata[1]:.1f})"
    figure = _by_iteration(data, lambda seen: seen.coverage, 100, shown)
    lowest = min(seen.coverage.low for kind, _, _ in KINDS for _, seen in measured(data, kind))
    figure.update_yaxes(title="Coverage (%)", range=[max(0.0, 100 * lowest - 5), 101.5])
    return finish(figure)


def news_figure(data: ReportData) -> Figure | None:
    """Kinds expected of each iteration and of the next, beside those found; None where not measured."""
    if not is_measured(data):
        return None
    import plotly.graph_objects as go

    figure = go.Figure()
    history = [c for c in data.completeness if c is not None]
    numbers = []
    for place, (kind, color, symbol) in enumerate(KINDS):
        rows = measured(data, kind)
        if not rows:
            continue
        tested = predictions(history, kind)
        last, newest = rows[-1]
        expected = [*((iteration, estimate) for iteration, estimate, _ in tested), (last + 1, newest.expected_new)]
        numbers += [iteration for iteration, _ in expected]
        shift = 0.06 * (2 * place - 1)
        figure.add_scatter(
            x=[iteration + shift for iteration, _ in expected],
            **bars([estimate for _, estimate in expected]),
            name=f"{kind}, expected",
            text=[str(iteration) for iteration, _ in expected],
            mode="markers",
            marker={"size": 9, "symbol": symbol, "color": color},
            hovertemplate=f"iteration %{{text}}, {kind}<br>%{{y:.1f}} new expected"
            " (%{customdata[0]:.1f} to %{customdata[1]:.1f})<extra></extra>",
        )
        if tested:
            figure.add_scatter(
                x=[iteration + shift for iteration, _, _ in tested],
                y=[found for _, _, found in tested],
                name=f"{kind}, found",
                text=[str(iteration) for iteration, _, _ in tested],
                mode="lines+markers",
                line={"color": color, "width": 1.5, "dash": "dot"},
                marker={"size": 12, "symbol": f"{symbol}-open", "line": {"width": 2, "color": color}},
                hovertemplate=f"iteration %{{text}}, {kind}<br>%{{y}} new found<extra></extra>",
            )
    _number_axis(figure, numbers)
    figure.update_yaxes(title="New kinds", rangemode="tozero")
    return finish(figure)


def accumulation_figure(data: ReportData) -> Figure | None:
    """Kinds seen and kinds estimated against the structures that were looked at; None where not measured."""
    from plotly.subplots import make_subplots

    kinds = [(kind, color, symbol) for kind, color, symbol in KINDS if measured(data, kind)]
    if not kinds:
        return None
    figure = make_subplots(rows=1, cols=len(kinds), horizontal_spacing=0.16)
    for column, (kind, color, symbol) in enumerate(kinds, start=1):
        rows = measured(data, kind)
        x = [seen.n_samples for _, seen in rows]
        text = [str(iteration) for iteration, _ in rows]
        first = {"showlegend": column == 1, "row": 1, "col": column}
        figure.add_scatter(
            x=[0, *x],
            y=[0, *(seen.n_seen for _, seen in rows)],
            text=["0", *text],
            name="seen",
            legendgroup="seen",
            mode="lines+markers",
            line={"color": color, "width": 2.5},
            marker={"size": 9, "symbol": symbol},
            hovertemplate="iteration %{text}: %{x} structures<br>%{y} kinds seen<extra></extra>",
            **first,
        )
        figure.add_scatter(
            x=x,
            **bars([seen.estimated for _, seen in rows]),
            text=text,
            name="seen and unseen, at least (Chao)",
            legendgroup="estimated",
            mode="markers",
            marker={"size": 10, "symbol": "line-ew", "line": {"width": 3, "color": GREEN}, "color": GREEN},
            hovertemplate="iteration %{text}: %{x} structures<br>at least %{y:.0f} kinds in all"
            " (%{customdata[0]:.0f} to %{customdata[1]:.0f})<extra></extra>",
            **first,
        )
        figure.update_xaxes(title="New structures so far", rangemode="tozero", row=1, col=column)
        figure.update_yaxes(title=f"Kinds of {kind.removesuffix('s')}", rangemode="tozero", row=1, col=column)
    return finish(figure, 420)


def overlaps(data: ReportData) -> list[tuple[int, float, float | None]]:
    """Iteration, share of its new environments that were known before, its standard error or None of one structure."""
    found = [(c.iteration, c.overlap, c.overlap_error) for c in data.completeness if c is not None]
    return [(iteration, share, error) for iteration, share, error in found if share is not None]


def overlap_figure(data: ReportData) -> Figure | None:
    """Share of each iteration's environments that were known before it; None where not measured."""
    import plotly.graph_objects as go

    rows = overlaps(data)
    if not rows:
        return None
    figure = go.Figure()
    figure.add_scatter(
        x=[iteration for iteration, _, _ in rows],
        y=[100 * share for _, share, _ in rows],
        error_y={"array": [100 * (error or 0.0) for _, _, error in rows], "thickness": 1.4, "width": 5},
        mode="lines+markers",
        line={"color": GREEN, "width": 2.5},
        marker={"size": 9, "symbol": "diamond"},
        hovertemplate="iteration %{x}<br>%{y:.1f} % known before<extra></extra>",
    )
    _number_axis(figure, [iteration for iteration, _, _ in rows])
    lowest = min(share - (error or 0.0) for _, share, error in rows)
    figure.update_yaxes(title="Environments known before (%)", range=[max(0.0, 100 * lowest - 5), 101.5])
    return finish(figure)


COVERAGE_CAPTION = (
    "How much of what a further new structure (converged, unique and novel) would hold has been seen already (Good and"
    " Turing's estimate), for kinds of local environment and for anion motifs. Bars: 95 % intervals by a parametric"
    " bootstrap: samples of kinds drawn from an estimated population, each kind by itself, the variance then raised for"
    " rare kinds that share structures; they reach down at least to what so few structures cannot exclude."
)
NEWS_CAPTION = (
    "Kinds never seen before. Filled markers: how many the new structures of an iteration were expected to show by"
    " those before it (Good and Toulmin's estimate), with 95 % prediction intervals; the last is for one more iteration"
    " of average size. Open markers: how many they showed. A prediction takes all structures for draws from one"
    " population; a force field that changes between iterations makes its interval too narrow. Close to zero, this"
    " generator finds next to nothing new."
)
ACCUMULATION_CAPTION = (
    "Kinds that the new structures of all iterations up to each point hold, and how many there are in all, seen or not,"
    " by Chao's estimate: a lower bound, with its 95 % interval. That the two meet is no proof that nothing is missing:"
    " they do wherever no more than one kind was seen just once. Known structures are not counted."
)
OVERLAP_CAPTION = (
    "Share of the local environments of each iteration's new structures that lie within the radius of a kind that was"
    " there before, known structures' kinds included, with the standard error over structures."
)
