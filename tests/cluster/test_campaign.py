"""A closed loop over both partitions, and a sweep by Hydra's launcher: what comes out is what comes out at home."""

import subprocess
from pathlib import Path

from chemloop.runtime.ledger import Ledger
from tests.cluster.conftest import ON_SLURM, ROOT
from tests.loop import small

CALCULATOR = "ase.calculators.lj.LennardJones"
CHEAP = (
    *("tracker=jsonl", "model=ase", "labeler=ase", "loop.max_failed_fraction=0.9"),
    *(f"model.calculator._target_={CALCULATOR}", "+model.calculator.epsilon=0.05", "+model.calculator.sigma=2.3"),
    *(f"labeler.calculator._target_={CALCULATOR}", "+labeler.calculator.epsilon=0.06", "+labeler.calculator.sigma=2.3"),
)
"""All stages with something that computes in no time; its model cannot learn."""


def start(outputs: Path, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        small.command(outputs, *CHEAP, *overrides), cwd=ROOT, env=small.environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_campaign_over_both_partitions_has_the_ledger_of_a_local_one(tmp_path):
    campaigns = start(tmp_path / "local"), start(tmp_path / "slurm", *ON_SLURM)
    for campaign in campaigns:
        printed, errors = campaign.communicate()
        assert campaign.returncode == 0, errors[-3000:]
        assert "loop.max_iterations = 1 reached" in printed
    expected, found = (Ledger(tmp_path / where / small.NAME / "structures.db").rows() for where in ("local", "slurm"))
    assert found == expected and len(found) > 10
    scripts = "".join(path.read_text() for path in (tmp_path / "slurm").glob("*/iter-*/*/jobs/*/*_submission.sh"))
    assert "--partition=gpu" in scripts and "--partition=cpu" in scripts
