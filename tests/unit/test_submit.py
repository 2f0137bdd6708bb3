"""Workers, their deaths, and what a driver makes of them."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import psutil
import pytest

from chemloop.compute import HandedBack, local
from chemloop.compute.local import LocalCompute, LocalResource
from chemloop.config import load
from chemloop.runtime import submit, worker
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.errors import ChemLoopError, StageFailed
from chemloop.runtime.item import Item
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


def start_driver(toy: ToyStage) -> subprocess.Popen:
    """A process of its own that brings the stage to its end."""
    program = textwrap.dedent(f"""
        import signal
        from pathlib import Path
        from chemloop.config import load
        from chemloop.runtime.campaign import Campaign
        from tests.toy_stage import ToyStage
        signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
        campaign = Campaign(Path({str(toy.campaign.folder)!r}))
        toy = ToyStage(campaign, load(campaign.config()), 1)
        toy.what = {toy.what!r}
        toy.ensure()
    """)
    return subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)


def wait_until_begun(toy: ToyStage, driver: subprocess.Popen) -> None:
    paths = [toy.item(number).folder / "attempts" for number in range(len(toy.what))]
    # a file is there for a moment before anything is in it
    while not all(path.exists() and path.stat().st_size for path in paths):
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.05)


def attempts(stage: Stage, number: int) -> int:
    return len((stage.item(number).folder / "attempts").read_text().split())


def test_failures_are_told_apart(stage):
    toy = stage("ok", "fail", "retry once", "die once", "ok")
    assert toy.ensure()["screen/n_items"] == 4
    assert [attempts(toy, number) for number in (0, 1)] == [1, 1]
    assert [attempts(toy, number) for number in (2, 3)] == [2, 2]
    assert toy.failures() == [{"item": "0001", "reason": "it was told to fail"}]
    assert "attempt 1 of fail" in toy.item(1).log_tail()


def test_last_lines_of_an_item(tmp_path):
    item = Item(tmp_path)
    assert item.log_tail() == "nothing"
    (tmp_path / "log.out").write_text("one\n\n  two \nthree\n\n")
    assert (item.log_tail(), item.log_tail(2)) == ("one | two | three", "two | three")


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


@pytest.mark.parametrize(("device", "workers", "n_processes"), [("cpu", 0, 3), ("cuda", 0, 1), ("cuda:0", 2, 2)])
def test_a_gpu_has_one_worker_unless_asked_for_more(stage, monkeypatch, device, workers, n_processes):
    monkeypatch.setattr(local, "n_cores", lambda: 3)
    toy = stage("ok", "ok", "ok")
    toy.settings = replace(
        toy.settings, compute=replace(toy.settings.compute, cpu=LocalResource(workers=workers, device=device))
    )
    toy.ensure()
    assert len([*(toy.folder / "jobs").glob("*.json")]) == n_processes


class InlinePool:
    """Runs items in the driver's own process, and ends a driver that would look for ever."""

    note = ""
    n_looks = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def handed_back(self, pending):
        self.n_looks += 1
        assert self.n_looks < 20, "the driver neither starts nor settles what is left"
        return [HandedBack(list(pending))]

    def start(self, items):
        worker.run_items([str(item.folder) for item in items])


@pytest.fixture
def inline(monkeypatch):
    monkeypatch.setattr(LocalCompute, "pool", lambda *_: InlinePool())
    monkeypatch.setattr(submit, "IDLENESS", 0)


def test_item_that_always_fails_retryably_is_given_up(stage, inline):
    toy = stage("ok", "retry", "ok")
    toy.ensure()
    assert attempts(toy, 1) == toy.settings.compute.max_attempts == 3
    assert toy.failures() == [{"item": "0001", "reason": "the node was lost; given up after 3 attempts"}]
    assert toy.item(1).failure == {"reason": toy.failures()[0]["reason"], "retryable": False, "is_fatal": False}


def test_finer_steps_count_as_getting_further(stage, inline):
    toy = stage("a finer step at a time")
    toy.ensure()
    assert attempts(toy, 0) == 6 > toy.settings.compute.max_attempts


def test_item_that_only_falls_back_and_catches_up_is_given_up(stage, inline):
    toy = stage("go back and forth", "ok")
    toy.ensure()
    assert attempts(toy, 0) == 2 + toy.settings.compute.max_attempts


def test_a_deadly_item_does_not_take_the_others_along(stage):
    toy = stage("die", "ok", "ok", "ok")
    toy.settings.compute.cpu.workers = 1
    toy.ensure()
    assert [failure["item"] for failure in toy.failures()] == ["0000"]
    assert [attempts(toy, number) for number in range(4)] == [3, 1, 1, 1]


def test_an_item_that_gets_further_is_not_given_up(stage):
    toy = stage("advance and die")
    toy.ensure()
    assert attempts(toy, 0) == 6 > toy.settings.compute.max_attempts


def test_workers_that_never_begin_are_given_up(stage, monkeypatch):
    toy = stage("ok")
    monkeypatch.setattr(worker, "run_items", os._exit)
    with pytest.raises(StageFailed, match="ended 3 times without a result"):
        toy.ensure()


def test_too_many_failures_stop_the_campaign(stage):
    with pytest.raises(StageFailed, match="2 of 3 items.*loop.max_failed_fraction allows 0.5.*told to fail.*FAILED"):
        stage("fail", "fail", "ok").ensure()


def test_fatal_error_of_an_item_reaches_the_user(stage):
    with pytest.raises(ChemLoopError, match="this can never work.*log.out"):
        stage("fatal", "ok").ensure()


def test_workers_that_outlive_their_driver_are_waited_for(stage):
    toy = stage("sleep", "sleep")
    driver = start_driver(toy)
    wait_until_begun(toy, driver)
    driver.kill()
    driver.wait()
    time.sleep(0.1)
    assert toy.ensure()["screen/n_items"] == 2
    assert [attempts(toy, number) for number in (0, 1)] == [1, 1]


def test_worker_whose_driver_was_killed_before_it_noted_it_is_waited_for(stage):
    toy = stage("wait", "wait")
    driver = start_driver(toy)
    wait_until_begun(toy, driver)
    driver.kill()
    driver.wait()
    for record in (toy.folder / "jobs").glob("*.json"):
        record.unlink()
    items = [toy.item(number) for number in (0, 1)]
    with toy.settings.compute.pool(toy.folder / "jobs", "cpu", "", None) as pool:
        assert pool.handed_back(items) == []
    (toy.campaign.folder / "go").touch()
    assert toy.ensure()["screen/n_items"] == 2
    assert [attempts(toy, number) for number in (0, 1)] == [1, 1]


def test_item_that_lost_a_process_of_its_own_is_tried_again(stage):
    toy = stage("lose a process once")
    assert toy.ensure()["screen/n_items"] == 1
    assert attempts(toy, 0) == 2
    assert "TerminatedWorkerError" in toy.item(0).log_tail(99)


def test_ctrl_c_stops_driver_and_workers(stage):
    toy = stage("sleep 600", "sleep 600")
    driver = start_driver(toy)
    wait_until_begun(toy, driver)
    workers = [psutil.Process(int((toy.item(k).folder / "attempts").read_text())) for k in (0, 1)]
    driver.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in driver.communicate()[1]
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive and not any(toy.item(k).is_finished for k in (0, 1))
