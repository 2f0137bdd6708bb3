"""Entropies at fixed sample size, their growth along a selection, overlaps, and the errors of all of them."""

from __future__ import annotations

import numpy as np
import pytest

from chemloop.physics import entropy, entropy_series
from chemloop.physics.entropy import greedy_selection, log_kernel_sums
from chemloop.physics.entropy_series import entropy_at, entropy_curve, entropy_growth, is_within, share

H = 0.015


def kinds(n: int, n_kinds: int, seed: int) -> list[np.ndarray]:
    """n structures of one environment each, of n_kinds clearly different kinds in equal shares."""
    return list(np.random.default_rng(seed).permutation(np.resize(np.eye(n_kinds), (n, n_kinds)))[:, None])


def test_fixed_size_entropy_does_not_depend_on_the_size_of_the_set():
    small, large = kinds(200, 10, 0), kinds(2000, 10, 1)
    a, b = (entropy_at(x, 100, 20, H, seed=3) for x in (small, large))
    assert abs(a.value - b.value) < 4 * np.hypot(a.standard_error, b.standard_error) + 0.01
    assert 0 < a.standard_error < 0.03
    assert a.value < np.log(10)


def population(seed: int, n: int = 60, size: int = 6) -> list[np.ndarray]:
    """n structures drawn from a large population, each of `size` environments of one kind of 40, common to rare."""
    p = 0.9 ** np.arange(40)
    drawn = np.random.default_rng(seed).choice(40, size=n, p=p / p.sum())
    return [np.repeat(np.eye(40)[[kind]], size, axis=0) for kind in drawn]


def test_standard_error_tells_how_the_entropy_varies_from_one_sample_of_structures_to_the_next():
    """Environments drawn as if independent would say a third of it: six of each structure are alike."""
    found = [entropy_at(population(seed), 100, 5, H, seed=seed) for seed in range(60)]
    real = np.std([each.value for each in found], ddof=1)
    assert np.sqrt(np.mean([each.standard_error**2 for each in found])) == pytest.approx(real, rel=0.3)


def test_fixed_size_entropy_tells_richer_sets():
    assert entropy_at(kinds(400, 20, 0), 100, 5, H).value > entropy_at(kinds(400, 10, 0), 100, 5, H).value + 0.3


def test_fixed_size_entropy_is_repeatable_and_known_for_the_whole_set():
    x = kinds(60, 7, 0)
    assert entropy_at(x, 30, 5, H, seed=1) == entropy_at(x, 30, 5, H, seed=1)
    assert entropy_at(x, 30, 5, H, seed=1) != entropy_at(x, 30, 5, H, seed=2)
    whole = entropy_at(x, 60, 5, H)
    assert whole.value == entropy.entropy(np.vstack(x), H) and whole.standard_error < 0.1


@pytest.mark.parametrize("n, repeats", [(0, 5), (-1, 5), (61, 5), (30, 1)])
def test_impossible_samples_are_refused(n, repeats):
    with pytest.raises(ValueError, match="out of 60 environments: the sample size must be from 1"):
        entropy_at(kinds(60, 7, 0), n, repeats, H)


def test_nothing_at_all_is_refused_in_words():
    for ask in (
        lambda: entropy_at([], 1, 5, H),
        lambda: entropy_growth([], bandwidth=H),
        lambda: entropy_curve([], [0], H),
        lambda: is_within([], np.eye(3), H),
    ):
        with pytest.raises(ValueError, match="no structures or frames, so no environments: at least one is needed"):
            ask()


def test_one_structure_has_no_error_and_identical_ones_none_to_speak_of():
    one = entropy_at([np.eye(8)], 4, 5, H)
    assert one.value == pytest.approx(np.log(4)) and np.isnan(one.standard_error)
    same = entropy_at([np.ones((4, 3))] * 9, 12, 5, H)
    assert same == pytest.approx((0.0, 0.0), abs=1e-9)
    growth = entropy_growth([np.ones((4, 3))] * 50, 0.5, H).measured
    assert growth == pytest.approx((0.0, 0.0), abs=1e-9)


def test_curve_is_the_entropy_of_each_beginning():
    rng = np.random.default_rng(0)
    frames = [rng.normal(scale=0.02, size=(rng.integers(1, 5), 6)) for _ in range(20)]
    curve = entropy_curve(frames, [0, 1, 2, 7, 20], H)
    expected = [0.0] + [entropy.entropy(np.vstack(frames[:m]), H) for m in (1, 2, 7, 20)]
    np.testing.assert_allclose(curve, expected, atol=1e-9)


def test_growth_per_frame():
    # All environments differ: H = log n, so the last two of twenty frames of one atom add log(20 / 18) together.
    assert entropy_growth(list(np.eye(20)[:, None]), 0.1, H).measured.value == pytest.approx(np.log(20 / 18) / 2)
    # Nothing new in the last ten: what was there twice becomes uneven only.
    repeated = [np.eye(10)[[i % 10]] for i in range(20)]
    assert entropy_growth(repeated, 0.5, H).measured.value == pytest.approx(0.0, abs=1e-9)
    one = entropy_growth([np.eye(3)], 0.1, H).measured
    assert one.value == pytest.approx(np.log(3)) and np.isnan(one.standard_error)


def test_growth_falls_along_a_greedy_selection():
    rng = np.random.default_rng(1)
    frames = [np.eye(15)[[i]] + rng.normal(scale=0.001, size=(1, 15)) for i in rng.integers(0, 15, size=100)]
    order, _ = greedy_selection(frames, np.zeros((0, 15)), 60, H)
    picked = [frames[i] for i in order]
    assert entropy_growth(picked[:10], 0.2, H).measured.value > 20 * abs(entropy_growth(picked, 0.2, H).measured.value)


def test_growth_is_that_of_the_curve_and_its_error_that_of_other_frames():
    """The same known frames, and again and again other ones after them."""
    first = population(0, 40, 3)
    found = [entropy_growth([*first, *population(seed, 40, 3)], 0.5, H).measured for seed in range(1, 61)]
    before, after = entropy_curve([*first, *population(1, 40, 3)], [40, 80], H)
    assert found[0].value == pytest.approx((after - before) / 40, abs=1e-9)
    real = np.std([growth.value for growth in found], ddof=1)
    assert np.mean([growth.standard_error for growth in found]) == pytest.approx(real, rel=0.3)


def environment_frames(n: int, seed: int) -> list[np.ndarray]:
    """Frames of 3 to 5 environments, some of which lie within a bandwidth of others."""
    rng = np.random.default_rng(seed)
    return [rng.normal(scale=0.015, size=(rng.integers(3, 6), 4)) for _ in range(n)]


class PairsMet:
    def __init__(self, monkeypatch):
        self.n = 0
        monkeypatch.setattr(entropy_series, "log_kernel_sums", self)

    def __call__(self, y, x, *arguments):
        self.n += len(y) * len(x)
        return log_kernel_sums(y, x, *arguments)


@pytest.mark.parametrize("direct_pairs", [10_000_000, 0])
def test_growth_goes_on_from_the_sums_of_the_frames_before(direct_pairs, monkeypatch):
    """As the training set of a campaign grows: the same numbers as from all pairs, for the pairs of what is added."""
    monkeypatch.setattr(entropy, "DIRECT_PAIRS", direct_pairs)
    frames = environment_frames(160, 3)
    known = None
    for end in (60, 100, 160):
        whole = entropy_growth(frames[:end], 0.1, H)
        met = PairsMet(monkeypatch)
        grown = entropy_growth(frames[:end], 0.1, H, known)
        monkeypatch.undo()
        monkeypatch.setattr(entropy, "DIRECT_PAIRS", direct_pairs)
        assert grown.measured == pytest.approx(whole.measured, rel=1e-5, abs=1e-7)
        np.testing.assert_allclose(grown.log_sums, whole.log_sums, atol=1e-5)
        n_known, n = len(known) if known is not None else 0, len(whole.log_sums)
        assert met.n == n**2 - n_known**2
        known = grown.log_sums


def test_growth_of_a_window_that_reaches_back_is_summed_anew():
    frames = environment_frames(60, 4)
    known = entropy_growth(frames[:57], 0.1, H).log_sums
    assert entropy_growth(frames, 0.1, H, known).measured == entropy_growth(frames, 0.1, H).measured
    with pytest.raises(ValueError, match="sums of 2 environments are not those of the first of 60 frames"):
        entropy_growth(frames, 0.1, H, known[:2])


def test_whole_set_is_not_summed_where_only_samples_are_asked_for(monkeypatch):
    sizes = []

    def spy(x, *arguments):
        sizes.append(len(x))
        return entropy.entropy(x, *arguments)

    monkeypatch.setattr(entropy_series, "entropy", spy)
    entropy_at(kinds(200, 10, 0), 20, 5, H)
    assert set(sizes) == {20}


def test_overlap_of_new_structures():
    known = np.eye(6)[:3]
    new = [np.eye(6)[[0, 1, 4]], np.eye(6)[[5, 5, 5]], known + 1e-9]
    within = is_within(new, known, H)
    assert [part.tolist() for part in within] == [[True, True, False], [False] * 3, [True] * 3]
    assert share(within).value == pytest.approx(5 / 9)
    assert share(within, seed=1) == share(within, seed=1)
    assert np.isnan(share(within[:1]).standard_error)


def test_error_of_a_share_is_that_of_whole_structures():
    rng = np.random.default_rng(0)
    drawn = [[np.full(6, known) for known in rng.random(80) < 0.3] for _ in range(80)]
    shares = [share(flags, repeats=100, seed=seed) for seed, flags in enumerate(drawn)]
    real = np.std([each.value for each in shares], ddof=1)
    assert real == pytest.approx(np.sqrt(0.3 * 0.7 / 80), rel=0.25)
    assert np.mean([each.standard_error for each in shares]) == pytest.approx(real, rel=0.25)
