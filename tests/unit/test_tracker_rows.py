"""Rows of a dashboard, tables and checkpoints of a campaign, and the views that draw them."""

import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from ase import Atoms

from chemloop.physics.motifs import MotifCatalogue, find_motifs
from chemloop.physics.structures import write_structures
from chemloop.report.curves import YIELDS, yield_series
from chemloop.report.data import Iteration, ReportData
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.disk import write_json
from chemloop.stages.exploration import CATALOGUE, metrics_of_kind
from chemloop.stages.label import RELAXED
from chemloop.stages.stage import FIT, stage_folder
from chemloop.tracker import Point
from chemloop.tracker.rows import dashboard_rows, x_axis
from chemloop.workflow.results import N_STRUCTURES, checkpoints, tables

ROOT = Path(__file__).parents[2]
ESTIMATE = SimpleNamespace(value=0.5, low=0.4, high=0.6)
SEEN = SimpleNamespace(n_seen=9, n_known=3, coverage=ESTIMATE, estimated=ESTIMATE, expected_new=ESTIMATE)
COUNTED = {f"curate/{name}" for kind in ("environment", "motif") for name in metrics_of_kind(kind, SEEN)}
"""All that the curate stage tells of environments and motifs."""
RMSES = [
    f"test_{channel}_rmse_{when}_{unit}"
    for channel, unit in (("energy", "mev_per_atom"), ("force", "mev_per_ang"), ("stress", "mev_per_ang3"))
    for when in ("before", "after", "base")
]


def test_epochs_count_through_all_fits():
    history = [Point(i, {"curves/epoch": k, "curves/train_loss": 1.0}) for i in range(2) for k in range(3)]
    assert [row["epoch"] for row in dashboard_rows(history)] == [1, 2, 3, 4, 5, 6]
    assert [row["iteration"] for row in dashboard_rows(history)] == [0, 0, 0, 1, 1, 1]


def test_errors_become_bounds():
    metrics = {"curate/entropy_nats": 4.0, "curate/entropy_error_nats": 0.5, "curate/overlap_fraction": 0.75}
    (row,) = dashboard_rows([Point(1, metrics | {"curate/overlap_fraction_error": 0.25})])
    assert row["curate/entropy_low_nats"] == 3.5 and row["curate/entropy_high_nats"] == 4.5
    assert row["curate/overlap_fraction_low"] == 0.5 and row["curate/overlap_fraction_high"] == 1.0
    assert dashboard_rows([Point(0, {"curate/entropy_nats": 4.0})]) == [{"iteration": 0, "curate/entropy_nats": 4.0}]


def test_fractions_are_of_the_generated_structures():
    """All four of them, because one panel draws them together, and the report divides as they do."""
    screened = {"screen/n_screened": 8, "screen/n_stable": 4, "screen/n_unique": 6, "screen/n_novel": 5}
    points = [Point(0, {"seed/n_frames": 3})]
    for iteration, n_generated in ((1, 16), (2, 64)):
        points.append(Point(iteration, {"generate/n_generated": n_generated}))
        points.append(Point(iteration, screened | {"screen/n_sun": 2, "screen/sun_fraction": 2 / n_generated}))
    rows = [row for row in dashboard_rows(points) if "screen/n_sun" in row]
    kinds = ("stable", "unique", "novel", "sun")
    assert [row[f"screen/{kind}_fraction"] for kind in kinds for row in rows] == [
        *(4 / 16, 4 / 64, 6 / 16, 6 / 64, 5 / 16, 5 / 64, 2 / 16, 2 / 64)
    ]
    numbers = [Iteration(i, {k: v for p in points if p.iteration == i for k, v in p.metrics.items()}) for i in (1, 2)]
    data = ReportData("c", ["Li"], "", "", {}, iterations=numbers)
    for name, key, _, _ in YIELDS:
        kind = "sun" if name == "S.U.N." else name
        assert yield_series(data, key)[1] == [100 * row[f"screen/{kind}_fraction"] for row in rows]


@pytest.mark.parametrize("generated", [[], [Point(1, {"generate/n_generated": 0})]])
def test_an_iteration_that_generated_nothing_has_no_fractions(generated):
    counts = {f"screen/n_{kind}": 0 for kind in ("screened", "stable", "unique", "novel", "sun")}
    assert dashboard_rows([*generated, Point(1, counts)])[-1] == {"iteration": 1, **counts}


def test_errors_and_growth_also_against_training_frames():
    growth = {"curate/entropy_growth_nats_per_frame": 0.5, "curate/entropy_growth_error_nats_per_frame": 0.25}
    curate = Point(1, {"curate/n_train": 400, **growth})
    finetune = Point(1, {"finetune/n_train": 400, "finetune/test_force_rmse_after_mev_per_ang": 76.0})
    rows = dashboard_rows([curate, finetune])
    assert rows[0]["n_train"] == 400 and rows[0]["by_n_train/entropy_growth_nats_per_frame"] == 0.5
    assert rows[0]["by_n_train/entropy_growth_low_nats_per_frame"] == 0.25
    assert rows[1]["n_train"] == 400 and rows[1]["by_n_train/test_force_rmse_after_mev_per_ang"] == 76.0


@pytest.mark.parametrize(
    ("metric", "axis"),
    [
        ("curate/environment_coverage_low", "iteration"),
        ("describe/n_described", "iteration"),
        ("curves/train_loss", "epoch"),
        ("by_n_train/x", "n_train"),
        ("learning_curve/test_force_rmse_mev_per_ang", "n_train"),
    ],
)
def test_x_axes(metric, axis):
    assert x_axis(metric) == axis


def crystal(id: str, e_above_hull: float, converged: bool = True) -> Atoms:
    """A P2 dumbbell in a box."""
    atoms = Atoms("P2", [[0, 0, 0], [0, 0, 2.2]], cell=[6, 6, 6], pbc=True)
    atoms.info |= {"id": id, "parent": id, "converged": converged, "e_above_hull": e_above_hull}
    return atoms


def finish(campaign: Campaign, iteration: int, name: str, **files) -> Path:
    folder = stage_folder(campaign, iteration, name)
    folder.mkdir(parents=True)
    for file, content in files.items():
        write_json(folder / f"{file}.json", content)
    write_json(folder / "DONE", {"outputs": {}})
    return folder


def test_tables_of_a_campaign(tmp_path):
    campaign = Campaign(tmp_path)
    assert tables(campaign) == []
    catalogue = MotifCatalogue()
    catalogue.add(find_motifs(crystal("x", 0.0), {"P-P": 2.5}, "Li"), "i01-g000-0002", 1, 0.01)
    first = finish(campaign, 0, "curate", catalogue=MotifCatalogue().to_json())
    write_structures(first / RELAXED, [crystal("mp-1", 0.0)])
    assert tables(campaign) == [], "references are not new"
    second = finish(campaign, 1, "curate", catalogue=catalogue.to_json())
    assert (second / CATALOGUE).exists()
    found = [("mp-1", 0.0, True), ("i01-g000-0002", 0.01, True), ("i01-g000-0001", -0.02, True)]
    write_structures(second / RELAXED, [crystal(*row) for row in (*found, ("i01-g000-0003", -1.0, False))])
    best, motifs = tables(campaign)
    assert [row[0] for row in best.rows] == ["i01-g000-0001", "i01-g000-0002"]
    row = dict(zip(best.columns, best.rows[0], strict=True))
    assert row["formula"] == "P" and row["iteration"] == 1 and row["n_atoms"] == 2 and row["space_group"] == "P4/mmm"
    (row,) = (dict(zip(motifs.columns, row, strict=True)) for row in motifs.rows)
    assert row["formula"] == "P2" and row["n_structures"] == 1 and row["best_host"] == "i01-g000-0002"
    assert row["first_iteration"] == 1 and row["lowest_e_above_hull_ev_per_atom"] == 0.01
    json.dumps([best.rows, motifs.rows])


def test_what_a_label_turned_into_something_known_is_not_among_the_best(tmp_path):
    campaign = Campaign(tmp_path)
    structures = [crystal(f"i01-g000-{k:04d}", 0.01 * k) for k in range(3)]
    for atoms, unique, novel in zip(structures, (True, False, True), (False, True, True), strict=True):
        atoms.info |= {"is_unique": unique, "is_novel": novel}
    write_structures(finish(campaign, 0, "curate") / RELAXED, structures)
    (best,) = tables(campaign)
    assert [row[0] for row in best.rows] == ["i01-g000-0002"]


def test_only_the_best_structures(tmp_path):
    campaign = Campaign(tmp_path)
    many = [crystal(f"i01-g000-{k:04d}", 0.001 * k) for k in reversed(range(N_STRUCTURES + 5))]
    write_structures(finish(campaign, 0, "curate") / RELAXED, many)
    (best,) = tables(campaign)
    assert len(best.rows) == N_STRUCTURES and best.rows[0][0] == "i01-g000-0000"


def test_checkpoints_are_those_of_the_campaign(tmp_path):
    campaign = Campaign(tmp_path / "campaign")
    assert checkpoints(campaign) == {}
    for iteration, checkpoint in enumerate(("items/0000/finetuned.pt", "../../../base.pt", "0.3.0", None)):
        folder = finish(campaign, iteration, "finetune", fit={"checkpoint": checkpoint, "energy_frame": "x"})
        assert (folder / FIT).exists()
    own = stage_folder(campaign, 0, "finetune") / "items/0000/finetuned.pt"
    for path in (own, tmp_path / "base.pt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
    assert checkpoints(campaign) == {0: own.resolve()}


@pytest.fixture
def workspaces() -> list[dict]:
    """Both views as they would be sent."""
    spec = importlib.util.spec_from_file_location("wandb_workspace", ROOT / "launchers/wandb_workspace.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [json.loads(view._to_model().model_dump_json(by_alias=True)) for view in module.views("someone", "chemloop")]


def panels(workspace: dict) -> list[dict]:
    return [
        panel for section in workspace["spec"]["section"]["panelBankConfig"]["sections"] for panel in section["panels"]
    ]


def test_views_are_built_without_network(workspaces):
    campaigns, sweeps = workspaces
    assert [view["displayName"] for view in workspaces] == ["ChemLoop campaigns", "ChemLoop learning curves"]
    assert [len(panels(view)) for view in workspaces] == [29, 12]
    text = json.dumps(sweeps["spec"]["section"]["runSets"])
    assert '"learning_curve"' in text and "point" in text and "selection" in text
    assert '"explore"' in json.dumps(campaigns["spec"]["section"]["runSets"])
    assert "best_structures" in json.dumps(campaigns) and "motif_catalogue" in json.dumps(campaigns)


def test_views_draw_metrics_against_their_own_axis(workspaces):
    drawn = set()
    for panel in (panel for view in workspaces for panel in panels(view)):
        if panel["viewType"] == "Run History Line Plot":
            for metric in panel["config"]["metrics"]:
                assert x_axis(metric) == panel["config"]["xAxis"], metric
                drawn.add(metric)
    assert COUNTED - drawn == {f"curate/n_{many}_known_before" for many in ("environments", "motifs")}
    assert drawn >= {f"{group}/{rmse}" for group in ("finetune", "by_n_train") for rmse in RMSES}
    assert {"curate/entropy_nats", "curate/entropy_low_nats", "curate/overlap_fraction", "screen/n_sun"} <= drawn
    sources = "".join(path.read_text() for path in ROOT.glob("chemloop/*/*.py"))
    made_up = re.compile(
        r"_(low|high)(_nats)?(_per_frame)?$|^curate/(n_)?(new_)?(motif|environment|overlap)|rmse|_fraction$|train_"
    )
    unknown = [m for m in drawn - COUNTED if not made_up.search(m) and m.partition("/")[2] not in sources]
    assert not unknown, "a metric of that name is computed nowhere"
