"""What the queue costs: items that only wait, as jobs of a real SLURM, against the time that they wait.

python -m benchmarks.orchestration --items 1000 --seconds 2 --jobs 8        # ChemLoop: items in chunks
python -m benchmarks.orchestration --plain 100 --seconds 2 --jobs 8         # submitit's map_array: an item, a job
python -m benchmarks.orchestration --wait 10000                             # a driver that waits, for two minutes
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import submitit

from chemloop.compute.slurm import SlurmCompute, SlurmResource
from chemloop.compute.slurm_overview import cancel_all
from chemloop.runtime.item import Item
from chemloop.runtime.submit import run_to_end

WATCHED_S = 120


class Pause:
    """Items that do nothing for a while."""

    def run(self, item: Item) -> Sequence[str]:
        time.sleep(item.task["seconds"])
        return []


def plan(folder: Path, n_items: int, seconds: float) -> list[Item]:
    items = [Item(folder / "pause" / "items" / f"{number:05d}") for number in range(n_items)]
    for item in items:
        item.folder.mkdir(parents=True)
        item.plan({"stage": "benchmarks.orchestration.Pause", "seconds": seconds})
    (folder / "campaign.yaml").write_text("{}")
    return items


def on_slurm(n_jobs: int) -> SlurmCompute:
    resource = SlurmResource("cpu", 120, mem_gb=0.5, max_jobs=n_jobs)
    return SlurmCompute(cpu=resource, gpu=resource, dft=resource)


def ours(folder: Path, n_items: int, seconds: float, n_jobs: int) -> float:
    """Wall time, s, from the first submission to the last marker; planning and the probe are not in it."""
    items, compute = plan(folder, n_items, seconds), on_slurm(n_jobs)
    with compute.pool(folder / "pause" / "jobs", "cpu", "probe", None):
        pass
    begin = time.monotonic()
    run_to_end(items, folder / "pause", "cpu", compute, "pause")
    assert all(item.is_done for item in items)
    return time.monotonic() - begin


def plain(folder: Path, n_items: int, seconds: float, n_jobs: int) -> float:
    """The same by submitit alone: one task of an array per item."""
    executor = submitit.SlurmExecutor(folder)
    executor.update_parameters(partition="cpu", time=120, mem="500MB", array_parallelism=n_jobs)
    begin = time.monotonic()
    for job in executor.map_array(time.sleep, [seconds] * n_items):
        job.result()
    return time.monotonic() - begin


def waiting(folder: Path, n_items: int) -> None:
    """Memory and CPU of a driver with that many items planned and eight jobs at work."""
    items = plan(folder, n_items, 3600)
    del items
    program = (
        "import sys; from pathlib import Path; import chemloop.config; from chemloop.runtime.item import Item;"
        "from chemloop.runtime.submit import run_to_end; from benchmarks.orchestration import on_slurm;"
        "folder = Path(sys.argv[1]);"
        "items = [Item(path) for path in sorted((folder / 'pause/items').iterdir())];"
        "run_to_end(items, folder / 'pause', 'cpu', on_slurm(8), 'pause')"
    )
    driver = psutil.Popen([sys.executable, "-c", program, str(folder)])
    try:
        while len(list(folder.glob("pause/items/*/.starts"))) < 8:
            time.sleep(1)
        used, begin = spent(driver), time.monotonic()
        time.sleep(WATCHED_S)
        share = (spent(driver) - used) / (time.monotonic() - begin)
        memory = driver.memory_info().rss
        status = ("workflow=status", f"outputs={folder.parent}", f"campaign={folder.name}")
        subprocess.run([sys.executable, "-m", "chemloop", *status], check=True)
    finally:
        driver.kill()
        cancel_all(folder)
    print(f"a driver with {n_items} items planned: {memory / 2**20:.0f} MiB, {100 * share:.2f} % of a core")


def spent(process: psutil.Process) -> float:
    """CPU time, s, with that of the commands that it ran."""
    times = process.cpu_times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=0)
    parser.add_argument("--plain", type=int, default=0)
    parser.add_argument("--wait", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--jobs", type=int, default=8)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="orchestration", ignore_cleanup_errors=True) as name:
        folder = Path(name) / "campaign"
        folder.mkdir()
        for label, measure, n_items in (("chemloop", ours, arguments.items), ("submitit", plain, arguments.plain)):
            if n_items:
                ideal = n_items * arguments.seconds / arguments.jobs
                wall = measure(folder, n_items, arguments.seconds, arguments.jobs)
                print(
                    f"{label}: {n_items} items of {arguments.seconds:g} s, {arguments.jobs} at once: {wall:.1f} s,"
                    f" ideal {ideal:.1f} s, {100 * (wall / ideal - 1):.1f} % above; load {os.getloadavg()[0]:.1f}"
                )
        if arguments.wait:
            waiting(folder, arguments.wait)


if __name__ == "__main__":
    main()
