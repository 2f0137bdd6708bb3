"""Entropy and gains against QUESTS and against direct sums, and the two selections against brute force."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from chemloop.physics import entropy as module
from chemloop.physics.entropy import (
    entropy,
    entropy_gains,
    greedy_selection,
    log_kernel_sums,
    pool_gains,
    top_selection,
    used_columns,
)

H = 0.015


def points(n: int, seed: int, n_features: int = 8, spread: float = 0.02) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=spread, size=(n, n_features))


def structures(n: int, seed: int, spread: float = 0.02) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [points(int(rng.integers(1, 6)), 1000 * seed + i, spread=spread) for i in range(n)]


def direct(y: np.ndarray, x: np.ndarray, h: float = H) -> np.ndarray:
    return logsumexp(-cdist(y, x, "sqeuclidean") / (2 * h**2), axis=1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("h", [0.015, 0.05])
def test_entropy_and_gains_are_those_of_quests(h):
    quests = importlib.import_module("quests.entropy")
    x, y = points(300, 0), points(60, 1)
    assert entropy(x, h) == pytest.approx(quests.entropy(x, h=h), abs=1e-6)
    np.testing.assert_allclose(entropy_gains(y, x, h), quests.delta_entropy(y, x, h=h), atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_gains_stay_finite_and_ordered_where_quests_has_infinity():
    quests = importlib.import_module("quests.entropy")
    x, y = points(50, 0), points(3, 1) + np.array([[1.0], [2.0], [3.0]])
    assert np.isinf(quests.delta_entropy(y, x, h=H)).all()
    gains = entropy_gains(y, x, H)
    np.testing.assert_allclose(gains, -direct(y, x), rtol=1e-10)
    assert np.isfinite(gains).all() and (np.diff(gains) > 0).all()
    assert np.isfinite(entropy_gains(1e3 * y.astype(np.float32), x.astype(np.float32), H)).all()


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batches_do_not_matter(batch_size):
    x, y = points(40, 0), points(25, 1)
    np.testing.assert_allclose(log_kernel_sums(y, x, H, batch_size), direct(y, x), rtol=1e-10)


def test_float32_input_is_summed_in_float64():
    # Marks of size 1 beside differences of one bandwidth: float32 products would be wrong in the second digit.
    x = np.hstack([np.ones((30, 1)), points(30, 0, spread=0.01)]).astype(np.float32)
    np.testing.assert_allclose(log_kernel_sums(x, x, H), direct(x.astype(float), x.astype(float)), atol=1e-9)


def test_entropy_is_between_zero_and_log_n():
    assert entropy(np.ones((20, 4)), H) == pytest.approx(0.0, abs=1e-9)
    assert entropy(np.eye(20), H) == pytest.approx(np.log(20))
    assert entropy(points(1, 0), H) == pytest.approx(0.0, abs=1e-9)
    assert entropy(np.vstack([np.eye(4)] * 5), H) == pytest.approx(np.log(4))


def test_columns_of_zeros_are_dropped():
    x, y = np.zeros((2, 4)), np.zeros((3, 4))
    x[0, 1], y[2, 3] = 1.0, 2.0
    assert [part.tolist() for part in used_columns(x, y)] == [[[1, 0], [0, 0]], [[0, 0], [0, 0], [0, 2]]]


def test_pooling():
    gains, sizes = np.array([1.0, 3.0, 5.0, -1.0]), np.array([2, 1, 1])
    assert pool_gains(gains, sizes, "mean").tolist() == [2.0, 5.0, -1.0]
    assert pool_gains(gains, sizes, "max").tolist() == [3.0, 5.0, -1.0]
    assert pool_gains(gains, sizes, "sum").tolist() == [4.0, 5.0, -1.0]
    with pytest.raises(ValueError, match="'median' is not one of mean, max, sum"):
        pool_gains(gains, sizes, "median")


def brute_force(pool: list[np.ndarray], reference: np.ndarray, n: int, pooling: str) -> tuple[list, list]:
    reduce = {"mean": np.mean, "max": np.max, "sum": np.sum}[pooling]
    known, order, gains = [reference] if len(reference) else [], [], []
    for _ in range(n):
        left = [i for i in range(len(pool)) if i not in order]
        if known:
            scores = [reduce(-direct(pool[i], np.vstack(known))) for i in left]
        else:
            scores = [entropy(pool[i], H) for i in left]
        gains.append(max(scores))
        order.append(left[int(np.argmax(scores))])
        known.append(pool[order[-1]])
    return order, gains


@pytest.mark.parametrize("pooling", ["mean", "max", "sum"])
@pytest.mark.parametrize("n_reference", [0, 12])
def test_greedy_selection_is_that_of_brute_force(pooling, n_reference):
    pool, reference = structures(15, 3), points(n_reference, 9)
    indices, gains = greedy_selection(pool, reference, 10, H, pooling)
    order, expected = brute_force(pool, reference, 10, pooling)
    assert indices.tolist() == order
    np.testing.assert_allclose(gains, expected, atol=1e-9)


def test_top_selection_ranks_by_the_gain_with_respect_to_the_reference():
    pool, reference = structures(15, 4), points(20, 5)
    gains = np.array([np.mean(-direct(x, reference)) for x in pool])
    indices, scores = top_selection(pool, reference, 6, H)
    assert indices.tolist() == np.argsort(-gains)[:6].tolist()
    np.testing.assert_allclose(scores, gains[indices])
    everything = np.vstack(pool)
    own = np.array([np.mean(-direct(x, everything)) for x in pool])
    assert top_selection(pool, reference[:0], 15, H)[0].tolist() == np.argsort(-own).tolist()


def test_greedy_skips_copies_that_top_takes():
    novel = points(4, 1) + 1.0
    pool = [novel, novel.copy(), points(4, 2) + 0.5, points(4, 3)]
    reference = points(30, 3)
    assert top_selection(pool, reference, 2, H)[0].tolist() == [0, 1]
    assert greedy_selection(pool, reference, 2, H)[0].tolist() == [0, 2]


def test_a_greedy_selection_holds_more_entropy_than_top_or_random():
    rng = np.random.default_rng(0)
    families = [points(3, seed, spread=0.3) for seed in range(12)]
    pool = [families[i] + rng.normal(scale=0.002, size=(3, 8)) for i in rng.integers(0, 12, size=120)]
    reference = pool[0]

    def held(indices) -> float:
        return entropy(np.vstack([pool[i] for i in indices]), H)

    greedy = held(greedy_selection(pool, reference, 12, H)[0])
    assert greedy > held(top_selection(pool, reference, 12, H)[0]) + 0.5
    assert greedy > held(rng.permutation(120)[:12]) + 0.1


def test_sum_favours_big_cells_and_mean_does_not():
    small, big = points(2, 0) + 1.0, np.repeat(points(2, 1) + 0.9, 10, axis=0)
    reference = points(10, 2)
    assert greedy_selection([small, big], reference, 1, H, "sum")[0][0] == 1
    assert greedy_selection([small, big], reference, 1, H, "mean")[0][0] == 0


@pytest.mark.parametrize("select", [greedy_selection, top_selection])
def test_fewer_candidates_than_asked_for(select):
    pool = structures(3, 6)
    for reference in (points(0, 0), points(5, 0)):
        indices, gains = select(pool, reference, 10, H)
        assert sorted(indices.tolist()) == [0, 1, 2] and len(gains) == 3
        assert len(select([], reference, 10, H)[0]) == 0


def test_each_pick_costs_its_own_kernel_rows_only(monkeypatch):
    pool, reference, counted = structures(20, 7), points(30, 8), []

    def counting(y, x, *rest):
        counted.append(len(y) * len(x))
        return log_kernel_sums(y, x, *rest)

    monkeypatch.setattr(module, "log_kernel_sums", counting)
    indices, _ = greedy_selection(pool, reference, 8, H)
    n = sum(map(len, pool))
    assert counted == [n * 30] + [n * len(pool[i]) for i in indices]
