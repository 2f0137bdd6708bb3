"""The page of a learning curve: it draws, on a desk and on a phone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chemloop.report.curve_data import CurveData, CurveParity, CurveRow
from chemloop.report.learning_curve import write_curves

CHANNELS = ("energy_rmse_mev_per_atom", "force_rmse_mev_per_ang", "stress_rmse_mev_per_ang3")


def row(model: str, selection: str, n_train: int) -> CurveRow:
    error = (80 if selection == "random" else 60) / np.sqrt(n_train)
    metrics = {f"{who}test_{channel}": error for who in ("", "base_") for channel in CHANNELS}
    metrics |= dict.fromkeys(("n_train", "n_epochs", "wall_s", "frames_per_s"), 3.0)
    metrics |= {"entropy_growth_nats_per_frame": 1 / n_train, "kept_base": 0.0}
    return CurveRow(model, selection, n_train, 0, metrics, Path())


@pytest.fixture(scope="module")
def curve(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    choices = [(m, s, n) for m in ("chgnet", "dpa3") for s in ("entropy", "random") for n in (10, 40, 160)]
    rows = [row(*choice) for choice in choices]
    arrays = {
        f"{who}_{kind}": rng.normal(size=90) for who in ("label", "before", "after") for kind in ("energy", "force")
    }
    sizes = np.arange(10, 161, 10)
    record = {
        "settings": {"pool": "/a/long/path/without/a/space/to/break/the/line/pool.extxyz", "max_force": 50.0},
        "energy_frame": "teacher-7net-0-1a2b3c4d",
        "elements": ["Li", "P", "S"],
        "n_train": 160,
        "n_test": 30,
        "n_outliers": 2,
    }
    data = CurveData(
        "learning_curve",
        record,
        rows,
        {name: (sizes, 1 / sizes) for name in ("entropy", "random")},
        [CurveParity(rows[2], arrays | {"n_forces": np.array(90)})],
        [],
    )
    path = tmp_path_factory.mktemp("curve") / "learning_curve.html"
    write_curves(data, path)
    return path


def test_figures_draw(open_page, curve):
    opened = open_page(curve)
    for name, n_traces in (("curve", 10), ("parity-chgnet-energy", 4), ("parity-chgnet-force", 4)):
        assert opened.run("name => document.getElementById(name).data.length", name) == n_traces
        assert opened.run("name => document.getElementById(name).querySelectorAll('.trace').length", name) == n_traces
    assert opened.page.locator("main table tbody tr").count() == 12
    assert opened.complaints == []


def test_phone_does_not_scroll_sideways(open_page, curve):
    opened = open_page(curve, width=360, height=740, color_scheme="dark")
    assert opened.run("document.documentElement.scrollWidth") == 360
    assert opened.complaints == []
