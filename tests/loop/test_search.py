"""`experiment=rediscovery` with the real components, as a person runs it, and with more iterations afterwards."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from chemloop.physics.structures import read_structures
from chemloop.runtime.ledger import Ledger
from tests.loop.small import ROOT, environment, snapshot

NAME = "li-p-s_mix_sevennet_ase_s0"
OVERRIDES = (
    "experiment=rediscovery",
    "generator=mix",
    "generator.members.evolution.max_atoms=6",
    "generator.members.substitution.max_atoms=6",
    "generator.members.random.max_atoms=6",
    "loop.seed.max_atoms=3",
    "loop.generate.n=9",
    "loop.hull_quotas=[1,1,1,1]",
    "loop.relax.max_steps=30",
    "loop.relax.coarse.max_steps=20",
)


def run(outputs: Path, *overrides: str) -> str:
    command = [sys.executable, "-m", "chemloop", *OVERRIDES, f"outputs={outputs}", *overrides]
    ended = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> tuple[Path, str, str]:
    """Folder of a search of one iteration that went on to two without its database; what was printed each time."""
    outputs = tmp_path_factory.mktemp("searched")
    first = run(outputs, "loop.max_iterations=1")
    folder = outputs / NAME
    before = snapshot(folder / "iter-001/2-relax")
    (folder / "structures.db").unlink()
    second = run(outputs, "loop.max_iterations=2")
    assert snapshot(folder / "iter-001/2-relax") == before
    return folder, first, second


def test_every_member_proposes_and_the_finds_are_counted(searched):
    folder, first, second = searched
    generated = [a for n in (1, 2) for a in read_structures(folder / f"iter-00{n}/1-generate/output.extxyz")]
    assert Counter(a.info["generator"] for a in generated).keys() == {"random", "evolution", "substitution"}
    assert "iteration 1 | 9 generated" in first and "iteration 2 |" not in first
    for line in ("iteration 1 | 9 generated", "iteration 2 | 9 generated", "below  100 meV/atom"):
        assert line in second


def test_the_database_has_all_iterations_again(searched):
    folder, _, second = searched
    rows = Ledger(folder / "structures.db").rows()
    born = Counter(row["born_iteration"] for row in rows)
    generated = [len(read_structures(folder / f"iter-00{n}/1-generate/output.extxyz")) for n in (1, 2)]
    assert born == {1: generated[0], 2: generated[1]}
    assert f"structures.db ({len(rows)} structures)" in second
