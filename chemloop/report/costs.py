"""What the campaign cost, and what got lost on the way."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from chemloop.report.data import Drop, ReportData
from chemloop.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, finish

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

N_REASONS = 20
"""Bars of the figure of losses; the table has every reason."""
COLORS = {
    "generate": BLUE, "relax": ORANGE, "screen": GREEN, "describe": SKY, "label": VERMILION, "finetune": PURPLE,
}  # fmt: skip


def cost_figure(data: ReportData) -> Figure | None:
    """Core hours of each stage in all iterations; None where nothing has run."""
    import plotly.graph_objects as go

    if not data.costs:
        return None
    costs = list(reversed(data.costs))
    figure = go.Figure()
    figure.add_bar(
        x=[cost.core_hours for cost in costs],
        y=[cost.stage for cost in costs],
        orientation="h",
        marker_color=BLUE,
        text=[duration(cost.core_hours) for cost in costs],
        textposition="outside",
        cliponaxis=False,
        customdata=[[cost.n_items, cost.n_failed] for cost in costs],
        hovertemplate="%{y}: %{text}, one core<br>%{customdata[0]} items, %{customdata[1]} failed<extra></extra>",
        showlegend=False,
    )
    figure.update_xaxes(title="Core hours", rangemode="tozero")
    finish(figure, max(260, 110 + 30 * len(costs)))
    figure.update_layout(margin={"l": 84, "r": 64, "t": 24})
    return figure


def duration(hours: float) -> str:
    """In hours, minutes or seconds, whatever reads best."""
    for unit, size in (("h", 1.0), ("min", 1 / 60)):
        if hours >= size:
            return f"{hours / size:,.1f} {unit}"
    return f"{3600 * hours:.0f} s"


def cost_caption(data: ReportData) -> str:
    """The total, and what the cache saved."""
    hours = sum(cost.core_hours for cost in data.costs)
    items, failed = sum(cost.n_items for cost in data.costs), sum(cost.n_failed for cost in data.costs)
    text = f"{hours:,.2f} core hours in {items:,} items of work" + (f", {failed:,} of which failed" if failed else "")
    text += (
        ": wall time of the finished items, each counted as one core, or one GPU where the stage has one, even where it"
        " looked for duplicates on several."
    )
    if data.labels_computed is not None and data.labels_from_cache is not None:
        total = data.labels_computed + data.labels_from_cache
        share = f" ({100 * data.labels_from_cache / total:.0f} %)" if total else ""
        text += f" Of {total:,} label calculations {data.labels_from_cache:,}{share} came from the cache."
    return text


def losses(drops: list[Drop]) -> list[tuple[str, str, int]]:
    """Stage, reason and how many, all items and iterations together, the most frequent first."""
    numbers: Counter[tuple[str, str]] = Counter()
    for drop in drops:
        numbers[drop.stage, drop.reason] += drop.count
    return [(stage, reason, n) for (stage, reason), n in numbers.most_common() if n > 0]


def loss_figure(data: ReportData) -> Figure | None:
    """Structures that went no further and calculations that failed, by stage and reason; None where nothing did."""
    import plotly.graph_objects as go

    rows = losses(list(data.drops))[:N_REASONS]
    if not rows:
        return None
    labels = [shortened(f"{stage}: {reason}") for stage, reason, _ in reversed(rows)]
    counts = [n for _, _, n in reversed(rows)]
    figure = go.Figure()
    figure.add_bar(
        x=counts,
        y=list(range(len(rows))),
        orientation="h",
        marker_color=[COLORS.get(stage, GREY) for stage, _, _ in reversed(rows)],
        text=[f"{n:,}" for n in counts],
        textposition="outside",
        cliponaxis=False,
        hovertext=[f"{stage}<br>{reason}" for stage, reason, _ in reversed(rows)],
        hovertemplate="%{hovertext}<br>%{x} in all<extra></extra>",
        showlegend=False,
    )
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=labels, automargin=True)
    figure.update_xaxes(title="Structures or failed calculations", rangemode="tozero")
    if max(counts) > 100 * min(counts):
        title = "Structures or failed calculations, logarithmic"
        figure.update_xaxes(title=title, type="log", dtick=1, rangemode="normal")
    finish(figure, max(220, 100 + 30 * len(rows)))
    figure.update_layout(margin={"t": 24, "r": 64})
    return figure


def shortened(text: str, n: int = 44) -> str:
    """At most n characters, cut with an ellipsis."""
    return text if len(text) <= n else text[: n - 1].rstrip() + "…"


def loss_caption(data: ReportData) -> str:
    """What is counted."""
    rows = losses(list(data.drops))
    hidden = f" The {len(rows) - N_REASONS} rarest reasons are in the table only." if len(rows) > N_REASONS else ""
    return (
        f"Structures that went no further and calculations that failed, {sum(n for _, _, n in rows):,} in all, by stage"
        f" and reason; the table below has each failed item.{hidden}"
    )
