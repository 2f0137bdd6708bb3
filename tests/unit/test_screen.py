"""The screen stage: what is stable, unique and novel, and what later iterations need not find out again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from chemloop.config import load
from chemloop.physics.matching import Matcher
from chemloop.physics.structures import set_results, write_structures
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.disk import is_intact, write_json
from chemloop.stages import screen
from chemloop.stages.crystal_keys import screened_before
from chemloop.stages.screen import Screen, n_processes
from chemloop.stages.stage import stage_folder
from tests.unit.explored import run

CUTOFFS = {"P-S": 2.35, "S-S": 2.20, "P-P": 2.50}


def relaxed(id: str, structure: str, energy_per_atom: float, converged: bool = True, element: str = "Li") -> Atoms:
    """A crystal of one element as a force field leaves it."""
    atoms = bulk(element, structure, a=3.9)
    zeros = np.zeros((len(atoms), 3)), np.zeros((3, 3))
    set_results(atoms, "mlff", energy_per_atom * len(atoms), *zeros, "toy")
    role = "candidate" if "-g" in id else "reference"
    atoms.info.update(id=id, role=role, converged=converged)
    return atoms


@pytest.fixture
def campaign(tmp_path, compose_config) -> Campaign:
    begun = Campaign(tmp_path / "c")
    begun.begin(compose_config())
    return begun


def screened(campaign: Campaign, iteration: int, candidates: Sequence[Atoms]) -> dict[str, Atoms]:
    """Bring an iteration to its screen stage's end; its structures by id."""
    elements = [relaxed(f"i00-r{k:04d}", "bcc", -1.0, element=element) for k, element in enumerate(("Li", "P", "S"))]
    for name in ("generate", "relax"):
        stage_folder(campaign, iteration, name).mkdir(parents=True)
    write_json(
        stage_folder(campaign, iteration, "generate") / "metrics.json", {"generate/n_generated": len(candidates)}
    )
    write_structures(stage_folder(campaign, iteration, "relax") / "output.extxyz", [*elements, *candidates])
    stage = Screen(campaign, load(campaign.config()), iteration)
    run(stage)
    return {atoms.info["id"]: atoms for atoms in stage.output()}


def flags(atoms: Atoms) -> tuple[bool, bool, bool]:
    return tuple(bool(atoms.info[key]) for key in ("is_stable", "is_unique", "is_novel"))  # type: ignore[return-value]


def test_flags_of_one_iteration(campaign):
    found = screened(
        campaign,
        1,
        [
            relaxed("i01-g000-0000", "fcc", -0.94, converged=False),
            relaxed("i01-g000-0001", "fcc", -0.94),
            relaxed("i01-g000-0002", "fcc", -0.95),
            relaxed("i01-g000-0003", "bcc", -1.0),
            relaxed("i01-g000-0004", "diamond", -0.5),
        ],
    )
    assert {id[-1]: flags(atoms) for id, atoms in found.items()} == {
        "0": (False, False, True),
        "1": (True, False, True),
        "2": (True, True, True),
        "3": (True, True, False),
        "4": (False, True, True),
    }


def test_what_did_not_converge_is_not_known_later(campaign):
    screened(campaign, 1, [relaxed("i01-g000-0000", "fcc", -0.95, False), relaxed("i01-g000-0001", "diamond", -0.5)])
    found = screened(campaign, 2, [relaxed("i02-g000-0000", "fcc", -0.95), relaxed("i02-g000-0001", "diamond", -0.95)])
    assert flags(found["i02-g000-0000"]) == (True, True, True)
    assert flags(found["i02-g000-0001"]) == (True, True, False)


def test_keys_are_found_once(campaign, monkeypatch, capsys):
    screened(campaign, 1, [relaxed("i01-g000-0000", "fcc", -0.95), relaxed("i01-g000-0001", "sc", -0.5, False)])
    matched = Matcher.keys
    seen: list[str] = []

    def keys(matcher, structures, n_jobs=1):
        seen.extend(atoms.info["id"] for atoms in structures)
        return matched(matcher, structures, n_jobs)

    monkeypatch.setattr(Matcher, "keys", keys)
    second = screened(campaign, 2, [relaxed("i02-g000-0000", "fcc", -0.95)])
    assert sorted(seen) == ["i00-r0000", "i00-r0001", "i00-r0002", "i02-g000-0000"]
    assert not second["i02-g000-0000"].info["is_novel"] and "anew" not in capsys.readouterr().out
    assert stage_folder(campaign, 2, "screen") / "keys.jsonl" in Screen(campaign, None, 2).final_files()


@pytest.mark.parametrize("damage", ["missing", "cut short", "of other structures", "of other cutoffs"])
def test_keys_that_are_not_valid_are_found_anew(campaign, capsys, damage):
    screened(campaign, 1, [relaxed("i01-g000-0000", "fcc", -0.95), relaxed("i01-g000-0001", "sc", -0.5, False)])
    stage = Screen(campaign, load(campaign.config()), 2)
    (before,) = screened_before(stage)
    assert capsys.readouterr().out == ""
    folder = stage_folder(campaign, 1, "screen")
    expected = relaxed("i01-g000-0000", "fcc", -0.95)
    if damage == "missing":
        (folder / "keys.jsonl").unlink()
    elif damage == "cut short":
        (folder / "keys.jsonl").write_text((folder / "keys.jsonl").read_text()[:-9])
    elif damage == "of other structures":
        expected = relaxed("i01-g000-0000", "diamond", -0.95)
        write_structures(folder / "output.extxyz", [expected])
    else:
        stage.settings.loop.screen.matcher.bond_cutoffs = CUTOFFS
    (key,) = screened_before(stage)
    assert "Finding crystal keys anew, because " in capsys.readouterr().out
    (wanted,) = stage.settings.loop.screen.matcher.keys([expected])
    assert key.bucket == wanted.bucket
    np.testing.assert_allclose(key.cell, wanted.cell)
    assert (len(key.numbers) == len(before.numbers)) is (damage != "of other structures")


def test_matching_uses_the_cores_of_the_item(campaign, compose_config, monkeypatch):
    settings = load(compose_config("compute.cpu.workers=3"))
    stage = Screen(campaign, settings, 1)
    assert [n_processes(stage, n) for n in (0, 600, 1200, 9000)] == [1, 1, 2, 3]
    times = [f"compute.{name}.time_min=30" for name in ("cpu", "gpu", "dft")]
    on_cluster = Screen(campaign, load(compose_config("compute=slurm", *times, "compute.cpu.cpus=8")), 1)
    assert n_processes(on_cluster, 9000) == 8
    asked: list[int] = []
    flag = screen.flag
    monkeypatch.setattr(screen, "n_processes", lambda stage, n: 2)
    monkeypatch.setattr(screen, "flag", lambda *arguments: asked.append(arguments[-1]) or flag(*arguments))
    found = screened(campaign, 1, [relaxed("i01-g000-0000", "fcc", -0.95), relaxed("i01-g000-0001", "fcc", -0.94)])
    assert asked == [2]
    assert [flags(atoms) for atoms in found.values()] == [(True, True, True), (True, False, True)]


def test_damaged_keys_make_the_stage_unfinished(campaign):
    screened(campaign, 1, [relaxed("i01-g000-0000", "fcc", -0.95)])
    stage = Screen(campaign, load(campaign.config()), 1)
    stage.ensure()
    assert is_intact(stage.folder / "DONE")
    (stage.folder / "keys.jsonl").write_text("{}")
    assert not stage.is_done
    stage.ensure()
    assert stage.is_done and len(screened_before(Screen(campaign, stage.settings, 2))) == 1
