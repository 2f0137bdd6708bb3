"""Cost said before it is spent, and MP's corrections, which are named in the energy frame."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from chemloop.labeler.teacher import TeacherLabeler
from chemloop.physics.corrections import corrected_mp2020
from chemloop.physics.hull import energies_above_hull
from chemloop.physics.structures import set_results
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.errors import EnergyFrameError
from chemloop.runtime.label_cache import LabelCache
from chemloop.stages.cost import estimate, sentence
from chemloop.stages.label import Label
from chemloop.stages.labelling import LabelSettings, Protocol
from chemloop.stages.stage import Stage
from tests.unit.test_labels import SpringLabeler, crystal


def test_nothing_finished_no_estimate():
    assert estimate([], [4, 8], {"relax": 3}) is None
    assert "no finished calculation" in sentence("label", 1, 2, 3, 5, 0, None)


def test_estimate_finds_the_power_law_and_keeps_kinds_apart():
    sizes = [2, 4, 8, 12, 16]
    timings = [("relax", n, 10.0 * n**1.5) for n in sizes] + [("static", n, 1.0 * n**1.5) for n in sizes]
    hours = estimate(timings, [10, 20], {"relax": 3, "static": 5})
    assert hours == pytest.approx((3 * 10 + 5) * (10**1.5 + 20**1.5) / 3600, rel=1e-6)


def test_estimate_reproduces_the_sum_of_noisy_costs():
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 20, size=200)
    timings = [("relax", int(n), float(n**2 * np.exp(rng.normal(scale=0.8)))) for n in sizes]
    hours = estimate(timings, list(sizes), {"relax": 1})
    assert hours == pytest.approx(sum(s for _, _, s in timings) / 3600, rel=1e-6)


def test_sentence_has_the_counts():
    text = sentence("label", 2, 10, 3, 5, 12, 4.321)
    assert text == (
        "label 2: 10 structures, 30 relaxations and up to 50 single points; the cache has 12 of the relaxations;"
        " about 4.3 core hours by this campaign's finished calculations"
    )


def test_protocol_knows_what_the_cache_saves_and_what_was_spent(tmp_path):
    protocol = Protocol(SpringLabeler(), LabelSettings(), LabelCache(tmp_path))
    assert protocol.n_cached(crystal(), 1, True) == 0
    result = protocol.label(crystal(), 1, True)
    assert protocol.n_cached(crystal(), 1, True) == 4 and protocol.n_cached(crystal(), 2, False) == 0
    assert [kind for kind, *_ in result.timings] == ["relax"] * 4 + ["static"] * 5
    assert {n for _, n, _ in result.timings} == {4}
    assert protocol.label(crystal(), 1, True).timings == []


def test_core_seconds_count_all_cores(tmp_path, monkeypatch):
    monkeypatch.setattr("chemloop.stages.labelling.time", SimpleNamespace(monotonic=itertools.count().__next__))
    result = Protocol(SpringLabeler(), LabelSettings(n_perturbations=1, n_static=0), LabelCache(tmp_path)).label(
        crystal(), 1, False
    )
    assert result.timings == [("relax", 4, 1.0 * SpringLabeler.n_cores)] == [("relax", 4, 2.0)]


@pytest.mark.parametrize(("labeler", "said"), [(SpringLabeler(), "the forecast\n"), (TeacherLabeler(), "")])
def test_only_labels_that_cost_something_are_forecast(tmp_path, monkeypatch, capsys, labeler, said):
    monkeypatch.setattr(Stage, "ensure", lambda stage: {})
    monkeypatch.setattr(Label, "forecast", lambda stage: "the forecast")
    Label(Campaign(tmp_path), SimpleNamespace(labeler=labeler), 1).ensure()  # type: ignore[arg-type]
    assert capsys.readouterr().out == said


def labelled(atoms: Atoms, energy: float, frame: str = "vasp-mprelaxset-12345678") -> Atoms:
    return set_results(atoms, "label", energy, np.zeros((len(atoms), 3)), np.zeros((3, 3)), frame)


def test_mp2020_corrects_sulfides_and_says_so():
    sulfide = labelled(bulk("LiS", "zincblende", 4.5), -8.0)
    lithium, sulfur = labelled(bulk("Li"), -1.9), labelled(bulk("S", "fcc", 4.0), -4.0)
    corrected = corrected_mp2020([sulfide, lithium, sulfur])
    # MP2020: -0.503 eV per S of a sulfide, nothing for an element
    assert corrected[0].info["label_energy"] == pytest.approx(-8.503, abs=1e-3)
    assert [atoms.info["label_energy"] for atoms in corrected[1:]] == [-1.9, -4.0]
    assert {atoms.info["energy_frame"] for atoms in corrected} == {"vasp-mprelaxset-12345678+mp2020"}
    assert sulfide.info["label_energy"] == -8.0
    with pytest.raises(EnergyFrameError, match="energies of 2 levels of theory met"):
        energies_above_hull([sulfide], corrected, "label")


def test_mp2020_refuses_other_levels_of_theory():
    with pytest.raises(EnergyFrameError, match="mp2020 corrections are for VASP labels.*not for gpaw-pbe-1"):
        corrected_mp2020([labelled(bulk("Li"), -1.9, "gpaw-pbe-1")])
    once = corrected_mp2020([labelled(bulk("Li"), -1.9)])
    with pytest.raises(EnergyFrameError, match="corrected already"):
        corrected_mp2020(once)
