"""Items as jobs of a real SLURM: shared out, lost, found again."""

import signal
import subprocess
import time

import pytest

from chemloop.compute.slurm_round import rounds_in
from chemloop.config import load
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.errors import ChemLoopError
from chemloop.runtime.queue import cancel, my_jobs
from tests.toy_stage import ToyStage
from tests.unit.test_submit import attempts, start_driver, wait_until_begun


@pytest.fixture
def stage(tmp_path, compose_slurm):
    def build(*what: str, overrides: tuple[str, ...] = ()) -> ToyStage:
        config = compose_slurm("loop.max_failed_fraction=0.5", *overrides)
        campaign = Campaign(tmp_path / "outputs" / "toy's ü $(touch pwned) campaign")
        campaign.begin(config)
        toy = ToyStage(campaign, load(config), 1)
        toy.what = what
        return toy

    return build


def alive(toy: ToyStage):
    names = {round.name for round in rounds_in(toy.folder / "jobs")}
    return [job for job in my_jobs() if job.name in names and job.is_alive]


def test_failures_are_told_apart(stage):
    toy = stage("ok", "fail", "retry once", "die once", "ok")
    assert toy.ensure()["screen/n_items"] == 4
    assert [attempts(toy, number) for number in range(5)] == [1, 1, 2, 2, 1]
    assert toy.failures() == [{"item": "0001", "reason": "it was told to fail"}]
    assert not list(toy.campaign.folder.parent.rglob("pwned"))


def test_jobs_that_outlive_their_driver_are_waited_for(stage):
    toy = stage("sleep", "sleep")
    driver = start_driver(toy)
    wait_until_begun(toy, driver)
    driver.kill()
    driver.wait()
    assert toy.ensure()["screen/n_items"] == 2
    assert [attempts(toy, number) for number in (0, 1)] == [1, 1]
    assert len(rounds_in(toy.folder / "jobs")) == 1


def test_ctrl_c_ends_the_driver_and_leaves_the_jobs(stage, capfd):
    toy = stage("wait", "wait")
    driver = start_driver(toy)
    wait_until_begun(toy, driver)
    driver.send_signal(signal.SIGINT)
    errors = driver.communicate()[1].decode()
    assert "KeyboardInterrupt" in errors
    assert "2 jobs go on in the queue" in capfd.readouterr().out
    assert len(alive(toy)) == 2
    (toy.campaign.folder / "go").touch()
    assert toy.ensure()["screen/n_items"] == 2
    assert [attempts(toy, number) for number in (0, 1)] == [1, 1]


def test_fatal_error_cancels_the_other_jobs(stage):
    toy = stage("fatal", "sleep")
    with pytest.raises(ChemLoopError, match="this can never work.*log.out"):
        toy.ensure()
    assert {job.state for job in alive(toy)} <= {"COMPLETING"}


def test_cancelled_job_is_noticed_and_its_items_start_again(stage, capfd):
    toy = stage("linger once", "linger once")
    driver = start_driver(toy)
    wait_until_begun(toy, driver)
    begin = time.monotonic()
    cancel(alive(toy))
    assert driver.wait() == 0 and time.monotonic() - begin < 150
    printed = capfd.readouterr().out
    assert "ended as CANCELLED" in printed and "its unfinished items (1) start again" in printed
    assert [attempts(toy, number) for number in (0, 1)] == [2, 2]


def test_item_whose_jobs_always_die_is_given_up(stage):
    toy = stage("die", "ok", "ok")
    toy.ensure()
    reason = toy.failures()[0]["reason"]
    assert "ended 3 times without a result" in reason and "job" in reason and "of screen    1 ended as" in reason


def test_memory_that_was_asked_for_is_reported(stage):
    toy = stage("hog", "ok", overrides=("compute.cpu.mem_gb=0.4", "compute.max_attempts=1"))
    toy.ensure()
    reason = toy.failures()[0]["reason"]
    assert "out of memory: it had asked for 0.4 GB, ask for more with compute.cpu.mem_gb" in reason


def test_a_job_near_its_limit_goes_back_into_the_queue(stage):
    """The signal comes from here: limits are whole minutes."""
    toy = stage("advance", overrides=("compute.cpu.max_jobs=1",))
    driver = start_driver(toy)
    wait_until_begun(toy, driver)
    (job,) = alive(toy)
    time.sleep(1)
    subprocess.run(["scancel", "--signal=USR2", job.id], check=True)
    assert driver.wait() == 0, driver.communicate()
    assert attempts(toy, 0) == 2
    assert len(rounds_in(toy.folder / "jobs")) == 1, "the same job did all of it"
    assert toy.item(0).n_starts == 1, "a job that was put back is no failed attempt"
