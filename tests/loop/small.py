"""A small campaign with the real components, run as a person runs it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAME = "small"
OVERRIDES = (
    f"campaign={NAME}",
    "loop.max_iterations=1",
    "loop.seed.max_atoms=3",
    "loop.generate.n=6",
    "loop.generate.per_item=3",
    "loop.relax.max_steps=40",
    "loop.relax.fmax=0.3",
    "loop.hull_edges=[0.1,5.0]",
    "loop.hull_quotas=[2,2]",
    "loop.label.n_perturbations=1",
    "loop.label.n_static=2",
    "labeler.max_steps=30",
    "labeler.fmax=0.3",
    "loop.curate.n_train=40",
    "loop.curate.n_environments=15",
    "training.epochs=8",
)


def command(outputs: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "chemloop", *OVERRIDES, f"outputs={outputs}", *overrides]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}


def run(outputs: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(outputs, *overrides), env=environment(), cwd=ROOT, capture_output=True, text=True, check=False
    )


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Modification time and size of every file."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
