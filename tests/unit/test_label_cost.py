"""Cost said before it is spent."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from chemloop.labeler.teacher import TeacherLabeler
from chemloop.runtime.campaign import Campaign
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
