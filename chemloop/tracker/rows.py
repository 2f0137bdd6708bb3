"""The rows of a dashboard: the history with what its plots need beside the metrics."""

from __future__ import annotations

from collections.abc import Sequence

from chemloop.tracker import Point

X_AXES = {"curves": "epoch", "by_n_train": "n_train", "learning_curve": "n_train"}
"""What metrics are drawn against, by the word before their slash; all others against the iteration."""
AXES = ("iteration", "n_train", "epoch")
GENERATED = "generate/n_generated"
WITH_ERROR = (
    ("curate/entropy_nats", "curate/entropy_error_nats", "curate/entropy_{}_nats"),
    (
        "curate/entropy_growth_nats_per_frame",
        "curate/entropy_growth_error_nats_per_frame",
        "curate/entropy_growth_{}_nats_per_frame",
    ),
    ("curate/overlap_fraction", "curate/overlap_fraction_error", "curate/overlap_fraction_{}"),
)
"""A metric, its standard error, and the names that its bounds get, because dashboards draw no error bars."""


def x_axis(metric: str) -> str:
    """What a metric is drawn against."""
    return X_AXES.get(metric.partition("/")[0], "iteration")


def dashboard_rows(history: Sequence[Point], is_sweep_point: bool = False) -> list[dict[str, float]]:
    """One row per point, with the x axes that its metrics need.

    epoch: counts through all fits of a campaign, so that their curves follow each other
    by_n_train/*: what is also drawn against the number of training frames
    is_sweep_point: whether the points' iteration is in truth the number of training frames
    """
    rows, epoch = [], 0
    generated = {point.iteration: point.metrics[GENERATED] for point in history if point.metrics.get(GENERATED, 0) > 0}
    for point in history:
        row: dict[str, float] = {"n_train" if is_sweep_point else "iteration": point.iteration, **point.metrics}
        if "curves/epoch" in row:
            epoch += 1
            row["epoch"] = epoch
        row |= _bounds(row) | _fractions(row, generated.get(point.iteration))
        rows.append(row | _by_n_train(row))
    return rows


def _bounds(row: dict[str, float]) -> dict[str, float]:
    """Values one standard error below and above."""
    bounds = {}
    for metric, error, name in WITH_ERROR:
        if metric in row and error in row:
            bounds[name.format("low")] = row[metric] - row[error]
            bounds[name.format("high")] = row[metric] + row[error]
    return bounds


def _fractions(row: dict[str, float], n_generated: float | None) -> dict[str, float]:
    """Shares of stable, unique and novel structures among those generated, like `screen/sun_fraction` of all three;
    none where nothing was generated.
    """
    if n_generated is None:
        return {}
    counts = {kind: row.get(f"screen/n_{kind}") for kind in ("stable", "unique", "novel")}
    return {f"screen/{kind}_fraction": n / n_generated for kind, n in counts.items() if n is not None}


def _by_n_train(row: dict[str, float]) -> dict[str, float]:
    """Errors on the test frames and dH/dN once more, with the number of training frames that they belong to."""
    for stage, prefix in (("finetune", "test_"), ("curate", "entropy_growth_")):
        n_train = row.get(f"{stage}/n_train")
        found = {key: value for key, value in row.items() if key.startswith(f"{stage}/{prefix}")}
        if n_train is not None and found:
            return {"n_train": n_train} | {f"by_n_train/{key.partition('/')[2]}": found[key] for key in found}
    return {}
