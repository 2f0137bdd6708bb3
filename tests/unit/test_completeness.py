"""What an iteration says of completeness: estimates from structures, the stop rule, the closing sentence, JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from chemloop.physics.completeness import Completeness, Seen, is_complete, predict, predictions, seen, sentence
from chemloop.physics.unseen import Estimate

ENVIRONMENTS = Seen(
    448, 512, Estimate(0.93, 0.015, 0.9, 0.96), Estimate(600, 20, 560, 660), 224, Estimate(12, 3.5, 5, 19)
)
MOTIFS = replace(ENVIRONMENTS, coverage=Estimate(0.996, 0.003, 0.951, 1.0), expected_new=Estimate(2.6, 1.5, -0.3, 6.2))


def iteration(number: int, entropy: float = 4.0, growth: float = 1e-5, **kinds: Seen | None) -> Completeness:
    return Completeness(number, entropy, 0.01, growth, **kinds)


def test_json_keeps_everything():
    for whole in (
        Completeness(2, 4.5, 0.01, 1e-4, 0.3, 0.02, ENVIRONMENTS, MOTIFS, 1e-5),
        Completeness(0, 3.5, None, 1e-3, n_environments=1000),
        Completeness(1, 3.5, 0.1, 1e-3, motifs=replace(MOTIFS, predicted=Estimate(5, 1, 3, 7))),
    ):
        assert Completeness.from_json(json.loads(json.dumps(whole.to_json()))) == whole


def test_the_closing_sentence():
    assert sentence([iteration(2, environments=ENVIRONMENTS, motifs=MOTIFS)]) == (
        "Of the environments of a further new structure (converged, unique and novel), 93 % (95 % interval 90 to 96 %)"
        " are expected to be known, of its anion motifs 99.6 % (95 % interval 95 to 100 %); another 224 such structures"
        " would bring about 12 (5 to 19) new kinds of environment and 3 (0 to 6) new motifs."
    )


def test_the_sentence_says_how_many_earlier_predictions_held():
    """Predicted 10 to 20 new kinds; found were 15, 25, and, with nothing predicted, 3."""
    predicted = Estimate(15, 2.5, 10, 20)
    rows = [(100, None), (115, predicted), (140, predicted), (143, None)]
    history = [iteration(0)]
    history += [
        iteration(k, environments=replace(ENVIRONMENTS, n_seen=n_seen, predicted=expected), motifs=MOTIFS)
        for k, (n_seen, expected) in enumerate(rows, start=1)
    ]
    assert predictions(history, "environments") == [(2, predicted, 15), (3, predicted, 25)]
    assert predictions(history, "motifs") == []
    assert sentence(history).endswith(
        " new motifs. Earlier predictions whose interval held what was found: 1 of 2 for environments."
    )
    assert "Earlier predictions" not in sentence(history[:2])


def test_a_prediction_needs_something_to_go_by():
    counts, hosts = np.array([1, 1, 2, 3]), list("abcd")
    found = predict(counts, 4, hosts, 4)
    assert found == seen(counts, 4, np.zeros(4, bool), hosts, 4).expected_new
    assert predict(counts, 4, hosts, 0) is None and predict(counts, 4, hosts, 100) is None
    assert predict(np.zeros(2, int), 0, [None, None], 5) is None


def test_the_sentence_where_something_is_missing():
    assert "motif" not in sentence([iteration(2, environments=ENVIRONMENTS)])
    assert sentence([iteration(2, motifs=MOTIFS)]).startswith(
        "Of the anion motifs of a further new structure (converged, unique and novel), 99.6 %"
    )
    assert "No structure has been generated so far that converged" in sentence([iteration(0)])
    nearly = replace(ENVIRONMENTS, coverage=Estimate(0.9999, 0, 0.99, 1.0))
    assert "99.9 % (95 % interval 99.0 to 100 %)" in sentence([iteration(2, environments=nearly)])


@pytest.mark.parametrize(
    "entropies, growth, expected, words",
    [
        ([3.0, 4.0], 1e-5, False, "2 iterations so far, the stop rule needs 3"),
        ([3.0, 4.0, 4.5], 1e-5, False, "grew by 1.5 nats over 2 iterations (not below"),
        ([3.0, 4.0, 4.01, 4.02], 1e-3, False, "0.001 nats per frame (not below the limit of 0.0001)"),
        ([3.0, 4.0, 4.01, 4.02], 1e-5, True, "complete: the entropy at fixed sample size grew by 0.02"),
        ([4.0, 4.0, 3.9], -1e-5, True, "grew by -0.1 nats"),
        ([4.0, 4.0, float("nan")], 1e-5, False, "nan nats"),
    ],
)
def test_stop_rule(entropies, growth, expected, words):
    history = [iteration(number, entropy, growth) for number, entropy in enumerate(entropies)]
    verdict = is_complete(history, {"entropy": 0.05, "growth": 1e-4}, patience=2)
    assert verdict.complete is expected and bool(verdict) is expected
    assert words in verdict.reason
    assert verdict.reason.startswith("complete" if expected else "not complete")


@pytest.mark.parametrize("last, is_at_cap", [(4.6, True), (4.5, False)])
def test_an_entropy_that_cannot_grow_is_said_to_be_at_its_cap(last, is_at_cap):
    history = [replace(iteration(number, last), n_environments=100) for number in range(3)]
    verdict = is_complete(history, {"entropy": 0.02}, patience=2)
    words = "but 4.600 is within the tolerance of its cap, log 100 = 4.605, where it cannot grow whatever is missing"
    assert (words in verdict.reason) is is_at_cap
    unknown = is_complete([iteration(number, last) for number in range(3)], {"entropy": 0.02}, patience=2)
    assert "cap" not in unknown.reason, "an older version did not write the sample size down"


@pytest.mark.parametrize(
    "limits, expected, words",
    [
        ({"environment_coverage": 0.9}, True, "coverage of environments is 0.930, 95 % interval from 0.900 (not below"),
        ({"environment_coverage": 0.95}, False, "from 0.900 (below the limit of 0.95)"),
        ({"motif_coverage": 0.95}, True, "the coverage of motifs is 0.996, 95 % interval from 0.951 (not below"),
        ({"growth": 1e-4, "motif_coverage": 0.96}, False, "(below the limit of 0.0001) and the coverage of motifs"),
    ],
)
def test_coverage_is_judged_by_the_lower_end(limits, expected, words):
    history = [iteration(number, environments=ENVIRONMENTS, motifs=MOTIFS) for number in range(3)]
    verdict = is_complete(history, limits, patience=2)
    assert verdict.complete is expected and words in verdict.reason
    assert "entropy" not in verdict.reason


def test_no_structures_no_coverage():
    verdict = is_complete([iteration(number) for number in range(3)], {"motif_coverage": 0.5}, 2)
    assert not verdict and "coverage of motifs is not known, because no structure with any" in verdict.reason


@pytest.mark.parametrize("limits, patience", [({}, 2), ({"entropy": 0.1}, 0), ({"entropy": 0.1, "novelty": 0.1}, 2)])
def test_stop_rule_refuses_nonsense(limits, patience):
    with pytest.raises(
        ValueError, match="patience must be above 0, criteria are any of entropy, growth, environment_c"
    ):
        is_complete([iteration(0)], limits, patience)


def test_references_are_no_samples_but_flagged():
    counts, is_in_references = np.array([0, 3, 1, 1, 2]), np.array([True, True, False, False, False])
    found = seen(counts, 4, is_in_references, [None, "a", "b", "b", "a"], further=2)
    assert (found.n_samples, found.n_seen, found.n_known, found.further) == (4, 4, 1, 2)
    alone = seen(counts[1:], 4, is_in_references[1:], ["a", "b", "b", "a"], further=2)
    assert found == alone, "a kind that only a reference holds has no effect"


def test_nothing_generated():
    assert seen(np.zeros(3, int), 0, np.ones(3, bool), [None] * 3, 1) is None
    assert seen(np.zeros(0, int), 5, np.zeros(0, bool), [], 1) is None


def test_one_structure_tells_nothing_of_the_rest():
    found = seen(np.ones(7, int), 1, np.zeros(7, bool), ["a"] * 7, further=1)
    assert found.coverage.value == 0 and found.coverage.high > 0.9
    assert found.expected_new.value == 7 and found.expected_new.low == 0
    assert np.isfinite(found.estimated).all()


def test_identical_structures_leave_nothing_to_find():
    found = seen(np.full(3, 50), 50, np.zeros(3, bool), ["a"] * 3, further=50)
    assert found.coverage.value == 1 and found.coverage.low > 0.9
    assert (found.estimated.value, round(found.expected_new.value)) == (3, 0)


def test_kinds_that_come_in_bunches_widen_the_intervals():
    counts, none = np.array([1, 1, 1, 1, 1, 1, 4, 9]), np.zeros(8, bool)
    apart = seen(counts, 12, none, list("abcdefgh"), 12)
    together = seen(counts, 12, none, list("aaaaaabc"), 12)
    assert together.coverage.value == apart.coverage.value
    assert together.coverage.standard_error == pytest.approx(6**0.5 * apart.coverage.standard_error)
    assert together.expected_new.high > apart.expected_new.high and together.estimated.high > apart.estimated.high
