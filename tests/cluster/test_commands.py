"""compute=slurm, status and cancel as a person types them, on a real SLURM."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from chemloop.config import load
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.process import cpu_seconds
from chemloop.runtime.queue import my_jobs
from tests.cluster.conftest import ON_SLURM, ROOT
from tests.cluster.test_jobs import alive
from tests.loop import small
from tests.toy_stage import ToyStage
from tests.unit.test_submit import start_driver, wait_until_begun


def chemloop(outputs: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chemloop", f"outputs={outputs}", *overrides],
        cwd=ROOT, env=small.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (["compute.gpu.partition=gqu"], ["compute.gpu.partition = gqu", "there are gpu, cpu"]),
        (["compute.dft.time_min=3000"], ["compute.dft.time_min = 3000: partition cpu allows 1440 minutes"]),
        (["compute.gpu.gpus=9"], ["sbatch refused a job of compute.gpu", "node configuration is not available"]),
        (["compute.gpu.constraint='a100; touch pwned'"], ["sbatch refused a job of compute.gpu", "Invalid feature"]),
        (["compute.gpu.modules=['cuda/13; touch pwned']"], ["could not start ChemLoop", "module", "compute.gpu.setup"]),
        (["compute.gpu.setup=['echo no licence; exit 3']"], ["could not start ChemLoop: no licence (log: "]),
    ],
)
def test_what_the_cluster_does_not_give_is_one_sentence(tmp_path, overrides, messages):
    ended = chemloop(tmp_path, *ON_SLURM, *overrides)
    assert ended.returncode != 0 and "Traceback" not in ended.stderr
    assert all(message in ended.stderr for message in messages), ended.stderr
    assert not list(ROOT.glob("pwned")) and not list(tmp_path.rglob("pwned"))
    assert not list(tmp_path.glob("*/iter-*/*/jobs/*")), "nothing was queued but, at most, the probe"


def test_folder_that_the_nodes_do_not_see_is_found_before_anything_is_queued(tmp_path):
    """The driver has a disk of its own there, in a namespace of its own."""
    private = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(tmp_path)]
    if subprocess.run([*private, "true"], capture_output=True, check=False).returncode:
        pytest.skip("only root can give the driver a disk that the nodes of this machine do not see")
    command = [sys.executable, "-m", "chemloop", f"outputs={tmp_path}/outputs", *ON_SLURM]
    ended = subprocess.run(
        [*private, *command], cwd=ROOT, env=small.environment(), capture_output=True, text=True, check=False
    )
    assert ended.returncode != 0 and "Traceback" not in ended.stderr
    message = "campaigns on a cluster need a folder that all its nodes share; choose one with outputs=FOLDER"
    assert message in ended.stderr, ended.stderr


def test_machine_without_slurm_is_one_sentence(tmp_path):
    environment = small.environment() | {"PATH": str(tmp_path)}
    command = [sys.executable, "-m", "chemloop", f"outputs={tmp_path}", *ON_SLURM]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode != 0 and "Traceback" not in ended.stderr
    assert "there is no sbatch on this machine; start this on a login node" in ended.stderr, ended.stderr


def test_environment_without_chemloop_is_found_before_anything_is_queued(tmp_path):
    python = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(python)], check=True)
    ended = chemloop(tmp_path, *ON_SLURM, f"model.python={python}/bin/python")
    assert ended.returncode != 0 and "Traceback" not in ended.stderr
    assert "could not start ChemLoop" in ended.stderr and "No module named" in ended.stderr, ended.stderr
    assert not list(tmp_path.glob("*/iter-*/*/jobs/*"))


def toys(tmp_path: Path, compose_slurm, name: str, *what: str) -> ToyStage:
    config = compose_slurm(f"campaign={name}")
    campaign = Campaign(tmp_path / "outputs" / name)
    campaign.begin(config)
    toy = ToyStage(campaign, load(config), 1)
    toy.what = what
    return toy


def probes(toy: ToyStage) -> set[str]:
    """The names of the probes that its campaign has sent."""
    return {f"chemloop.probe.{path.parent.name}.{path.name}" for path in toy.campaign.folder.glob(".probes/*/*")}


def test_status_reads_and_cancel_ends_only_one_campaign(tmp_path, compose_slurm):
    one = toys(tmp_path, compose_slurm, "one", "fail", "sleep 300", "sleep 300")
    other = toys(tmp_path, compose_slurm, "other", "fail", "wait", "wait")
    drivers = [start_driver(toy) for toy in (one, other)]
    for toy, driver in zip((one, other), drivers, strict=True):
        wait_until_begun(toy, driver)
    while sum(job.n_tasks for job in alive(one)) > 2:
        # the job whose item has failed may still be there, and write
        time.sleep(0.5)
    before = small.snapshot(one.campaign.folder)
    begin = cpu_seconds()
    shown = chemloop(tmp_path / "outputs", "campaign=one", "workflow=status")
    after = small.snapshot(one.campaign.folder)
    assert set(after) == set(before), "status only reads"
    assert cpu_seconds() - begin < 10, "this takes less than a second"
    line = next(line for line in shown.stdout.splitlines() if " screen " in line)
    assert line.split()[:6] == ["1", "screen", "3", "-", "2", "1"], shown.stdout + shown.stderr
    assert " 2 running (limit in " in line
    assert "failed: it was told to fail (log: " in shown.stdout and "items/0000/log.out" in shown.stdout
    cancelled = chemloop(tmp_path / "outputs", "campaign=one", "workflow=cancel")
    assert "campaign one: 2 jobs cancelled" in cancelled.stdout, cancelled.stderr
    assert drivers[0].wait() != 0
    assert "cancelled by workflow=cancel; run the same command again" in drivers[0].communicate()[1].decode()
    assert not [job for job in alive(one) if job.state != "COMPLETING"]
    (other.campaign.folder / "go").touch()
    assert drivers[1].wait() != 0, "one of its three items failed, which is above the limit"
    assert all(other.item(number).is_done for number in (1, 2)), other.item(1).log_tail()
    assert probes(one) and probes(other)
    assert not [job for job in my_jobs() if job.is_alive and job.name in probes(one) | probes(other)]
