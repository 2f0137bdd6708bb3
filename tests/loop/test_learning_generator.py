"""The closed loop with a generator that learns: its checkpoint goes round, and every structure keeps its origin."""

import json
import shutil
from pathlib import Path

import pytest

from chemloop.config import load
from chemloop.physics.structures import read_structures
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.ledger import Ledger
from chemloop.workflow.ledger import rebuild
from tests.loop import small

LEARNING = (
    "generator._target_=tests.toy_generator.LearningGenerator",
    "+generator.checkpoint=null",
    "loop.relax.max_steps=15",
    "training.epochs=1",
)


@pytest.fixture(scope="module")
def learned(undisturbed, tmp_path_factory) -> Path:
    """Folder of a finished campaign whose generator learns; the references' labels are those of the other one."""
    outputs = tmp_path_factory.mktemp("learning")
    shutil.copytree(undisturbed[0].parent / "label-cache", outputs / "label-cache")
    ended = small.run(outputs, *LEARNING)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return outputs / small.NAME


def state(folder: Path, iteration: int) -> dict:
    stage = folder / f"iter-00{iteration}/9-learn"
    checkpoint = stage / json.loads((stage / "fit.json").read_text())["checkpoint"]
    return json.loads((checkpoint / "state.json").read_text())


def test_each_iteration_learns_from_the_one_before(learned):
    assert [state(learned, iteration)["n_lessons"] for iteration in (0, 1)] == [1, 2]
    generated = read_structures(learned / "iter-001/1-generate/output.extxyz")
    lowest = state(learned, 0)["lowest"]
    assert len(lowest) == 2 and all(id.startswith("i00-r") for id in lowest)
    assert generated
    for atoms in generated:
        origin = [atoms.info[key] for key in ("generator", "operator", "parents")]
        assert origin == ["random", "lesson 1", " ".join(lowest)]


def test_origins_reach_screen_ledger_and_report(learned):
    for path in ("2-relax", "3-screen"):
        structures = read_structures(learned / "iter-001" / path / "output.extxyz")
        found = [atoms for atoms in structures if atoms.info["role"] == "candidate"]
        assert found and {atoms.info["operator"] for atoms in found} == {"lesson 1"}
    ledger = Ledger(learned / "structures.db")
    born = [row for row in ledger.rows() if row["born_iteration"] == 1]
    lowest = " ".join(state(learned, 0)["lowest"])
    assert born and {(row["generator"], row["operator"], row["parents"]) for row in born} == {
        ("random", "lesson 1", lowest)
    }
    rows = ledger.rows()
    campaign = Campaign(learned)
    rebuild(campaign, load(campaign.config()))
    assert ledger.rows() == rows
    assert "· lesson 1" in (learned / "report.html").read_text()


def test_achievements_are_told_and_no_metric_has_their_times(learned):
    assert json.loads((learned / "iter-000/9-learn/items/0000/achieved.json").read_text()) == []
    (row,) = json.loads((learned / "iter-001/9-learn/items/0000/achieved.json").read_text())
    metrics = {}
    for name in ("1-generate", "3-screen", "9-learn"):
        metrics |= json.loads((learned / "iter-001" / name / "metrics.json").read_text())
    assert (row["iteration"], row["generator"], row["n_proposed"]) == (1, "random", metrics["generate/n_generated"])
    assert (row["n_valid"], row["n_sun"]) == (metrics["generate/n_valid"], metrics["screen/n_sun"])
    assert row["cpu_seconds"] > 0
    assert metrics["learn/n_lessons"] == 2 and metrics["learn/n_labels"] > 3
    assert not [key for key in metrics if "second" in key]


def test_a_lost_lesson_is_learned_again(learned, tmp_path):
    copy = tmp_path / small.NAME
    shutil.copytree(learned, copy)
    shutil.copytree(learned.parent / "label-cache", tmp_path / "label-cache")
    (copy / "iter-001/9-learn/items/0000/learned/state.json").write_text("{")
    before = small.snapshot(copy)
    ended = small.run(tmp_path, *LEARNING)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert state(copy, 1) == state(learned, 1)
    changed = {name for name, written in small.snapshot(copy).items() if before.get(name) != written}
    assert {name.partition("/items")[0] for name in changed if "/items/" in name} == {"iter-001/9-learn"}
