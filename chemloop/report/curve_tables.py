"""The numbers behind the curves, for those who cannot see them: a table below each figure, a row for each iteration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from chemloop.report.completeness import KINDS, measured, overlaps
from chemloop.report.curves import ERRORS, YIELDS, error_key, yield_series
from chemloop.report.data import ReportData
from chemloop.report.panel import Table
from chemloop.report.training import GROWTH, by_size

if TYPE_CHECKING:
    from chemloop.physics.completeness import Seen
    from chemloop.physics.unseen import Estimate

Column = tuple[str, Mapping[int, str]]
"""A title, and what stands below it, by iteration."""


def tables(data: ReportData) -> dict[str, list[Table]]:
    """By the names of the panels; none where a figure has nothing to show."""
    made = {
        "yield": _table("Stable, unique, novel", yield_columns(data)),
        "entropy": _table("Entropy and labels", entropy_columns(data)),
        "coverage": _table("Coverage", estimate_columns(data, "Coverage of {}, %", lambda s: s.coverage, 100, ".1f")),
        "accumulation": _table("Kinds seen and kinds there are", accumulation_columns(data)),
        "overlap": _table("Environments seen before", overlap_columns(data)),
        "news": _table(
            "What the next iteration would bring",
            estimate_columns(data, "New kinds of {} expected", lambda s: s.expected_new, 1, ".1f"),
        ),
        "training": _table("Training set and errors", training_columns(data)),
        "errors": _table("Errors by iteration", error_columns(data)),
    }
    return {name: [table] for name, table in made.items() if table.rows}


def _table(title: str, columns: list[Column]) -> Table:
    columns = [(title, cells) for title, cells in columns if cells]
    iterations = sorted({iteration for _, cells in columns for iteration in cells})
    rows = [(str(n), *(cells.get(n, "") for _, cells in columns)) for n in iterations]
    return Table(f"{title}, in numbers", ("Iteration", *(title for title, _ in columns)), rows)


def _signed(number: str) -> str:
    return number.replace("-", "−")


def _series(data: ReportData, key: str, form: str) -> dict[int, str]:
    return {number: _signed(format(value, form)) for number, value in zip(*data.series(key), strict=True)}


def yield_columns(data: ReportData) -> list[Column]:
    """Generated structures, and counts with their percentage of these."""
    generated: dict[int, str] = {}
    columns: list[Column] = []
    for name, key, _, _ in YIELDS:
        rows = list(zip(*yield_series(data, key), strict=True))
        generated |= {number: f"{total:,}" for number, _, _, total in rows}
        cells = {number: f"{count:,} ({share:.1f} %)" for number, share, count, _ in rows}
        columns.append((f"{name[:1].upper()}{name[1:]}", cells))
    return [("Generated", generated), *columns]


def entropy_columns(data: ReportData) -> list[Column]:
    """Entropy with its standard error, and the frames labelled so far."""
    total, labelled = 0.0, dict[int, str]()
    for iteration in data.iterations:
        if iteration.n_frames is not None:
            total += iteration.n_frames
            labelled[iteration.number] = f"{total:,.0f}"
    return [
        ("Entropy, nats", _series(data, "curate/entropy_nats", ".3f")),
        ("Standard error, nats", _series(data, "curate/entropy_error_nats", ".3f")),
        ("Labelled frames so far", labelled),
    ]


def estimate_columns(
    data: ReportData, title: str, estimate: Callable[[Seen], Estimate], scale: float, form: str
) -> list[Column]:
    """An estimate of environments and of motifs, and its 95 % interval; title: with a place for the kind."""
    columns: list[Column] = []
    for kind, _, _ in KINDS:
        found = {iteration: estimate(seen) for iteration, seen in measured(data, kind)}
        if found:
            columns += [
                (title.format(kind), {n: f"{scale * each.value:{form}}" for n, each in found.items()}),
                (
                    "95 % interval",
                    {n: f"{scale * each.low:{form}} to {scale * each.high:{form}}" for n, each in found.items()},
                ),
            ]
    return columns


def accumulation_columns(data: ReportData) -> list[Column]:
    """Structures looked at, kinds seen in them, and kinds estimated."""
    estimated = estimate_columns(data, "{}, seen and unseen, at least (Chao)", lambda seen: seen.estimated, 1, ",.0f")
    looked_at: dict[int, str] = {}
    columns: list[Column] = []
    kinds = [kind for kind, _, _ in KINDS if measured(data, kind)]
    for place, kind in enumerate(kinds):
        rows = measured(data, kind)
        looked_at |= {iteration: f"{seen.n_samples:,}" for iteration, seen in rows}
        columns.append((f"Kinds of {kind} seen", {iteration: f"{seen.n_seen:,}" for iteration, seen in rows}))
        (title, values), interval = estimated[2 * place : 2 * place + 2]
        columns += [(f"{title[:1].upper()}{title[1:]}", values), interval]
    return [("New structures so far", looked_at), *columns] if columns else []


def overlap_columns(data: ReportData) -> list[Column]:
    """Share of an iteration's environments that were known before, with its standard error."""
    rows = overlaps(data)
    return [
        ("Environments known before, %", {iteration: f"{100 * share:.1f}" for iteration, share, _ in rows}),
        ("Standard error, %", {n: "not known" if error is None else f"{100 * error:.1f}" for n, _, error in rows}),
    ]


def training_columns(data: ReportData) -> list[Column]:
    """Training frames, dH/dN, and test errors as the campaign began and after the fit."""
    numbers, sizes, growth = by_size(data, GROWTH)
    if not numbers:
        return []
    errors = [
        (f"{title}, {when}", {n: f"{value:.1f}" for n, _, value in zip(*by_size(data, key), strict=True)})
        for channel, unit, title in ERRORS
        for when, key in (
            ("at the start", error_key(channel, "base", unit)),
            ("fine-tuned", error_key(channel, "after", unit)),
        )
    ]
    return [
        ("Training frames", {n: f"{size:,.0f}" for n, size in zip(numbers, sizes, strict=True)}),
        ("dH/dN, nats per frame", {n: _signed(f"{value:.2e}") for n, value in zip(numbers, growth, strict=True)}),
        *errors,
    ]


def error_columns(data: ReportData) -> list[Column]:
    """Test errors before and after the fine-tuning of each iteration."""
    return [
        (f"{title} {when} fine-tuning", _series(data, error_key(channel, when, unit), ".1f"))
        for channel, unit, title in ERRORS
        for when in ("before", "after")
    ]
