"""A closed loop over both partitions, and a sweep by Hydra's launcher: what comes out is what comes out at home."""

import subprocess
import sys
from pathlib import Path

from chemloop.physics.structures import write_structures
from chemloop.runtime.ledger import Ledger
from tests.cluster.comparison import differences
from tests.cluster.conftest import CHEAP, ON_SLURM, ROOT
from tests.loop import small
from tests.toy_potential import labelled


def test_campaign_over_both_partitions_has_the_results_of_a_local_one(tmp_path, local):
    ended = small.run(tmp_path, *CHEAP, *ON_SLURM)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "loop.max_iterations = 1 reached" in ended.stdout
    assert differences(local, tmp_path / small.NAME) == []
    assert len(Ledger(local / "structures.db").rows()) > 10
    scripts = "".join(path.read_text() for path in tmp_path.glob("*/iter-*/*/jobs/*/*_submission.sh"))
    assert "--partition=gpu" in scripts and "--partition=cpu" in scripts


MODELS = ("pair", "pairs")
SIZES = ("8", "12", "16")


def sweep(folder: Path, partition: str, sizes: str) -> subprocess.Popen[str]:
    launcher = [f"hydra/launcher=slurm_{partition}", "hydra.launcher.timeout_min=30", "hydra.launcher.mem_gb=2"]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "chemloop", "-m", "--config-dir", str(folder / "conf"), *launcher),
            *("hydra.launcher.cpus_per_task=1", f"outputs={folder}/outputs", f"workflow.pool={folder}/pool.extxyz"),
            *("workflow=learning_curve", f"model={','.join(MODELS)}", f"n_train={sizes}", "tracker=jsonl"),
            *("training.epochs=2", "workflow.max_force=1000"),
        ],
        cwd=ROOT, env=small.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_sweep_by_hydras_launcher_in_both_partitions(tmp_path):
    write_structures(tmp_path / "pool.extxyz", labelled(8, 4))
    (tmp_path / "conf/model").mkdir(parents=True)
    for model in MODELS:
        (tmp_path / f"conf/model/{model}.yaml").write_text("_target_: tests.toy_potential.PairForceField\n")
    jobs = sweep(tmp_path, "gpu", ",".join(SIZES[:2])), sweep(tmp_path, "cpu", SIZES[2])
    for job in jobs:
        _, errors = job.communicate()
        assert job.returncode == 0, errors[-3000:]
    folder = tmp_path / "outputs/pool_learning_curve"
    points = sorted(path.parent.name for path in folder.glob("points/*/DONE"))
    assert points == sorted(f"{m}_{s}_n{n}_s0" for m in MODELS for s in ("entropy", "random") for n in SIZES)
    assert len((folder / "learning_curve.csv").read_text().splitlines()) == 1 + len(points)
    scripts = [path.read_text() for path in (tmp_path / "outputs").rglob("*_submission.sh")]
    assert any("--partition=gpu" in script for script in scripts)
    assert any("--partition=cpu" in script for script in scripts)
    before = small.snapshot(folder)
    again = sweep(tmp_path, "gpu", ",".join(SIZES[:2]))
    assert again.communicate() and again.returncode == 0
    assert small.snapshot(folder) == before, "a sweep that is complete computes nothing again"
