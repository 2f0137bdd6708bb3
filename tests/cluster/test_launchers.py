"""The two batch scripts, submitted as a person submits them, warned of their limit, and requeued."""

import functools
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chemloop.runtime.queue import my_jobs
from tests.cluster.comparison import TOLERANCE, differences
from tests.cluster.conftest import CHEAP, ROOT
from tests.loop import small

SIZES = {
    "node": ("--partition=cpu", "--cpus-per-task=2", "--mem=4G", "--time=30"),
    "driver": ("--partition=cpu", "--mem=1G", "--time=30"),
}
COMPUTE = {
    "node": (),
    "driver": ("compute=devcluster", *(f"compute.{key}.mem_gb=1.4" for key in ("gpu", "cpu", "dft"))),
}


def sbatch(script: str, outputs: Path, *overrides: str) -> str:
    """The id of the job."""
    _, _, _, *settings = small.command(outputs, *CHEAP, *overrides)
    command = ["sbatch", "--parsable", *SIZES[script], str(ROOT / f"launchers/{script}.sbatch"), *settings]
    environment = small.environment() | {"PYTHON": sys.executable}
    return subprocess.run(
        command, cwd=outputs, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()  # fmt: skip


def state(job: str) -> str:
    return next((found.state for found in my_jobs() if found.id == job), "UNKNOWN")


def wait_until(is_so: Callable[[], bool], log: Path) -> None:
    begin = time.monotonic()
    while not is_so():
        assert time.monotonic() - begin < 900, log.read_text()[-3000:] if log.exists() else "it printed nothing"
        time.sleep(0.5)


@pytest.mark.parametrize("script", ["node", "driver"])
def test_campaign_in_a_job_goes_on_after_its_limit_and_after_a_preemption(tmp_path, local, script):
    job = sbatch(script, tmp_path, *COMPUTE[script])
    log = tmp_path / f"chemloop-{script}-{job}.out"
    campaign = tmp_path / small.NAME
    strikes = (
        # what SLURM sends ahead of the limit
        ("3-screen", ["scancel", "--batch", "--signal=USR1", job]),
        # what it does to a job that another one pushes out
        ("6-label", ["scontrol", "requeue", job]),
    )
    greeting = f"campaign {small.NAME} in {campaign}"

    def is_at(stage: str, n_starts: int) -> bool:
        # only a job that runs, and has said so, can be struck
        has_come = any(campaign.glob(f"iter-*/{stage}/items/*/.starts"))
        return has_come and state(job) == "RUNNING" and log.read_text().count(greeting) == n_starts

    for number, (stage, strike) in enumerate(strikes, start=1):
        wait_until(functools.partial(is_at, stage, number), log)
        subprocess.run(strike, check=True)
        wait_until(lambda: state(job) != "RUNNING", log)
    wait_until(lambda: state(job) not in ("PENDING", "RUNNING", "COMPLETING"), log)
    printed = log.read_text()
    assert state(job) == "COMPLETED", printed[-3000:]
    assert "loop.max_iterations = 1 reached" in printed
    about = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
    assert "Restarts=2" in about
    assert printed.count(greeting) == 3, "each start says where the campaign lies"
    assert differences(local, campaign, TOLERANCE) == []
