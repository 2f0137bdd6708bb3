"""`workflow=search`: what its generator learns from, what it counts, and that it needs no labels."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from chemloop.config import load
from chemloop.physics.structures import set_results, write_structures
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.disk import write_json
from chemloop.stages.known import known_folder
from chemloop.stages.stage import stage_folder
from chemloop.workflow.search import (
    LearnFromSearch,
    counts_below,
    iteration_line,
    new_structures,
    search,
    show_summary,
    stages_of,
)


def relaxed(atoms: Atoms, per_atom: float, **info) -> Atoms:
    n = len(atoms)
    set_results(atoms, "mlff", per_atom * n, np.zeros((n, 3)), np.zeros((3, 3)), "f")
    atoms.info |= {"converged": True, **info}
    return atoms


def find(id: str, per_atom: float, **flags: bool) -> Atoms:
    given = {"is_stable": True, "is_unique": True, "is_novel": True, **flags}
    atoms = relaxed(bulk("LiS", "rocksalt", a=5.0), per_atom, role="candidate", id=id, spacegroup="Fm-3m", **given)
    atoms.info |= {"e_above_hull": 9.0, "generator": "evolution", "operator": "heredity"}
    return atoms


@pytest.fixture
def campaign(tmp_path, compose_config) -> Campaign:
    """Two iterations of a search, as their screen stages leave them; the hull of the references is at -2 eV/atom."""
    campaign = Campaign(tmp_path / "c")
    campaign.begin(compose_config("workflow=search", "loop.max_iterations=2"))
    known = [relaxed(bulk("Li", "bcc", a=3.4), -1.0, role="reference", id="i00-r0000")]
    known.append(relaxed(bulk("S", "fcc", a=5.0), -3.0, role="reference", id="i00-r0001"))
    known.append(relaxed(bulk("LiS", "cesiumchloride", a=3.0), -9.0, role="reference", id="i00-r0002", converged=False))
    found = {
        1: [find("i01-g000-0000", -2.1), find("i01-g000-0001", -1.98), find("i01-g000-0002", -2.2, is_novel=False)],
        2: [find("i02-g000-0000", -1.5), find("i02-g000-0001", -2.3, is_unique=False)],
    }
    found[2].append(find("i02-g000-0002", -2.4, converged=False))
    for folder, structures in {
        known_folder(campaign, 0): known,
        **{stage_folder(campaign, number, "screen"): structures for number, structures in found.items()},
    }.items():
        folder.mkdir(parents=True)
        write_structures(folder / "output.extxyz", structures)
    return campaign


def test_only_converged_unique_and_novel_structures_count(campaign):
    found = new_structures(campaign, 2)
    assert [atoms.info["id"] for atoms in found] == ["i01-g000-0000", "i01-g000-0001", "i02-g000-0000"]
    assert [atoms.info["iteration"] for atoms in found] == [1, 1, 2]
    assert [round(atoms.info["e_above_hull"], 6) for atoms in found] == [-0.1, 0.02, 0.5]
    assert counts_below(found, (0.0, 0.03, 1.0)) == [1, 2, 3]
    assert len(new_structures(campaign, 1)) == 2


def test_the_generator_learns_from_references_and_candidates(campaign):
    pool = LearnFromSearch(campaign, load(campaign.config()), 2).pool()
    assert [(atoms.info["id"], atoms.info["role"]) for atoms in pool[:2]] == [
        ("i00-r0000", "label"),
        ("i00-r0001", "label"),
    ]
    assert [atoms.info["e_above_hull"] for atoms in pool[:2]] == [0.0, 0.0]
    assert {atoms.info["role"] for atoms in pool[2:]} == {"candidate"} and len(pool) == 7
    # all above one hull, that of all of them: none ties with another below it
    energies = {atoms.info["id"]: round(atoms.info["e_above_hull"], 6) for atoms in pool}
    assert energies["i01-g000-0000"] == 0.2 and energies["i01-g000-0002"] == 0.1 and energies["i02-g000-0001"] == 0.0


def test_a_search_that_goes_on_is_not_finished_and_has_its_database(campaign, monkeypatch):
    settings = load(campaign.config())
    write_json(campaign.folder / "DONE", {"outputs": {}, "iterations": 1})
    found = []

    def stages(campaign, settings, iteration):
        found.append(((campaign.folder / "DONE").exists(), rebuilt == [campaign]))
        raise KeyboardInterrupt

    rebuilt: list[Campaign] = []
    monkeypatch.setattr("chemloop.workflow.search.rebuild", lambda campaign, settings: rebuilt.append(campaign))
    monkeypatch.setattr("chemloop.workflow.search.stages_of", stages)
    with pytest.raises(KeyboardInterrupt):
        search(campaign, settings, campaign.config())
    assert found == [(False, True)]


def test_no_stage_of_a_search_labels_or_fine_tunes(campaign):
    settings = load(campaign.config())
    names = [[stage.folder.name for stage in stages_of(campaign, settings, number)] for number in (0, 1)]
    learns = ["9-learn"] if settings.generator.can_learn else []
    assert names == [["prepare", "known", *learns], ["1-generate", "2-relax", "3-screen", *learns]]


def test_what_is_printed(campaign, capsys):
    show_summary(campaign, load(campaign.config()), 1)
    printed = capsys.readouterr().out
    assert "below    0 meV/atom      1" in printed and "below   30 meV/atom      2" in printed
    assert "i01-g000-0000  LiS          Fm-3m           -100.0 evolution    heredity" in printed
    assert "i01-g000-0001" not in printed
    assert iteration_line(0, {"relax/n_known": 75.0}) == "iteration 0 | 75 known structures relaxed"


def test_the_experiment_is_a_valid_configuration(compose_config):
    for generator in ("random", "evolution", "mix"):
        settings = load(compose_config("experiment=rediscovery", f"generator={generator}"))
        assert settings.loop.relax.coarse.model.checkpoint == "0.3.0" and settings.model.checkpoint == "7net-0"
        assert settings.loop.relax.coarse.is_race and settings.loop.seed.max_atoms is None
