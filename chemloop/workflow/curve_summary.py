"""Table, page and pictures of a sweep, from the folders of all points that any of its jobs has finished."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np

from chemloop.report.curve_data import CurveData, CurveParity, CurveRow, markdown
from chemloop.runtime.disk import file_hash, is_intact, read_json, write_json, write_whole
from chemloop.runtime.errors import StageFailed
from chemloop.runtime.item import Item
from chemloop.runtime.sharing import held
from chemloop.stages.curve_point import PARITY, RANKING, base_item, growth, ranking_item
from chemloop.stages.curve_pool import Sweep
from chemloop.stages.stage import BASE, METRICS

SUMMARY = "summary.json"
N_GROWTH = 60
"""Sizes at which dH/dN is drawn."""


def finished_points(sweep: Sweep) -> list[CurveRow]:
    """All points that any job has finished, by model, selection, size and seed."""
    rows = []
    for marker in (sweep.folder / "points").glob("*/DONE"):
        task, metrics = Item(marker.parent).task, read_json(marker.parent / METRICS)
        rows.append(CurveRow(task["name"], task["selection"], task["n_train"], task["index"], metrics, marker.parent))
    return sorted(rows, key=lambda row: (row.model, row.selection, row.n_train, row.seed))


def write_summary(sweep: Sweep) -> None:
    """Table and figures of all finished points, unless they are there already."""
    with held(sweep.lock):
        rows = finished_points(sweep)
        points = {row.folder.name: file_hash(row.folder / METRICS) for row in rows}
        summary = sweep.folder / SUMMARY
        if not rows or (is_intact(summary) and read_json(summary)["points"] == points):
            return
        from chemloop.report.learning_curve import write_curve_report

        write_whole(sweep.folder / "learning_curve.csv", table(rows).encode())
        names = ["learning_curve.csv", *write_curve_report(curve_data(sweep, rows), sweep.folder)]
        outputs = {name: file_hash(sweep.folder / name) for name in names}
        write_json(summary, {"points": points, "outputs": outputs})


def table(rows: Sequence[CurveRow]) -> str:
    """CSV with one line per point and one column per metric, named with its unit."""
    keys = sorted({key for row in rows for key in row.metrics} - {"n_train"})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "selection", "n_train", "seed", *keys])
    for row in rows:
        values = [row.metrics.get(key, "") for key in keys]
        writer.writerow([row.model, row.selection, row.n_train, row.seed, *values])
    return text.getvalue()


def curve_data(sweep: Sweep, rows: Sequence[CurveRow]) -> CurveData:
    """What the figures show."""
    record = sweep.record
    models = sorted({row.model for row in rows})
    notices = {model: read_json(base_item(sweep, model).folder / BASE)["notice"] for model in models}
    return CurveData(
        name=sweep.folder.name,
        record=record,
        rows=rows,
        growth={selection: drawn_growth(sweep, selection, rows) for selection in {row.selection for row in rows}},
        parities=[largest_parity([row for row in rows if row.model == model]) for model in models],
        notices=[f"{model}: {notice}" for model, notice in notices.items() if notice is not None],
    )


def drawn_growth(sweep: Sweep, selection: str, rows: Sequence[CurveRow]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of frames from the smallest to the largest training set of a selection, and dH/dN there."""
    seed = min(row.seed for row in rows if row.selection == selection)
    sizes = [row.n_train for row in rows]
    with np.load(ranking_item(sweep, selection, seed).folder / RANKING) as arrays:
        entropies = arrays["entropies"]
    drawn = np.union1d(np.geomspace(min(sizes), max(sizes), N_GROWTH).round().astype(int), sizes)
    return drawn, np.array([growth(entropies, n_frames) for n_frames in drawn])


def largest_parity(rows: Sequence[CurveRow]) -> CurveParity:
    """Of the largest training set of one model, by entropy where there is that, of the first seed."""
    row = max(rows, key=lambda row: (row.n_train, row.selection == "entropy", -row.seed))
    with np.load(row.folder / PARITY) as arrays:
        return CurveParity(row, dict(arrays))


def show_summary(sweep: Sweep, points: Sequence[Item]) -> None:
    """The table of all points, the files, and what failed.

    Raises: StageFailed when points of this command failed
    """
    print("\n" + markdown(finished_points(sweep)))
    for name, file in (("figure", "learning_curve.html"), ("", "learning_curve.png"), ("table", "learning_curve.csv")):
        if (sweep.folder / file).exists():
            print(f"{name:8s}{sweep.folder / file}")
    print(f"points  {sweep.folder / 'points'}")
    failed = [item for item in points if not item.is_done]
    if failed:
        reasons = "; ".join(f"{item.folder.name}: {(item.failure or {}).get('reason')}" for item in failed)
        raise StageFailed(
            f"{len(failed)} of {len(points)} points failed ({reasons}); logs: {failed[0].folder / 'log.out'}."
            " The same command tries them again"
        )
