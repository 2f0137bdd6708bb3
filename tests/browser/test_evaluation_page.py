"""The page of an evaluation: it draws, on a desk and on a phone."""

from __future__ import annotations

from pathlib import Path

import pytest

from chemloop.report.evaluation import write_evaluation_page
from chemloop.report.evaluation_data import PANELS, EvaluationData, EvaluationRow


def row(generator: str, n_atoms: int) -> EvaluationRow:
    energies, distances = [-0.02, 0.05, n_atoms / 100, 0.5], [0.1, 0.2, n_atoms / 40, 1.2]
    counts = {"n_asked": 20, "n_valid": 18, "n_converged": 16, "n_unique": 15, "n_novel": 14, "n_stable": 4, "n_sun": 3}
    return EvaluationRow(
        generator, str(n_atoms), n_atoms, **counts, faults={"too close": 2}, e_above_hull=energies, rmsd=distances,
        generate_cpu_s=1.0, relax_cpu_s=5.0 * n_atoms,
    )  # fmt: skip


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory) -> Path:
    rows = [row(generator, n_atoms) for generator in ("random", "mix") for n_atoms in (8, 16, 32)]
    rows.append(EvaluationRow("mix", "40", 40, n_asked=20, faults={"not generated": 20}))
    record = {
        "generator": "random", "elements": ["Li", "P", "S"], "energy_frame": "chgnet-0.3.0", "stable_below": 0.1,
        "fmax": 0.1, "max_steps": 150, "trained_max_atoms": 20, "n": 20,
        "max_reference_atoms": None,
    }  # fmt: skip
    path = tmp_path_factory.mktemp("evaluation") / "evaluation.html"
    write_evaluation_page(EvaluationData("evaluation", record, rows, ["cells of 40 atoms: none"]), path)
    return path


def test_figures_draw(open_page, evaluation):
    opened = open_page(evaluation)
    n_traces = 2 * len(PANELS)
    assert opened.run("document.getElementById('sizes').data.length") == n_traces
    assert opened.run("document.getElementById('sizes').querySelectorAll('.trace').length") == n_traces
    assert opened.page.locator("#section-table tbody tr").count() == 7
    assert opened.page.locator("#section-faults tbody tr").count() == 7
    assert opened.complaints == []


def test_phone_does_not_scroll_sideways(open_page, evaluation):
    opened = open_page(evaluation, width=360, height=740, color_scheme="dark")
    assert opened.run("document.documentElement.scrollWidth") == 360
    assert opened.complaints == []
