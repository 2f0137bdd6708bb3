"""A real SLURM: the one that `make cluster` starts on this machine."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loop import small

ROOT = Path(__file__).parents[2]
DEVCLUSTER = ROOT / "launchers/devcluster/devcluster.sh"

CLASSES = ("gpu", "cpu", "dft")
ON_SLURM = [
    "compute=devcluster",
    *(f"compute.{key}.{setting}" for key in CLASSES for setting in ("mem_gb=1.4", "max_jobs=4")),
]
"""Items of these tests need little, so that more of them fit on a node."""

CALCULATOR = "ase.calculators.lj.LennardJones"
CHEAP = (
    *("tracker=jsonl", "model=ase", "labeler=ase", "loop.max_failed_fraction=0.9"),
    *(f"model.calculator._target_={CALCULATOR}", "+model.calculator.epsilon=0.05", "+model.calculator.sigma=2.3"),
    *(f"labeler.calculator._target_={CALCULATOR}", "+labeler.calculator.epsilon=0.06", "+labeler.calculator.sigma=2.3"),
)
"""All stages with something that computes in no time; its model cannot learn."""


def devcluster(*arguments: str) -> str:
    return subprocess.run([str(DEVCLUSTER), *arguments], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="session", autouse=True)
def cluster() -> Iterator[None]:
    """Its SLURM_CONF in the environment."""
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = devcluster("env").strip().partition("=")[2]
    if subprocess.run([str(DEVCLUSTER), "status"], capture_output=True, check=False).returncode:
        message = "there is no SLURM for tests/cluster: start one with `make cluster` (Debian; stops with the machine)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    yield
    if before is None:
        del os.environ["SLURM_CONF"]
    else:
        os.environ["SLURM_CONF"] = before


@pytest.fixture(scope="session")
def local(tmp_path_factory) -> Path:
    """The small campaign, cheap, computed at home by an undisturbed driver."""
    outputs = tmp_path_factory.mktemp("local")
    ended = small.run(outputs, *CHEAP)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return outputs / small.NAME


@pytest.fixture
def compose_slurm(compose_config):
    """As compose_config, for this cluster."""
    return lambda *overrides: compose_config(*ON_SLURM, *overrides)
