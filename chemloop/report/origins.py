"""Which generators and operators pay: what became of their proposals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chemloop.report.data import Origin, ReportData
from chemloop.report.panel import Table
from chemloop.report.style import BLUE, GREEN, SKY, VERMILION, finish

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

N_BARS = 24
"""Rows of the figure; the table has every generator and operator."""
ORIGIN_CAPTION = (
    "Left: the fraction of what a generator, or an operator of it, proposed that was valid, and that turned out stable,"
    " unique and novel (S.U.N.). Right: mean energy above the hull of what converged, as the force field of its"
    " iteration saw it. All iterations together."
)


def name_of(origin: Origin) -> str:
    """In words; operators stand below their generator."""
    return f"· {origin.operator}" if origin.operator else origin.generator


def origin_figure(data: ReportData) -> Figure | None:
    """Valid and S.U.N. fractions, and mean E_hull, of each generator and operator; None where nobody counted."""
    from plotly.subplots import make_subplots

    rows = [origin for origin in data.origins if origin.n_proposed][:N_BARS]
    if not rows:
        return None
    rows.reverse()
    places = list(range(len(rows)))
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06, column_widths=[0.6, 0.4])
    for name, color, counts in (
        ("S.U.N.", VERMILION, [row.n_sun for row in rows]),
        ("valid", SKY, [row.n_valid for row in rows]),
    ):
        figure.add_bar(
            x=[100 * n / row.n_proposed for n, row in zip(counts, rows, strict=True)],
            y=places,
            name=name,
            orientation="h",
            marker_color=color,
            hovertext=[
                f"{row.generator} {row.operator}<br>{name}: {n:,} of {row.n_proposed:,}"
                for n, row in zip(counts, rows, strict=True)
            ],
            hovertemplate="%{hovertext} (%{x:.1f} %)<extra></extra>",
            row=1,
            col=1,
        )
    known = [(place, row) for place, row in zip(places, rows, strict=True) if row.mean_e_above_hull is not None]
    figure.add_scatter(
        x=[1000 * (row.mean_e_above_hull or 0.0) for _, row in known],
        y=[place for place, _ in known],
        mode="markers",
        marker={"size": 10, "color": [BLUE if not row.operator else GREEN for _, row in known]},
        hovertext=[f"{row.generator} {row.operator}" for _, row in known],
        hovertemplate="%{hovertext}<br>mean E<sub>hull</sub> %{x:.0f} meV/atom<extra></extra>",
        showlegend=False,
        row=1,
        col=2,
    )
    figure.update_xaxes(title="Of what was proposed (%)", rangemode="tozero", row=1, col=1)
    figure.update_xaxes(title="Mean E<sub>hull</sub> (meV/atom)", rangemode="tozero", row=1, col=2)
    figure.update_yaxes(tickvals=places, ticktext=[name_of(row) for row in rows], automargin=True)
    finish(figure, max(240, 150 + 34 * len(rows)))
    figure.update_layout(legend_traceorder="reversed")
    return figure


def tables(data: ReportData) -> list[Table]:
    """What was proposed and what came of it; and why the rest fell out, by reason and generator."""
    if not data.origins:
        return []
    return [made_table(data), lost_table(data)]


def made_table(data: ReportData) -> Table:
    """One row for each generator and operator."""
    columns = (
        "Generator",
        "Attempts",
        "Proposed",
        "Valid",
        "S.U.N.",
        "S.U.N. per 100 proposed",
        "Mean E_hull, meV/atom",
    )
    rows = [
        (
            name_of(row),
            "" if row.n_attempts is None else f"{row.n_attempts:,}",
            *(f"{n:,}" for n in (row.n_proposed, row.n_valid, row.n_sun)),
            f"{100 * row.n_sun / row.n_proposed:.1f}" if row.n_proposed else "",
            "" if row.mean_e_above_hull is None else f"{1000 * row.mean_e_above_hull:.0f}",
        )
        for row in data.origins
    ]
    return Table("What was proposed, and what came of it", columns, rows)


def lost_table(data: ReportData) -> Table:
    """One row for each reason, one column for each generator."""
    generators = [row for row in data.origins if not row.operator]
    reasons = sorted({reason for row in generators for reason in row.lost})
    counts = {reason: [row.lost.get(reason, 0) for row in generators] for reason in reasons}
    reasons.sort(key=lambda reason: -sum(counts[reason]))
    rows = [(reason, *(f"{n:,}" if n else "" for n in counts[reason])) for reason in reasons]
    return Table("Why the others fell out", ("Reason", *(row.generator for row in generators)), rows)
