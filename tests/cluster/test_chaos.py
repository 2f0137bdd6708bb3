"""Twenty disturbances of a cluster: the same command, run again where it was killed, ends as if undisturbed."""

import os
import subprocess
import sys
import tempfile
import textwrap

import pytest

from chemloop.runtime.campaign import Campaign
from chemloop.runtime.item import Item
from tests.cluster.comparison import TOLERANCE, differences
from tests.cluster.conftest import CHEAP, ON_SLURM, ROOT, devcluster
from tests.cluster.storm import EVENTS, small_campaign, storm

N_ITEMS = 24
PORT = str(int(os.environ.get("CHEMLOOP_DEVCLUSTER_PORT", "26800")) + 1000)


@pytest.fixture
def fragile(monkeypatch):
    """A cluster that nobody else uses, because these tests break it."""
    folder = tempfile.mkdtemp(prefix="chaos")
    monkeypatch.setenv("CHEMLOOP_DEVCLUSTER", folder)
    monkeypatch.setenv("CHEMLOOP_DEVCLUSTER_PORT", PORT)
    devcluster("up")
    monkeypatch.setenv("SLURM_CONF", f"{folder}/etc/slurm.conf")
    yield
    devcluster("down")


def start_toys(campaign: Campaign) -> subprocess.Popen:
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
    with open(campaign.folder / "stderr", "ab") as errors:
        return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=errors)


def test_twenty_disturbances_change_nothing(fragile, tmp_path, compose_slurm):
    campaign = Campaign(tmp_path / "chaos")
    campaign.begin(compose_slurm(f"compute.max_attempts={len(EVENTS) + 1}", "compute.cpu.items_per_job=2"))
    storm(campaign, lambda: start_toys(campaign), (2, 5), limit_s=1200)
    for iteration in (0, 1):
        folder = campaign.iteration(iteration) / "3-screen"
        assert (folder / "DONE").exists()
        for number in range(N_ITEMS):
            item = Item(folder / "items" / f"{number:04d}")
            assert item.is_intact and item.failure is None
            # what an undisturbed run writes depends on nothing but the seed of the item
            assert (item.folder / "result").read_text() == str(item.task["seed"])
    assert os.path.getsize(campaign.folder / "stderr") > 0


def test_twenty_disturbances_of_a_closed_loop_change_nothing(fragile, tmp_path, local):
    campaign, start = small_campaign(tmp_path, *CHEAP, *ON_SLURM)
    storm(campaign, start, (2, 5), limit_s=1200)
    assert differences(local, campaign.folder, TOLERANCE) == []
