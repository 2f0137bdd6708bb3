"""Entropies at fixed sample size, their growth along a selection, and the stop rule."""

from __future__ import annotations

import numpy as np
import pytest

from chemloop.physics.completeness import entropy_at, entropy_curve, entropy_growth, is_complete
from chemloop.physics.entropy import entropy, greedy_selection

H = 0.015


def kinds(n: int, n_kinds: int, seed: int) -> np.ndarray:
    """n environments of n_kinds clearly different kinds, in equal shares."""
    return np.random.default_rng(seed).permutation(np.resize(np.eye(n_kinds), (n, n_kinds)))


def test_fixed_size_entropy_does_not_depend_on_the_size_of_the_set():
    small, large = kinds(200, 10, 0), kinds(2000, 10, 1)
    a, b = (entropy_at(x, 100, 20, H, seed=3) for x in (small, large))
    assert abs(a.mean - b.mean) < 4 * np.hypot(a.standard_error, b.standard_error) + 0.01
    assert 0 < a.standard_error < 0.02
    assert a.mean < np.log(10)


def test_standard_error_is_that_of_the_mean_of_the_draws():
    x = kinds(400, 10, 0)
    means = [entropy_at(x, 50, 8, H, seed=seed).mean for seed in range(60)]
    errors = [entropy_at(x, 50, 8, H, seed=seed).standard_error for seed in range(60)]
    assert np.std(means, ddof=1) == pytest.approx(np.mean(errors), rel=0.3)


def test_fixed_size_entropy_tells_richer_sets():
    assert entropy_at(kinds(400, 20, 0), 100, 5, H).mean > entropy_at(kinds(400, 10, 0), 100, 5, H).mean + 0.3


def test_fixed_size_entropy_is_repeatable_and_known_for_the_whole_set():
    x = kinds(60, 7, 0)
    assert entropy_at(x, 30, 5, H, seed=1) == entropy_at(x, 30, 5, H, seed=1)
    assert entropy_at(x, 30, 5, H, seed=1) != entropy_at(x, 30, 5, H, seed=2)
    assert entropy_at(x, 60, 5, H) == (entropy(x, H), 0.0)


@pytest.mark.parametrize("n, repeats", [(0, 5), (-1, 5), (61, 5), (30, 1)])
def test_impossible_samples_are_refused(n, repeats):
    with pytest.raises(ValueError, match="out of 60 environments: the sample size must be from 1"):
        entropy_at(kinds(60, 7, 0), n, repeats, H)


def test_curve_is_the_entropy_of_each_beginning():
    rng = np.random.default_rng(0)
    frames = [rng.normal(scale=0.02, size=(rng.integers(1, 5), 6)) for _ in range(20)]
    curve = entropy_curve(frames, [0, 1, 2, 7, 20], H)
    expected = [0.0] + [entropy(np.vstack(frames[:m]), H) for m in (1, 2, 7, 20)]
    np.testing.assert_allclose(curve, expected, atol=1e-9)


def test_growth_per_frame():
    # All environments differ: H = log n, so the last two of twenty frames of one atom add log(20 / 18) together.
    assert entropy_growth(list(np.eye(20)[:, None]), 0.1, H) == pytest.approx(np.log(20 / 18) / 2)
    # Nothing new in the last ten: what was there twice becomes uneven only.
    repeated = [np.eye(10)[[i % 10]] for i in range(20)]
    assert entropy_growth(repeated, 0.5, H) == pytest.approx(0.0, abs=1e-9)
    assert entropy_growth([np.eye(3)], 0.1, H) == pytest.approx(np.log(3))


def test_growth_falls_along_a_greedy_selection():
    rng = np.random.default_rng(1)
    frames = [np.eye(15)[[i]] + rng.normal(scale=0.001, size=(1, 15)) for i in rng.integers(0, 15, size=100)]
    order, _ = greedy_selection(frames, np.zeros((0, 15)), 60, H)
    picked = [frames[i] for i in order]
    assert entropy_growth(picked[:10], 0.2, H) > 20 * abs(entropy_growth(picked, 0.2, H))


@pytest.mark.parametrize(
    "entropies, gradients, expected, words",
    [
        ([3.0, 4.0], [1e-2, 1e-5], False, "2 iterations so far, the stop rule needs 3"),
        ([3.0, 4.0, 4.5], [1e-2, 1e-3, 1e-5], False, "grew by 1.5 nats over 2 iterations (not below"),
        (
            [3.0, 4.0, 4.01, 4.02],
            [1e-2, 1e-2, 1e-2, 1e-3],
            False,
            "0.001 nats per frame (not below the limit of 0.0001)",
        ),
        (
            [3.0, 4.0, 4.01, 4.02],
            [1e-2, 1e-2, 1e-2, 1e-5],
            True,
            "complete: the entropy at fixed sample size grew by 0.02",
        ),
        ([4.0, 4.0, 3.9], [1e-2, 1e-3, -1e-5], True, "grew by -0.1 nats"),
        ([4.0, 4.0, float("nan")], [1e-2, 1e-3, 1e-5], False, "nan nats"),
    ],
)
def test_stop_rule(entropies, gradients, expected, words):
    verdict = is_complete(entropies, gradients, tolerance=0.05, patience=2, gradient_limit=1e-4)
    assert verdict.complete is expected and bool(verdict) is expected
    assert words in verdict.reason
    assert verdict.reason.startswith("complete" if expected else "not complete")


@pytest.mark.parametrize("gradients, patience", [([1e-2, 1e-3], 0), ([1e-3], 1)])
def test_stop_rule_refuses_nonsense(gradients, patience):
    with pytest.raises(ValueError, match="patience must be above 0, and each iteration has one of each"):
        is_complete([3.0, 3.0], gradients, 0.05, patience, 1e-4)
