"""Structures that a label turned into something known, or into one another, are not counted as found."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from chemloop.config import load
from chemloop.physics.motifs import MotifCatalogue
from chemloop.physics.structures import read_structures, write_structures
from chemloop.report.best import best_rows
from chemloop.report.data import ReportData
from chemloop.report.page import found_panels
from chemloop.runtime.campaign import Campaign
from chemloop.stages.curate import Curate
from chemloop.stages.relax import is_sun
from chemloop.stages.stage import stage_folder
from chemloop.workflow.report_energies import add_hulls
from chemloop.workflow.report_rounds import Round, labelled
from chemloop.workflow.report_structures import structure_cards
from tests.unit.explored import FOUND, begin, crystals, screened
from tests.unit.explored import labelled as by_label

TWIN_OF_LI2S, LOWEST, ITS_TWIN, UNCONVERGED = (f"i01-g000-{number:04d}" for number in range(4))


@pytest.fixture
def campaign(tmp_path, compose_config) -> Campaign:
    """Screened as four new crystals, whose labels end at Li2S and three times at one other; with the hull by labels."""
    begun = begin(tmp_path / "c", compose_config())
    screened(begun, 1, crystals([*FOUND, "mp-736"]))
    ends = [
        finished(TWIN_OF_LI2S, "mp-1153", -3.00001),
        finished(LOWEST, FOUND[0], -3.05),
        finished(ITS_TWIN, FOUND[0], -3.04),
        finished(UNCONVERGED, FOUND[0], -3.06),
    ]
    ends[-1].info["converged"] = False
    write_structures(stage_folder(begun, 1, "label") / "relaxed.extxyz", ends)
    curate = Curate(begun, load(begun.config()), 1)
    curate.folder.mkdir()
    write_structures(curate.folder / "relaxed.extxyz", curate._label_hull())
    return begun


def finished(id: str, name: str, energy_per_atom: float) -> Atoms:
    """A crystal of the references, displaced a little, as the labeler relaxed it."""
    (atoms,) = crystals([name])
    atoms.positions += np.random.default_rng(len(atoms)).normal(scale=0.01, size=(len(atoms), 3))
    return by_label(atoms, id, energy_per_atom * len(atoms))


def rounds_of(campaign: Campaign) -> list[Round]:
    settings = load(campaign.config())
    return [Round(number, {"curate": Curate(campaign, settings, number)}) for number in (0, 1)]


def test_the_label_hull_says_what_is_new(campaign):
    structures = Curate(campaign, load(campaign.config()), 1).folder / "relaxed.extxyz"
    flags = {
        atoms.info["id"]: tuple(bool(atoms.info[flag]) for flag in ("is_stable", "is_unique", "is_novel"))
        for atoms in read_structures(structures)
        if "-g" in atoms.info["id"]
    }
    assert flags == {
        TWIN_OF_LI2S: (True, True, False),
        LOWEST: (True, True, True),
        ITS_TWIN: (True, False, True),
        UNCONVERGED: (False, False, True),
    }


@pytest.mark.parametrize("is_judged", [True, False])
def test_the_report_shows_no_twin(campaign, is_judged):
    """Neither of a campaign that an older version curated, whose labelled structures have no flags."""
    path = Curate(campaign, load(campaign.config()), 1).folder / "relaxed.extxyz"
    if not is_judged:
        structures = read_structures(path)
        for atoms in structures:
            for flag in ("is_stable", "is_unique", "is_novel"):
                atoms.info.pop(flag, None)
        write_structures(path, structures)
    structures = labelled(rounds_of(campaign))
    data = ReportData("c", ["Li", "P", "S"], "formula", "", {}, hull_energies="label")
    add_hulls(data, rounds_of(campaign), structures)
    assert [find.atoms.info["id"] for find in data.finds] == [LOWEST]
    assert [row["id"] for row in best_rows(data)] == [LOWEST]
    caption = {panel.name: panel.caption for panel in found_panels(data)}["hull"]
    assert "and 1 S.U.N. structure (diamonds)" in caption
    assert caption.endswith(f"New on the hull: Li₇P₃S₁₁ ({LOWEST}).")


def test_the_table_of_structures_says_the_same(campaign):
    rounds = rounds_of(campaign)
    screen = stage_folder(campaign, 1, "screen") / "output.extxyz"
    rounds[1].__dict__["screened"] = read_structures(screen)
    assert all(is_sun(atoms) for atoms in rounds[1].screened)
    cards = structure_cards(rounds, labelled(rounds), MotifCatalogue(), load(campaign.config()).system)
    assert {id: card.is_sun for id, card in cards.items()} == {
        TWIN_OF_LI2S: False,
        LOWEST: True,
        ITS_TWIN: False,
        UNCONVERGED: True,
    }
