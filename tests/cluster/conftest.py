"""A real SLURM: the one that `make cluster` starts on this machine."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEVCLUSTER = ROOT / "launchers/devcluster/devcluster.sh"

LIMITS = [f"compute.{key}.time_min=30" for key in ("cpu", "gpu", "dft")]
ON_SLURM = [
    "compute=slurm",
    *LIMITS,
    *("compute.gpu.device=cpu", "compute.gpu.gpus=1", "compute.gpu.cpus=1", "compute.gpu.mem_gb=1.4"),
    *("compute.cpu.mem_gb=1.4", "compute.dft.mem_gb=1.4", "compute.poll_s=0.5", "compute.queue_s=2"),
    *("compute.cpu.max_jobs=4", "compute.dft.max_jobs=4", "compute.gpu.max_jobs=4"),
]
"""A GPU of this cluster is a pretence, so nothing may compute on it."""


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


@pytest.fixture
def compose_slurm(compose_config):
    """As compose_config, for this cluster."""
    return lambda *overrides: compose_config(*ON_SLURM, *overrides)
