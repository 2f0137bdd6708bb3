"""Workers, their deaths, and what a driver makes of them."""

import subprocess
import sys
import textwrap
import time

import pytest

from chemloop.config import load
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.errors import ChemLoopError, StageFailed
from chemloop.stages.stage import Stage
from tests.toy_stage import ToyStage


@pytest.fixture
def stage(tmp_path, compose_config):
    def build(*what: str) -> ToyStage:
        config = compose_config("loop.max_failed_fraction=0.5")
        campaign = Campaign(tmp_path / "outputs" / "toy")
        campaign.begin(config)
        toy = ToyStage(campaign, load(config), 1)
        toy.what = what
        return toy

    return build


def attempts(stage: Stage, number: int) -> int:
    return len((stage.item(number).folder / "attempts").read_text().split())


def test_failures_are_told_apart(stage):
    toy = stage("ok", "fail", "retry once", "die once", "ok")
    assert toy.ensure()["screen/n_items"] == 4
    assert [attempts(toy, number) for number in (0, 1)] == [1, 1]
    assert [attempts(toy, number) for number in (2, 3)] == [2, 2]
    assert toy.failures() == [{"item": "0001", "reason": "it was told to fail"}]
    assert "attempt 1 of fail" in toy.item(1).log_tail()


def test_finished_stage_is_not_touched_and_damage_is_repaired(stage):
    toy = stage("ok", "ok")
    metrics = toy.ensure()
    assert toy.ensure() == metrics
    assert [attempts(toy, number) for number in (0, 1)] == [1, 1]
    (toy.folder / "metrics.json").write_text("{")
    (toy.item(1).folder / "result").write_text("tampered")
    assert not toy.is_done
    assert toy.ensure() == metrics
    assert [attempts(toy, number) for number in (0, 1)] == [1, 2]


def test_item_whose_workers_always_die_is_given_up(stage):
    toy = stage("ok", "die", "ok")
    toy.ensure()
    assert "ended 3 times without a result" in toy.failures()[0]["reason"]


def test_too_many_failures_stop_the_campaign(stage):
    with pytest.raises(StageFailed, match="2 of 3 items.*loop.max_failed_fraction allows 0.5.*told to fail.*FAILED"):
        stage("fail", "fail", "ok").ensure()


def test_fatal_error_of_an_item_reaches_the_user(stage):
    with pytest.raises(ChemLoopError, match="this can never work.*log.out"):
        stage("fatal", "ok").ensure()


def test_workers_that_outlive_their_driver_are_waited_for(stage):
    toy = stage("sleep", "sleep")
    program = textwrap.dedent(f"""
        import os, signal, threading
        from pathlib import Path
        from chemloop.config import load
        from chemloop.runtime.campaign import Campaign
        from tests.toy_stage import ToyStage
        campaign = Campaign(Path({str(toy.campaign.folder)!r}))
        toy = ToyStage(campaign, load(campaign.config()), 1)
        toy.what = ("sleep", "sleep")
        threading.Thread(target=toy.ensure, daemon=True).start()
        while not all((toy.item(k).folder / "attempts").exists() for k in (0, 1)):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    subprocess.run([sys.executable, "-c", program], check=False)
    time.sleep(0.1)
    assert toy.ensure()["screen/n_items"] == 2
    assert [attempts(toy, number) for number in (0, 1)] == [1, 1]
