"""What a sample has not seen: estimators against populations whose size and shares are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from chemloop.physics.unseen import (
    _estimated_shares,
    bunching,
    chao1,
    coverage,
    coverage_with_error,
    expected_new,
    expected_new_with_error,
)

N_SPECIES = 200


def shares(kind: str) -> np.ndarray:
    ranks = np.arange(1, N_SPECIES + 1)
    p = {"uniform": np.ones(N_SPECIES), "zipf": 1 / ranks, "geometric": 0.97**ranks}[kind]
    return p / p.sum()


@pytest.mark.parametrize("kind", ["uniform", "zipf", "geometric"])
def test_coverage_is_the_share_of_the_population_already_seen(kind):
    p, rng = shares(kind), np.random.default_rng(0)
    errors = [coverage(x) - p[x > 0].sum() for x in rng.multinomial(300, p, size=200)]
    assert abs(np.mean(errors)) < 0.01
    assert np.std(errors) < 0.05


@pytest.mark.parametrize("kind", ["uniform", "zipf", "geometric"])
def test_intervals_hold_what_they_promise(kind):
    p, rng = shares(kind), np.random.default_rng(1)
    known, found = 0, 0
    for repeat in range(60):
        x, further = rng.multinomial(300, p), rng.multinomial(300, p)
        a = coverage_with_error(x, repeats=60, seed=repeat)
        b = expected_new_with_error(x, 300, repeats=60, seed=repeat)
        known += a.low <= p[x > 0].sum() <= a.high
        found += b.low <= np.sum((x == 0) & (further > 0)) <= b.high
    assert known >= 52 and found >= 52


def test_coverage_worked_by_hand():
    assert coverage(np.array([1, 1, 2, 6])) == pytest.approx(1 - 2 / 10 * (9 * 2) / (9 * 2 + 2 * 1))
    assert coverage(np.array([1, 1, 3, 5])) == pytest.approx(1 - 2 / 10 * 9 / (9 + 2))
    # In 4 samples: 10 occurrences, but a factor 3 for the samples.
    assert coverage(np.array([1, 1, 2, 3, 3]), 4) == pytest.approx(1 - 2 / 10 * (3 * 2) / (3 * 2 + 2 * 1))


def test_new_species_worked_by_hand():
    x = np.array([1, 1, 2, 3])
    assert expected_new(x, 7) == pytest.approx(2 - 1 + 1)
    assert expected_new(x, 3) == pytest.approx(2 * (3 / 7) - (3 / 7) ** 2 + (3 / 7) ** 3)
    t = 12 / 7
    k, q = math.ceil(0.5 * math.log(7 * t**2 / (t - 1), 3)), 2 / (2 + t)
    kept = [sum(math.comb(k, j) * q**j * (1 - q) ** (k - j) for j in range(i, k + 1)) for i in (1, 2, 3)]
    assert expected_new(x, 12) == pytest.approx(2 * t * kept[0] - t**2 * kept[1] + t**3 * kept[2])


def test_population_of_the_bootstrap_is_whole():
    x = np.random.default_rng(6).multinomial(300, shares("zipf"))
    x = x[x > 0]
    population = _estimated_shares(x, 300, None)
    assert population.sum() == pytest.approx(1) and population.min() >= 0
    assert population[len(x) :].sum() == pytest.approx(1 - coverage(x))


def test_chao1_finds_the_size_of_an_even_population_and_bounds_an_uneven_one():
    rng = np.random.default_rng(2)
    even = [chao1(x) for x in rng.multinomial(300, shares("uniform"), size=200)]
    assert np.mean([e.value for e in even]) == pytest.approx(N_SPECIES, rel=0.02)
    assert np.mean([e.low <= N_SPECIES <= e.high for e in even]) > 0.85
    assert np.mean([e.standard_error for e in even]) == pytest.approx(np.std([e.value for e in even]), rel=0.2)
    for kind in ("zipf", "geometric"):
        samples = rng.multinomial(300, shares(kind), size=200)
        values = [chao1(x).value for x in samples]
        assert np.mean(np.sum(samples > 0, axis=1)) + 20 < np.mean(values) < N_SPECIES


def test_chao1_worked_by_hand():
    # 2 singletons, 2 doubletons: 6 + (n - 1)/n * 2 * 1 / (2 * 3)
    assert chao1(np.array([1, 1, 2, 2, 5, 9])).value == pytest.approx(6 + 19 / 20 / 3)


@pytest.mark.parametrize(
    "rare, expected",
    [
        ([1] * 10 + [2] * 3, (25.25, 9.559640, 16.652229, 61.719303)),
        ([1] * 3 + [5, 9], (9.0, 4.415880, 6.365802, 30.603451)),
    ],
)
def test_chao1_agrees_with_scikit_bio(rare, expected):
    """Values of its chao1 and chao1_ci, 0.7.4, which has no factor (n - 1)/n: one very common species makes that 1."""
    assert chao1(np.array([10**8, *rare])) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["uniform", "zipf", "geometric"])
@pytest.mark.parametrize("t", [0.5, 1, 2])
def test_new_species_in_further_samples(kind, t):
    p, rng = shares(kind), np.random.default_rng(3)
    m = int(300 * t)
    samples, further = rng.multinomial(300, p, size=400), rng.multinomial(m, p, size=400)
    predicted = np.mean([expected_new(x, m) for x in samples])
    found = np.mean(np.sum((samples == 0) & (further > 0), axis=1))
    assert predicted == pytest.approx(found, rel=0.15)


def test_far_extrapolation_is_smoothed():
    """The plain series has terms of t^i and leaves all bounds at t = 4; smoothed it stays near the truth."""
    p, rng = shares("zipf"), np.random.default_rng(4)
    samples, further = rng.multinomial(300, p, size=200), rng.multinomial(1200, p, size=200)
    found = np.sum((samples == 0) & (further > 0), axis=1)
    predicted = [expected_new(x, 1200) for x in samples]
    assert np.mean(predicted) == pytest.approx(np.mean(found), rel=0.3)
    assert np.sqrt(np.mean((predicted - found) ** 2)) < 60


def test_samples_that_hold_several_species_each():
    """Structures with motifs: counts are numbers of samples, and the estimators know how many samples there were."""
    chances, rng = 0.6 * 0.94 ** np.arange(100), np.random.default_rng(5)
    errors, predicted, found, sizes = [], [], [], []
    for _ in range(200):
        x = rng.binomial(80, chances)
        errors.append(coverage(x, 80) - chances[x > 0].sum() / chances.sum())
        predicted.append(expected_new(x, 80, 80))
        found.append(np.sum((x == 0) & (rng.binomial(80, chances) > 0)))
        sizes.append(chao1(x, 80).value)
    assert abs(np.mean(errors)) < 0.005
    assert np.mean(predicted) == pytest.approx(np.mean(found), rel=0.1)
    assert 60 < np.mean(sizes) < 100
    x = rng.binomial(80, chances)
    assert coverage_with_error(x, 80, repeats=50).standard_error < 0.02
    assert expected_new_with_error(x, 40, 80, repeats=50).low >= 0


@pytest.mark.parametrize("n_private", [1, 6])
def test_intervals_hold_for_structures_that_bring_several_species_at_once(n_private):
    """Each kind of structure has species of its own and three common ones; references are known and not counted."""
    rng = np.random.default_rng(7)
    p = 1 / np.arange(1, 401) ** 0.7
    p /= p.sum()
    holds = np.zeros((400, 60 + 400 * n_private), dtype=bool)
    for kind in range(400):
        holds[kind, rng.choice(60, 3, replace=False)] = True
        holds[kind, 60 + kind * n_private : 60 + (kind + 1) * n_private] = True
    chances = p @ holds
    in_references = rng.random(len(chances)) < 0.2
    hits = np.zeros(3)
    for repeat in range(50):
        drawn = holds[rng.choice(400, 100, p=p)]
        counts, further = drawn.sum(axis=0), holds[rng.choice(400, 100, p=p)].sum(axis=0)
        clusters = bunching(np.flatnonzero(drawn[:, kind])[0] for kind in np.flatnonzero(counts == 1))
        a = coverage_with_error(counts, 100, 60, repeat, clusters)
        b = expected_new_with_error(counts, 100, 100, 60, repeat, clusters)
        # Counting what references hold as seen would promise more than the sample can know.
        known = (counts > 0) | in_references
        hits += [
            a.low <= chances[counts > 0].sum() / chances.sum() <= a.high,
            b.low <= np.sum((counts == 0) & (further > 0)) <= b.high,
            a.low <= chances[known].sum() / chances.sum(),
        ]
    assert (hits >= 44).all()


def test_bunching_is_the_design_effect():
    assert bunching([]) == 1 and bunching("abc") == 1
    assert bunching("aaaa") == 4 and bunching("aabbcc") == 2
    assert bunching("aaab") == pytest.approx((9 + 1) / 4)


def test_all_seen_once():
    x = np.ones(30, dtype=int)
    assert coverage(x) < 0.01
    assert coverage_with_error(x, repeats=50).high < 0.5
    assert expected_new(x, 10) == 10
    assert chao1(x).value > 400 and np.isfinite(chao1(x).high)


def test_nothing_seen_once():
    x = np.array([5, 4, 6, 8])
    assert coverage(x) == 1
    assert chao1(x).value == chao1(x).low == 4 and 4 < chao1(x).high < 5
    assert expected_new(x, 5) < 0.1
    assert coverage_with_error(x, repeats=20).low <= 0.05 ** (1 / 23) < 1
    # Two sightings are no proof of completeness.
    assert coverage_with_error(np.array([2]), repeats=20).low < 0.3


@pytest.mark.parametrize("counts, n", [([10] * 4, 10), ([300] * 4, 300), ([3, 3], 30), ([10, 10, 2], 10)])
def test_rare_species_in_hand_make_nobody_more_certain(counts, n):
    """Seen once they say that there are others; the estimate is then below 1 and the interval no shorter."""
    none, *some = [coverage_with_error(np.array([*counts, *[1] * k]), n) for k in range(5)]
    assert none.value == 1
    for estimate in some:
        assert estimate.value < 1 and estimate.low <= none.low <= 0.05 ** (1 / n)


def test_one_sighting_of_five_samples_tells_next_to_nothing():
    assert coverage(np.array([1]), 5) == 0
    found = coverage_with_error(np.array([1]), 5)
    assert found.low == 0 and found.high > 0.9


@pytest.mark.parametrize("n, n_rare, chance", [(10, 30, 0.01), (30, 20, 0.005), (5, 3, 0.2)])
def test_intervals_hold_where_one_species_was_seen_once_and_none_twice(n, n_rare, chance):
    chances, rng = np.array([0.98] * 4 + [chance] * n_rare), np.random.default_rng(8)
    hits = n_found = 0
    while n_found < 60:
        x = rng.binomial(n, chances)
        if np.sum(x == 1) == 1 and not np.any(x == 2):
            found = coverage_with_error(x, n, 60, n_found)
            hits += found.low <= chances[x > 0].sum() / chances.sum() <= found.high
            n_found += 1
    assert hits >= 56


def test_one_species_and_one_sighting():
    assert coverage(np.array([50])) == 1 and chao1(np.array([50])).value == 1
    assert coverage(np.array([1])) == 0 and expected_new(np.array([1]), 1) == 1
    assert np.isfinite(chao1(np.array([1]))).all()
    assert np.isfinite(coverage_with_error(np.array([1]), repeats=20)).all()


def test_zeros_are_no_sightings():
    x = np.array([0, 3, 1, 0, 2])
    y = np.array([3, 1, 2])
    assert (coverage(x), chao1(x), expected_new(x, 3)) == (coverage(y), chao1(y), expected_new(y, 3))


def test_error_bars_are_repeatable():
    x = np.array([1, 1, 1, 2, 3, 8])
    assert coverage_with_error(x, seed=1) == coverage_with_error(x, seed=1)
    assert coverage_with_error(x, seed=1) != coverage_with_error(x, seed=2)


@pytest.mark.parametrize("counts", [[], [0, 0]])
@pytest.mark.parametrize("estimator", [coverage, chao1, lambda x: expected_new(x, 1), coverage_with_error])
def test_nothing_seen_at_all(counts, estimator):
    with pytest.raises(ValueError, match="no species was seen at all: at least one count above 0 is needed"):
        estimator(np.array(counts, dtype=int))


@pytest.mark.parametrize("counts", [[1, -1], [0.5, 2], [np.nan, 1], [[1, 2]]])
def test_counts_are_whole_numbers(counts):
    with pytest.raises(ValueError, match="one whole number from 0 per species is needed"):
        coverage(np.array(counts))


def test_impossible_requests():
    x = np.array([1, 2, 3])
    with pytest.raises(ValueError, match="m = 11 further samples after 6: from 0 to 10 can be estimated"):
        expected_new(x, 11)
    with pytest.raises(ValueError, match="seen in 3 of n_samples = 2 samples"):
        coverage(x, 2)
    with pytest.raises(ValueError, match="1 bootstrap samples give no spread"):
        coverage_with_error(x, repeats=1)


@pytest.mark.parametrize("n", [3, 5, 8, 15, 61])
def test_species_in_nearly_every_sample_bring_no_new_ones(n):
    """Terms of the plain series are 1 and -1 in turn: ten species in all samples would move it by ten, up or down."""
    p, rng = np.concatenate([np.ones(10), 0.3 / np.arange(1, 300)]), np.random.default_rng(6)
    samples, further = rng.binomial(n, p, size=(400, len(p))), rng.binomial(n, p, size=(400, len(p)))
    found = np.mean(np.sum((samples == 0) & (further > 0), axis=1))
    predicted = np.mean([expected_new(x, n, n) for x in samples])
    assert predicted == pytest.approx(found, rel=0.15, abs=3.5)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 50, 51])
def test_samples_that_are_all_alike_bring_nothing_new(n):
    assert expected_new(np.full(4, n), n, n) < 4 * (2 / 3) ** n + 1e-12


def test_what_few_samples_held_once_or_twice_counts_in_full():
    assert expected_new(np.array([1, 1, 1, 2]), 3, 3) == pytest.approx(3 - 1)
    assert expected_new(np.ones(7, int), 1, 1) == 7
