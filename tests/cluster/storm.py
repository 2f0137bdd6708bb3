"""Disturbances of a cluster while a campaign runs on it, by hand on a cluster that nobody else uses:

eval "$(launchers/devcluster/devcluster.sh env)"
python -m tests.cluster.storm FOLDER compute=devcluster ...     # the small campaign of tests/loop, with its real models
"""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from chemloop.compute.slurm_overview import queued
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.queue import QueueUnavailable
from tests.cluster.conftest import ROOT, devcluster
from tests.loop import small

EVENTS = ("scancel", "kill -9", "power cut", "driver", "slurmctld") * 4
NODES = ("cpu1", "cpu2", "gpu1", "gpu2")


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
        try:
            rng.choice(workers).kill()
        except psutil.NoSuchProcess:
            return False
    return True


def finished_items(campaign: Campaign) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in campaign.folder.glob("iter-*/*/items/*/DONE")}


def storm(
    campaign: Campaign, start: Callable[[], subprocess.Popen], pauses: tuple[float, float], limit_s: float
) -> None:
    """Run a driver, again and again where it is killed, until it ends by itself; all EVENTS strike on the way.

    start: the command, its stderr in the campaign's folder
    pauses: s between two events, at least and at most
    """
    rng = random.Random(11)
    events = list(EVENTS)
    rng.shuffle(events)
    struck: list[str] = []
    finished: dict[Path, int] = {}
    begin = time.monotonic()
    driver = start()
    while True:
        try:
            driver.wait(rng.uniform(*pauses))
        except subprocess.TimeoutExpired:
            assert time.monotonic() - begin < limit_s, struck
        if driver.returncode == 0:
            break
        if driver.poll() is not None:
            assert driver.returncode == -9, (campaign.folder / "stderr").read_text()[-3000:]
            driver = start()
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
    assert len(struck) == len(EVENTS), f"it ended before all of them: {events} are left"


def small_campaign(outputs: Path, *overrides: str) -> tuple[Campaign, Callable[[], subprocess.Popen]]:
    """The small campaign of tests/loop and its command; no item of it is given up."""
    campaign = Campaign(outputs / small.NAME)
    campaign.folder.mkdir(parents=True)
    command = small.command(outputs, f"compute.max_attempts={len(EVENTS) + 1}", *overrides)

    def start() -> subprocess.Popen:
        with open(campaign.folder / "stderr", "ab") as errors:
            return subprocess.Popen(
                command, cwd=ROOT, env=small.environment(), stdout=subprocess.DEVNULL, stderr=errors
            )

    return campaign, start


def main() -> None:
    outputs, *overrides = sys.argv[1:]
    campaign, start = small_campaign(Path(outputs).resolve(), *overrides)
    storm(campaign, start, (4, 12), limit_s=3600)


if __name__ == "__main__":
    main()
