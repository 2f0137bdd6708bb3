"""Twenty disturbances of a cluster: the same command, run again where it was killed, ends as if undisturbed."""

import os
import random
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from chemloop.compute.slurm_overview import queued
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.item import Item
from chemloop.runtime.queue import QueueUnavailable
from tests.cluster.conftest import ROOT, devcluster

EVENTS = ("scancel", "kill -9", "power cut", "driver", "slurmctld") * 4
NODES = ("cpu1", "cpu2", "gpu1", "gpu2")
N_ITEMS = 24
PORT = "27800"


@pytest.fixture
def fragile(monkeypatch):
    """A cluster that nobody else uses, because this test breaks it."""
    folder = tempfile.mkdtemp(prefix="chaos")
    monkeypatch.setenv("CHEMLOOP_DEVCLUSTER", folder)
    monkeypatch.setenv("CHEMLOOP_DEVCLUSTER_PORT", PORT)
    devcluster("up")
    monkeypatch.setenv("SLURM_CONF", f"{folder}/etc/slurm.conf")
    yield
    devcluster("down")


def start_driver(campaign: Campaign) -> subprocess.Popen:
    """The command: a stage in each partition, one after the other."""
    program = textwrap.dedent(f"""
        from pathlib import Path
        from chemloop.config import load
        from chemloop.runtime.campaign import Campaign
        from tests.toy_stage import ToyStage
        campaign = Campaign(Path({str(campaign.folder)!r}))
        with campaign.drive():
            for iteration, resource in enumerate(("cpu", "gpu")):
                ToyStage.resource = resource
                stage = ToyStage(campaign, load(campaign.config()), iteration)
                stage.what = ["sleep 4"] * {N_ITEMS}
                stage.ensure()
    """)
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=open(campaign.folder / "stderr", "ab"))


def disturb(event: str, campaign: Campaign, driver: subprocess.Popen, rng: random.Random) -> bool:
    """Whether there was something to disturb."""
    if event == "driver":
        driver.kill()
        driver.wait()
    elif event == "slurmctld":
        devcluster("restart-controller")
    elif event == "power cut":
        node = rng.choice(NODES)
        devcluster("kill-node", node)
        time.sleep(1)
        devcluster("start-node", node)
    elif event == "scancel":
        jobs = [job for stage in queued(campaign.folder) for job in stage.jobs if job.state == "RUNNING"]
        if not jobs:
            return False
        job = rng.choice(jobs)
        subprocess.run(["scancel", f"{job.id}_{job.tasks[0]}" if job.tasks else job.id], check=True)
    else:
        workers = [
            process for process in psutil.process_iter(["cmdline"])
            if any(str(campaign.folder) in word for word in process.info["cmdline"] or [])
            and "submitit.core._submit" in process.info["cmdline"]
        ]  # fmt: skip
        if not workers:
            return False
        rng.choice(workers).kill()
    return True


def finished_items(campaign: Campaign) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in campaign.folder.glob("iter-*/*/items/*/DONE")}


def test_twenty_disturbances_change_nothing(fragile, tmp_path, compose_slurm):
    campaign = Campaign(tmp_path / "chaos")
    campaign.begin(compose_slurm("compute.max_attempts=21", "compute.cpu.items_per_job=2"))
    rng = random.Random(11)
    events = list(EVENTS)
    rng.shuffle(events)
    struck: list[str] = []
    finished: dict[Path, int] = {}
    begin = time.monotonic()
    driver = start_driver(campaign)
    while True:
        try:
            driver.wait(rng.uniform(2, 5))
        except subprocess.TimeoutExpired:
            assert time.monotonic() - begin < 600
        if driver.returncode == 0:
            break
        if driver.poll() is not None:
            assert driver.returncode == -9, (campaign.folder / "stderr").read_text()[-3000:]
            driver = start_driver(campaign)
        now = finished_items(campaign)
        assert all(now.get(path) == written for path, written in finished.items()), "something was computed twice"
        finished = now
        if events:
            try:
                is_struck = disturb(events[0], campaign, driver, rng)
            except (QueueUnavailable, subprocess.CalledProcessError):
                is_struck = False
            if is_struck:
                struck.append(events.pop(0))
            else:
                rng.shuffle(events)
    print(f"{len(struck)} disturbances in {time.monotonic() - begin:.0f} s: {', '.join(struck)}")
    assert len(struck) == len(EVENTS), "it ended before all of them: make its items longer"
    for iteration in (0, 1):
        folder = campaign.iteration(iteration) / "3-screen"
        assert (folder / "DONE").exists()
        for number in range(N_ITEMS):
            item = Item(folder / "items" / f"{number:04d}")
            assert item.is_intact and item.failure is None
            # what an undisturbed run writes depends on nothing but the seed of the item
            assert (item.folder / "result").read_text() == str(item.task["seed"])
    assert os.path.getsize(campaign.folder / "stderr") > 0
