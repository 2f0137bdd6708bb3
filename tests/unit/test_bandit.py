"""Shares by what was found: right on average, never too small, and after the best."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from chemloop.generator.bandit import Evidence, apportion, evidence_of, shares_of, with_floor, with_lost_places


def test_shares_are_rounded_by_chance_and_right_on_average():
    shares = {"a": 0.6, "b": 0.33, "c": 0.07}
    drawn = [apportion(8, shares, seed) for seed in range(4000)]
    assert all(sum(counts.values()) == 8 for counts in drawn)
    for name, share in shares.items():
        counts = np.array([counts[name] for counts in drawn])
        assert set(counts.tolist()) <= {int(8 * share), int(8 * share) + 1}
        assert counts.mean() == pytest.approx(8 * share, abs=0.03)
    assert apportion(8, shares, 7) == apportion(8, shares, 7)
    assert apportion(0, shares, 7) == {"a": 0, "b": 0, "c": 0}
    assert apportion(5, {"a": 0.2}, 7) == {"a": 5}


def test_shares_are_the_chances_to_be_the_best():
    evidence = {"a": Evidence(6, 1000.0), "b": Evidence(3, 1000.0)}
    shares = shares_of(evidence, seed=0)
    # Two Gamma variables with shapes 7 and 4 and the same scale: P(a > b) = P(Beta(7, 4) > 1/2).
    assert shares["a"] == pytest.approx(beta(7, 4).sf(0.5), abs=0.01)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares_of(evidence, 0) == shares
    # ten times slower clocks change nothing, nor does what a third one without a find took, but for its own share
    slower = shares_of({name: Evidence(n, 10 * s) for name, (n, s) in evidence.items()}, 0)
    assert slower["a"] == pytest.approx(shares["a"], abs=0.01)
    assert shares_of({**evidence, "c": Evidence(0, 5000.0)}, 0)["c"] < 0.01
    assert shares_of({**evidence, "new": Evidence(0, 0.0)}, 0)["new"] > 0.2
    assert shares_of({"a": Evidence(0, 10.0), "b": Evidence(0, 0.0)}, 0) is None


def test_earlier_iterations_count_less():
    rows = [
        {"iteration": 1, "generator": "a", "n_sun": 4, "cpu_seconds": 100.0},
        {"iteration": 3, "generator": "a", "n_sun": 1, "cpu_seconds": 10.0},
        {"iteration": 2, "generator": "b", "n_sun": 2, "cpu_seconds": 10.0},
        {"iteration": 3, "generator": "stranger", "n_sun": 9, "cpu_seconds": 1.0},
    ]
    evidence = evidence_of(rows, ["a", "b", "c"], memory=0.5)
    assert evidence == {"a": (2.0, 35.0), "b": (1.0, 5.0), "c": (0.0, 0.0)}
    assert evidence_of([], ["a"], 0.5) == {"a": (0.0, 0.0)}


def test_who_has_nothing_new_to_propose_is_not_taken_for_untried():
    rows = [
        {"iteration": 1, "generator": "a", "n_proposed": 10, "n_valid": 10, "n_sun": 5, "cpu_seconds": 80.0},
        {"iteration": 1, "generator": "b", "n_proposed": 10, "n_valid": 0, "n_sun": 0, "cpu_seconds": 1.0},
        {"iteration": 2, "generator": "b", "n_proposed": 10, "n_valid": 0, "n_sun": 0, "cpu_seconds": 1.0},
    ]
    paid = with_lost_places(rows)
    assert [row["cpu_seconds"] for row in paid] == [80.0, 82.0, 11.0] and rows[1]["cpu_seconds"] == 1.0
    as_if_untried = shares_of(evidence_of(rows[:2], ["a", "b"], 0.7), 0)
    assert shares_of(evidence_of(paid[:2], ["a", "b"], 0.7), 0)["b"] < 0.1 < 0.3 < as_if_untried["b"]


def test_no_share_is_below_the_floor():
    assert with_floor({"a": 3.0, "b": 1.0, "c": 0.0}, 0.1) == pytest.approx({"a": 0.625, "b": 0.275, "c": 0.1})
    assert with_floor({"a": 1.0, "b": 0.0}, 0.5) == pytest.approx({"a": 0.5, "b": 0.5})


def campaign(rates: list[dict[str, float]], seconds: dict[str, float], seed: int) -> list[dict[str, float]]:
    """Shares in iterations of 200 structures; rates: finds per second, seconds: of one structure."""
    rng = np.random.default_rng(seed)
    achieved, history = [], []
    shares = with_floor(dict.fromkeys(seconds, 1.0), 0.05)
    for iteration, rate in enumerate(rates, 1):
        for name, n in apportion(200, shares, seed).items():
            spent = n * seconds[name]
            found = int(rng.poisson(rate[name] * spent))
            achieved.append({"iteration": iteration, "generator": name, "n_sun": found, "cpu_seconds": spent})
        weights = shares_of(evidence_of(achieved, list(seconds), memory=0.7), seed)
        shares = with_floor(weights or dict.fromkeys(seconds, 1.0), 0.05)
        history.append(shares)
    return history


def test_the_best_is_found_and_followed_when_it_changes():
    seconds = {"quick": 1.0, "slow": 20.0, "poor": 2.0}
    early = {"quick": 0.06, "slow": 0.01, "poor": 0.003}
    late = {"quick": 0.003, "slow": 0.01, "poor": 0.003}
    histories = [campaign([early] * 5 + [late] * 8, seconds, seed) for seed in range(10)]
    assert np.mean([history[4]["quick"] for history in histories]) > 0.8
    latest = {name: np.mean([history[-1][name] for history in histories]) for name in seconds}
    assert latest["slow"] > 0.4 and latest["slow"] > 1.5 * max(latest["quick"], latest["poor"])
    assert min(share for history in histories for shares in history for share in shares.values()) >= 0.05 - 1e-9
