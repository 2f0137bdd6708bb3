"""Killed at 30 random moments, a campaign ends like one that nobody disturbed."""

import json
import random
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from chemloop.config import load
from chemloop.physics.structures import read_structures
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.ledger import Ledger
from chemloop.stages.finetune import Finetune
from chemloop.stages.stage import fitted_model
from tests.loop import small

N_KILLS = 30


def kill_somebody(driver: subprocess.Popen, victims: str) -> None:
    """kill -9 of the driver, of all its workers, or of everybody."""
    workers = psutil.Process(driver.pid).children(recursive=True)
    for process in workers if victims != "driver" else []:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    if victims != "workers":
        driver.kill()
        driver.wait()


def finished_items(campaign: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in campaign.glob("iter-*/*/items/*/DONE")}


def disturb(outputs: Path, seed: int) -> int:
    """Run the campaign to its end with N_KILLS kills on the way; returns how many struck."""
    rng = random.Random(seed)
    n_kills, finished = 0, {}
    while True:
        driver = subprocess.Popen(
            small.command(outputs, f"compute.max_attempts={N_KILLS + 1}"),
            env=small.environment(),
            cwd=small.ROOT,
            stdout=subprocess.DEVNULL,
            stderr=open(outputs / "stderr", "ab"),  # noqa: SIM115 - the process outlives this scope
        )
        while n_kills < N_KILLS and driver.poll() is None:
            try:
                driver.wait(rng.uniform(0.5, 12))
            except subprocess.TimeoutExpired:
                victims = rng.choice(["everybody", "everybody", "driver", "workers"])
                kill_somebody(driver, victims)
                n_kills += 1
        assert driver.wait() in (0, -9), (outputs / "stderr").read_text()[-3000:]
        now = finished_items(outputs / small.NAME)
        lost = [path for path, written in finished.items() if now.get(path) != written]
        assert not lost, f"finished items were lost or computed again: {lost}"
        finished = now
        if driver.returncode == 0:
            return n_kills


def predictions(campaign: Path, iteration: int, structures) -> list[float]:
    settings = load(Campaign(campaign).config())
    folder = Finetune(Campaign(campaign), settings, iteration).folder
    potential = fitted_model(settings.model, folder)[0].load("cpu", "float32")
    energies = potential.forward(potential.collate(structures)).energies
    return (energies / energies.new_tensor([len(atoms) for atoms in structures])).tolist()


def test_thirty_kills_change_nothing(tmp_path, undisturbed):
    calm, _ = undisturbed
    begin = time.monotonic()
    n_kills = disturb(tmp_path, seed=7)
    print(f"{n_kills} kills, {time.monotonic() - begin:.0f} s")
    stormy = tmp_path / small.NAME
    expected, found = Ledger(calm / "structures.db").rows(), Ledger(stormy / "structures.db").rows()
    assert len(found) == len(expected) > 10
    for row, other in zip(expected, found, strict=True):
        assert row.keys() == other.keys()
        for key, value in row.items():
            tolerance = 1e-5 * (row["n_atoms"] if key.endswith("_energy") else 1)
            expected_value = pytest.approx(value, abs=tolerance) if isinstance(value, float) else value
            assert other[key] == expected_value, (row["structure_id"], key)
    lines = [[json.loads(line) for line in (path / "metrics.jsonl").open()] for path in (calm, stormy)]
    assert len(lines[0]) == len(lines[1])
    for point, other in zip(*lines, strict=True):
        assert other == pytest.approx(point, rel=1e-4, abs=1e-4)
    log = (tmp_path / "label-cache" / "computed.log").read_text().split()
    assert len(log) == len(set(log))
    references = read_structures(calm / "iter-000/0-seed/relaxed.extxyz")
    for iteration in (0, 1):
        assert predictions(stormy, iteration, references) == pytest.approx(
            predictions(calm, iteration, references), abs=1e-5
        )
    (run,) = (stormy / "wandb").glob("offline-run-*")
    assert (run / "files").is_dir()
