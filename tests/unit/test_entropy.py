"""Entropy and gains against QUESTS and against direct sums, and the two selections against brute force."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from ase.build import bulk
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from chemloop.physics import distinct_rows, entropy_series, kernel_sums
from chemloop.physics import entropy as module
from chemloop.physics.descriptors import blind_environments
from chemloop.physics.entropy import (
    entropy,
    entropy_gains,
    greedy_selection,
    log_kernel_sums,
    pool_gains,
    top_selection,
    used_columns,
)
from chemloop.physics.kernel_sums import KernelSums
from chemloop.physics.taken_sums import TakenSums

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


def test_old_gains_save_most_updates(monkeypatch):
    rng = np.random.default_rng(7)
    # Gains that differ: structure i lies 0.1 i from the reference, along an axis of its own or its twin's.
    pool = [0.1 * (i + 1) * np.eye(20)[[i]] for i in range(20)]
    pool = [pool[i] + rng.normal(scale=1e-3, size=(3, 20)) for i in rng.permutation(np.repeat(np.arange(20), 2))]
    updated = []
    update = TakenSums.update
    monkeypatch.setattr(TakenSums, "update", lambda self, rows: updated.append(len(rows)) or update(self, rows))
    order, expected = brute_force(pool, np.zeros((1, 20)), 20, "mean")
    indices, gains = greedy_selection(pool, np.zeros((1, 20)), 20, H)
    assert indices.tolist() == order
    np.testing.assert_allclose(gains, expected, rtol=1e-9)
    assert sum(updated) < 0.25 * 20 * 3 * len(pool)


@pytest.mark.parametrize("n_reference", [0, 12])
def test_greedy_selection_that_looks_at_projections_first(monkeypatch, n_reference):
    monkeypatch.setattr("chemloop.physics.taken_sums.SCREENED_PAIRS", 0)
    pool, reference = [environments_like(4, seed) for seed in range(60)], environments_like(n_reference, 99)
    order, expected = brute_force(pool, reference, 40, "mean")
    indices, gains = greedy_selection(pool, reference, 40, H)
    assert indices.tolist() == order
    np.testing.assert_allclose(gains, expected, atol=1e-6)


@pytest.fixture
def pruned(monkeypatch):
    """All sums by blocks, small ones, and a count of the kernels that are computed."""
    monkeypatch.setattr(module, "DIRECT_PAIRS", 0)
    monkeypatch.setattr(kernel_sums, "CPU_BLOCK", 32)
    counts = []
    log_kernels = kernel_sums.log_kernels
    monkeypatch.setattr(
        kernel_sums,
        "log_kernels",
        lambda a, b, *rest, **kw: counts.append(len(a) * len(b)) or log_kernels(a, b, *rest, **kw),
    )
    return counts


def environments_like(n: int, seed: int) -> np.ndarray:
    """Clusters of all widths around centres with marks, in more dimensions than are projected on."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(12345).normal(scale=0.1, size=(30, 50))
    kinds = rng.integers(0, 30, size=n)
    widths = 0.02 * rng.random((n, 1)) ** 2
    return np.hstack([np.eye(3)[kinds % 3], centres[kinds] + widths * rng.normal(size=(n, 50))])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_over_near_pairs_are_those_over_all(pruned, dtype):
    x = environments_like(2000, 0).astype(dtype)
    exact = direct(x.astype(float), x.astype(float))
    assert entropy(x, H) == pytest.approx(np.log(2000) - exact.mean(), rel=1e-6)
    np.testing.assert_allclose(log_kernel_sums(x, x, H), exact, atol=1e-4)
    assert sum(pruned) / 2 < 0.2 * 2000**2


def test_gains_over_near_pairs_are_those_over_all_however_far(pruned):
    x, y = environments_like(2000, 0), environments_like(300, 1)
    y[:100] += np.linspace(0.0, 2.0, 100)[:, None] / np.sqrt(53)
    y[-1] = x[7]
    np.testing.assert_allclose(entropy_gains(y, x, H), -direct(y, x), atol=1e-6)
    assert sum(pruned) < 0.6 * 2000 * 300


def test_the_bound_of_what_is_left_out_holds(pruned, monkeypatch):
    monkeypatch.setattr(kernel_sums, "NEGLIGIBLE", 1e-3)
    x = points(1500, 0, 6, spread=0.015)
    missing = direct(x, x) - log_kernel_sums(x, x, H)
    assert 1e-3 < missing.max() < 1500 * 1e-3
    assert missing.min() > -1e-4


def test_sets_that_grow_cost_what_is_added(pruned):
    x, more = environments_like(3000, 0), environments_like(60, 1)
    sums = KernelSums(H)
    for part in (x[:1000], x[1000:1001], x[:0], x[1001:]):
        sums.add(part)
    before = sum(pruned)
    sums.add(more)
    assert sum(pruned) - before < 60 * 3000 < before
    everything = np.vstack([x, more])
    assert len(sums) == 3060
    np.testing.assert_allclose(sums.log_sums, direct(everything, everything), atol=1e-4)
    assert sums.entropy == pytest.approx(np.log(3060) - direct(everything, everything).mean(), rel=1e-6)


def test_curve_of_a_large_set_is_the_entropy_of_each_beginning(pruned, monkeypatch):
    monkeypatch.setattr(entropy_series, "DIRECT_PAIRS", 0)
    frames = [environments_like(20, seed) for seed in range(30)]
    expected = [np.log(20 * m) - direct(*[np.vstack(frames[:m])] * 2).mean() for m in (3, 30)]
    np.testing.assert_allclose(entropy_series.entropy_curve(frames, [0, 3, 30], H), [0.0, *expected], rtol=1e-6)


@pytest.mark.parametrize("tolerance", [1e-3, 0.1, 1.0])
def test_an_entropy_is_too_large_by_less_than_its_tolerance(pruned, tolerance):
    rng = np.random.default_rng(0)
    several = environments_like(2000, 0)[rng.integers(2000, size=3000)]
    for x in (points(3001, 0, 6, spread=0.03), environments_like(3000, 0), several):
        exact = np.log(len(x)) - direct(x, x).mean()
        before = sum(pruned)
        error = entropy(x, H, tolerance=tolerance) - exact
        assert -1e-6 < error < tolerance
        with_tolerance = sum(pruned) - before
        entropy(x, H)
        assert with_tolerance < sum(pruned) - before - with_tolerance
    assert tolerance < 0.1 or error > 1e-6


def test_a_tolerance_that_nothing_keeps_leaves_nothing_out(pruned):
    """The last block of 1,001 environments is filled up with rows that are none."""
    x = np.random.default_rng(11).normal(size=(1001, 8)).astype(np.float32)
    exact = np.log(len(x)) - logsumexp(-cdist(x, x, "sqeuclidean") / (2 * 0.5**2), axis=1).mean()
    assert entropy(x, 0.5, tolerance=1e-14) == pytest.approx(exact, abs=1e-6)


def test_copies_are_met_once(pruned):
    x = np.repeat(environments_like(100, 0).astype(np.float32), 40, axis=0)
    assert entropy(x, H) == pytest.approx(entropy(x[::40], H), rel=1e-9)
    assert sum(pruned) < 2 * 100**2


def test_rows_are_told_apart_where_keys_are_not(monkeypatch):
    x = np.array([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]], dtype=np.float32)
    for keys in (distinct_rows._keys, lambda bits: np.zeros(len(bits), dtype=np.uint64)):
        monkeypatch.setattr(distinct_rows, "_keys", keys)
        first, places, counts = distinct_rows.distinct_rows(x)
        assert x[first][places].tolist() == x.tolist() and sorted(counts) == [1, 2]


@pytest.mark.filterwarnings("ignore")
def test_own_descriptors_of_quests_have_its_entropy(pruned):
    quests = importlib.import_module("quests.entropy")
    rng = np.random.default_rng(0)
    crystals = [bulk("Cu", cubic=True).repeat(2), bulk("Si", cubic=True), bulk("NaCl", "rocksalt", a=5.6).repeat(2)]
    for atoms in crystals:
        atoms.positions += rng.normal(scale=0.02, size=atoms.positions.shape)
    x = np.vstack(blind_environments(crystals)).astype(float)
    y = np.vstack(blind_environments([crystals[0].repeat(2)])).astype(float)[:20] + 0.005
    assert entropy(x) == pytest.approx(quests.entropy(x), abs=1e-6)
    np.testing.assert_allclose(entropy_gains(y, x), quests.delta_entropy(y, x), atol=1e-6)


@pytest.mark.parametrize("is_pruned", [False, True])
def test_smallest_and_emptiest_sets(is_pruned, request):
    if is_pruned:
        request.getfixturevalue("pruned")
    assert entropy(points(1, 0), H) == pytest.approx(0.0, abs=1e-9)
    assert entropy(np.ones((70, 4)), H) == pytest.approx(0.0, abs=1e-9)
    assert entropy(np.eye(70), H) == pytest.approx(np.log(70))
    # No neighbours: nothing but zeros, and all alike.
    assert entropy(np.zeros((50, 6), dtype=np.float32), H) == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(entropy_gains(np.zeros((2, 6)), np.zeros((50, 6)), H), -np.log(50))
    assert len(entropy_gains(np.zeros((0, 6)), np.zeros((50, 6)), H)) == 0


def test_numbers_that_are_not_finite_are_refused():
    x = points(50, 0)
    x[7, 2] = np.nan
    for call in (lambda: entropy(x, H), lambda: entropy_gains(points(3, 1), x, H), lambda: KernelSums(H).add(x)):
        with pytest.raises(
            ValueError, match="1 of 50 environments hold numbers that are not finite, the first is number 7"
        ):
            call()
    with pytest.raises(ValueError, match="no environments: their entropy has no meaning"):
        entropy(x[:0], H)
    with pytest.raises(ValueError, match="no environments were added"):
        _ = KernelSums(H).entropy


@pytest.mark.parametrize(("bandwidth", "offset"), [(1e-10, 0.0), (1e-8, 1.0), (1e-5, 1000.0)])
def test_a_bandwidth_that_is_far_too_small_tells_equal_environments_not_apart(bandwidth, offset):
    x = np.random.default_rng(12).normal(size=(40, 30)) + offset
    twice = np.vstack([x, x[::-1]])
    assert entropy(twice, bandwidth) == pytest.approx(np.log(40), abs=1e-6)
    np.testing.assert_allclose(entropy_gains(x[:3], twice, bandwidth), -np.log(2), atol=1e-6)
