"""`workflow=evaluate_generator` with a real force field, as a person runs it."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from chemloop.physics.structures import read_structures
from tests.loop.small import ROOT, environment, snapshot

NAME = "li-p-s_random_chgnet_evaluation_s0"
OVERRIDES = (
    "workflow=evaluate_generator",
    "workflow.n=3",
    "workflow.max_reference_atoms=2",
    "loop.relax.max_steps=60",
    "loop.relax.fmax=0.5",
)


def run(outputs: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chemloop", *OVERRIDES, f"outputs={outputs}", *overrides]
    return subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> tuple[Path, str]:
    """Folder of an evaluation, and what its command printed."""
    outputs = tmp_path_factory.mktemp("outputs")
    ended = run(outputs, "workflow.n_atoms=[4,6]")
    assert ended.returncode == 0, ended.stderr[-3000:]
    return outputs / NAME, ended.stdout


def test_each_size_is_generated_relaxed_and_judged(evaluated):
    folder, printed = evaluated
    for n_atoms in (4, 6):
        judged = read_structures(folder / f"atoms-{n_atoms:03d}/screen/output.extxyz")
        assert judged and {len(atoms) for atoms in judged} == {n_atoms}
        assert all({"e_above_hull", "rmsd", "is_stable", "is_unique", "is_novel"} <= set(a.info) for a in judged)
        assert {atoms.info["energy_frame"] for atoms in judged} == {"chgnet-0.3.0"}
        assert f"{n_atoms} atoms: 3 of 3 valid" in printed
    lines = list(csv.DictReader((folder / "evaluation.csv").read_text().splitlines()))
    assert [(line["generator"], line["atoms"], line["n_asked"]) for line in lines] == [
        ("random", "4", "3"), ("random", "6", "3"),
    ]  # fmt: skip
    assert all(float(line["generate_cpu_s"]) > 0 < float(line["relax_cpu_s"]) for line in lines)
    for name in ("evaluation.html", "evaluation.png", "evaluation.svg", "evaluation.md"):
        assert (folder / name).stat().st_size > 0
    assert "| random " in printed and "evaluation.html" in printed


def test_the_same_command_computes_nothing_and_a_further_size_only_itself(evaluated, tmp_path):
    folder, _ = evaluated
    copy = tmp_path / NAME
    subprocess.run(["cp", "-a", str(folder), str(copy)], check=True)
    (copy / "atoms-006/screen/DONE").unlink()
    before = snapshot(copy)
    ended = run(tmp_path, "workflow.n_atoms=[4,5,6]")
    assert ended.returncode == 0, ended.stderr[-3000:]
    after = snapshot(copy)
    changed = {Path(name).parts[0] for name in after if after[name] != before.get(name) and "/" in name}
    assert changed == {"atoms-005", "atoms-006"}
    computed = {name for name in after if "/items/" in name and after[name] != before.get(name)}
    assert {Path(name).parts[0] for name in computed} == {"atoms-005"}
    assert [row["atoms"] for row in json.loads((copy / "evaluation.json").read_text())["rows"]] == ["4", "5", "6"]
    assert "| random " in ended.stdout


def test_bad_input_is_one_sentence(evaluated):
    folder, _ = evaluated
    for overrides, message in (
        (("workflow.n=4",), "workflow.n: 3 -> 4"),
        (("loop.relax.fmax=0.4",), "loop.relax.fmax: 0.5 -> 0.4"),
        (("workflow.compare=[nothing]",), "workflow.compare has nothing: no finished evaluation"),
    ):
        ended = run(folder.parent, *overrides)
        assert ended.returncode != 0 and "Traceback" not in ended.stderr
        assert message in ended.stderr, ended.stderr
