"""`workflow=learning_curve` with a real force field, as a person runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from chemloop.physics.structures import read_structures, set_results, write_structures
from tests.loop.small import ROOT, environment, snapshot

NAME = "pool_learning_curve"
SIZES = ("6", "12")
N_STRUCTURES, N_FRAMES = 6, 5


def command(pool: Path, outputs: Path, *overrides: str) -> list[str]:
    workers = ("compute.cpu.workers=1", "compute.gpu.workers=1")
    options = ("workflow=learning_curve", f"workflow.pool={pool}", "training.epochs=2", f"outputs={outputs}")
    # Hydra takes flags before overrides only
    flags = [override for override in overrides if override.startswith("-")]
    return [sys.executable, "-m", "chemloop", *flags, *options, *workers, *[o for o in overrides if o not in flags]]


def run(pool: Path, outputs: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(pool, outputs, *overrides), cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    """Perturbed elements and binaries; the labels are those of CHGNet, weaker, so that there is something to learn."""
    from chemloop.model.chgnet import CHGNetForceField
    from chemloop.physics.calculator import evaluate

    rng = np.random.default_rng(0)
    references = [
        atoms for atoms in read_structures(ROOT / "chemloop/data/li-p-s/reference.extxyz") if 2 <= len(atoms) <= 8
    ]
    frames = []
    for number, reference in enumerate(references[:N_STRUCTURES]):
        for k in range(N_FRAMES):
            atoms = type(reference)(reference.numbers, reference.positions, cell=reference.cell, pbc=True)
            atoms.info = {"id": f"r{number}/f{k:02d}", "parent": f"r{number}"}
            atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
            frames.append(atoms)
    base = CHGNetForceField("0.3.0").load("cpu", "float32")
    for atoms, result in zip(frames, evaluate(frames, base), strict=True):
        set_results(atoms, "label", 0.8 * result.energy, 0.8 * result.forces, 0.8 * result.stress, "teacher-weak-1a2b")
    path = tmp_path_factory.mktemp("pool") / "pool.extxyz"
    write_structures(path, frames)
    return path


@pytest.fixture(scope="module")
def sweep(pool, tmp_path_factory) -> tuple[Path, list[str]]:
    """Folder of a sweep that two jobs computed at the same time, and what each printed."""
    outputs = tmp_path_factory.mktemp("outputs")
    jobs = [
        subprocess.Popen(
            command(pool, outputs, f"n_train={size}"),
            cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for size in SIZES
    ]  # fmt: skip
    ended = [(*job.communicate(), job.returncode) for job in jobs]
    for _, errors, code in ended:
        assert code == 0, errors[-3000:]
    return outputs / NAME, [printed for printed, _, _ in ended]


def test_concurrent_jobs_make_one_sweep(sweep):
    folder, printed = sweep
    points = sorted(path.parent.name for path in (folder / "points").glob("*/DONE"))
    assert points == sorted(f"chgnet_{s}_n{n}_s0" for s in ("entropy", "random") for n in SIZES)
    lines = (folder / "learning_curve.csv").read_text().splitlines()
    assert len(lines) == 5, "the job that ends last sees all points"
    assert (folder / "bases/chgnet/.starts").stat().st_size == 1, "the base is evaluated once"
    assert (folder / "pool/environments/.starts").stat().st_size == 1
    for text in printed:
        assert "may train" in text and "learning_curve.html" in text and "| chgnet" in text
    for name in ("learning_curve.html", "learning_curve.png", "learning_curve.svg", "learning_curve.md", "parity.png"):
        assert (folder / name).stat().st_size > 0


def test_points_have_metrics_curves_and_a_run_each(sweep):
    folder, _ = sweep
    split = json.loads((folder / "pool/split.json").read_text())
    assert not {id.partition("/")[0] for id in split["train"]} & {id.partition("/")[0] for id in split["test"]}
    for point in (folder / "points").iterdir():
        metrics = json.loads((point / "metrics.json").read_text())
        for key in ("test_energy_rmse_mev_per_atom", "test_force_rmse_mev_per_ang", "test_stress_rmse_mev_per_ang3"):
            assert metrics[key] > 0 and metrics[f"base_{key}"] > 0
        assert metrics["n_train"] == json.loads((point / "metrics.jsonl").read_text().splitlines()[-1])["iteration"]
        assert metrics["n_epochs"] == 2 and metrics["wall_s"] > 0 and metrics["frames_per_s"] > 0
        assert metrics["n_test"] == len(split["test"])
        assert len(list((point / "wandb").glob("offline-run-*"))) == 1
        assert not list(point.glob("states-*"))
        assert metrics["test_energy_rmse_mev_per_atom"] < metrics["base_test_energy_rmse_mev_per_atom"], point


def test_multirun_over_finished_points_changes_nothing(sweep, pool):
    folder, _ = sweep
    before = snapshot(folder)
    ended = run(pool, folder.parent, "-m", f"n_train={','.join(SIZES)}")
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.count("| chgnet") == 8
    assert snapshot(folder) == before


def test_what_a_kill_left_undone_is_all_that_is_repeated(sweep, pool, tmp_path):
    folder, _ = sweep
    copy = tmp_path / NAME
    subprocess.run(["cp", "-a", str(folder), str(copy)], check=True)
    lost = copy / "points/chgnet_entropy_n12_s0"
    before = snapshot(copy)
    for name in ("DONE", "finetuned.pt", "metrics.json", "parity.npz"):
        (lost / name).unlink()
    overrides = (f"n_train=[{','.join(SIZES)}]",)
    job = subprocess.Popen(
        command(pool, tmp_path, *overrides), cwd=ROOT, env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    log = lost / "log.out"
    end = time.monotonic() + 600
    while log.stat().st_size == before[str(log.relative_to(copy))][1] and not (lost / "DONE").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    ended = run(pool, tmp_path, *overrides)
    assert ended.returncode == 0, ended.stderr[-3000:]
    after = snapshot(copy)
    repeated = {name for name in after if "points/" in name and after[name] != before.get(name)}
    assert {Path(name).parts[1] for name in repeated} == {lost.name}
    first, second = (json.loads((root / "points" / lost.name / "metrics.json").read_text()) for root in (folder, copy))
    for key in ("test_energy_rmse_mev_per_atom", "test_force_rmse_mev_per_ang"):
        assert second[key] == pytest.approx(first[key], rel=1e-4)


def test_other_training_settings_need_another_sweep(sweep, pool):
    folder, _ = sweep
    ended = run(pool, folder.parent, "n_train=6", "training.epochs=3")
    assert ended.returncode != 0 and "Traceback" not in ended.stderr
    assert "training.epochs: 2 -> 3" in ended.stderr and "campaign=NAME" in ended.stderr


def test_bad_input_is_one_sentence(pool, tmp_path):
    for overrides, message in (
        (("n_train=4000",), "n_train = 4000: 25 frames of the pool"),
        (("model=ase", "model.calculator._target_=ase.calculators.emt.EMT"), "model=ase cannot be fine-tuned"),
        (("workflow.selections=[best]",), "'best' is unknown; allowed are entropy, random"),
    ):
        ended = run(pool, tmp_path, *overrides)
        assert ended.returncode != 0 and "Traceback" not in ended.stderr
        assert message in ended.stderr, ended.stderr
