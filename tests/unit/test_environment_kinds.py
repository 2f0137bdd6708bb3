"""Kinds of environment: never renumbered, counted by structures, blind to nothing that could be in a crystal."""

from __future__ import annotations

import time

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from chemloop.physics.descriptors import environments
from chemloop.physics.environment_kinds import EnvironmentKinds, nearest

RADIUS = 0.1


def cloud(n: int, seed: int, n_centres: int = 30, spread: float = 0.01, n_features: int = 40) -> np.ndarray:
    """n environments around clearly different centres."""
    centres = np.random.default_rng(99).normal(size=(n_centres, n_features))
    rng = np.random.default_rng(seed)
    return (centres[rng.integers(n_centres, size=n)] + rng.normal(scale=spread / 6, size=(n, n_features))).astype(
        np.float32
    )


def parts(x: np.ndarray, size: int = 4) -> list[np.ndarray]:
    return list(x.reshape(-1, size, x.shape[1]))


def leaders_one_by_one(x: np.ndarray) -> np.ndarray:
    leaders: list[np.ndarray] = []
    for row in x.astype(float):
        if all(np.linalg.norm(row - leader) > RADIUS for leader in leaders):
            leaders.append(row)
    return np.array(leaders)


def test_leaders_are_those_of_one_environment_after_the_other():
    x = cloud(1600, 0, n_centres=200, spread=0.06)
    kinds = EnvironmentKinds(RADIUS)
    of_atoms = np.concatenate(kinds.add(parts(x), 0).kinds)
    expected = leaders_one_by_one(x)
    assert 200 < len(expected) < 1500
    np.testing.assert_array_equal(kinds.leaders, expected.astype(np.float32))
    distances = np.linalg.norm(x[:, None].astype(float) - expected, axis=2)
    np.testing.assert_array_equal(of_atoms, distances.argmin(axis=1))
    assert distances.min(axis=1).max() <= RADIUS


def test_later_structures_change_no_kind():
    kinds = EnvironmentKinds(RADIUS)
    first, second = parts(cloud(400, 0)), parts(cloud(400, 1, n_centres=60))
    before = kinds.add(first, 1).kinds
    leaders = kinds.leaders.copy()
    kinds.add(second, 2)
    assert len(kinds.leaders) > len(leaders)
    np.testing.assert_array_equal(kinds.leaders[: len(leaders)], leaders)
    again = EnvironmentKinds(RADIUS)
    for some in (first[:7], first[7:], second):
        again.add(some, 1)
    np.testing.assert_array_equal(again.leaders, kinds.leaders)
    np.testing.assert_array_equal(again.n_structures, kinds.n_structures)
    for part, other in zip(before, kinds.add(first, 3).kinds, strict=True):
        np.testing.assert_array_equal(part, other)


def test_structures_are_counted_once_and_references_apart():
    a, b, c = np.eye(3, dtype=np.float32)
    kinds = EnvironmentKinds(RADIUS)
    kinds.add([np.array([a, a, b])], 0, is_reference=True)
    kinds.add([np.array([a, a]), np.array([c, a, c])], 1)
    kinds.add([np.array([c, c])], 2)
    assert kinds.n_references.tolist() == [1, 1, 0]
    assert kinds.n_structures.tolist() == [2, 0, 2]
    assert kinds.first_iteration.tolist() == [0, 0, 1]
    assert kinds.first_host.tolist() == [0, -1, 1]
    assert kinds.n_samples == 3


def test_known_is_what_an_earlier_leader_is_near_though_a_new_one_be_nearer():
    kinds = EnvironmentKinds(RADIUS)
    assert not np.concatenate(kinds.add([np.array([[0.0, 0.0]])], 0).is_known).any()
    found = kinds.add([np.array([[0.15, 0.0], [0.09, 0.0]]), np.array([[0.05, 0.0]])], 1)
    assert [part.tolist() for part in found.kinds] == [[1, 1], [0]]
    assert [part.tolist() for part in found.is_known] == [[False, True], [True]]
    x = cloud(1200, 3, n_centres=150, spread=0.06)
    kinds = EnvironmentKinds(RADIUS)
    kinds.add(parts(x[:400]), 1)
    leaders = kinds.leaders.astype(float)
    known = np.concatenate(kinds.add(parts(x[400:]), 2).is_known)
    near = np.linalg.norm(x[400:, None].astype(float) - leaders, axis=2).min(axis=1) <= RADIUS
    np.testing.assert_array_equal(known, near)
    assert 0.2 < known.mean() < 0.9


def test_thermal_displacements_stay_within_a_kind_and_other_crystals_are_others():
    """What the radius means: atoms moved by 0.05 A per coordinate against crystals of other bonds."""
    rng = np.random.default_rng(0)
    crystals = [bulk("NaCl", "rocksalt", 5.64), bulk("NaCl", "cesiumchloride", 3.5), bulk("NaCl", "zincblende", 6.1)]
    supercells = [crystal.repeat(3) for crystal in crystals]
    kinds = EnvironmentKinds(RADIUS)
    own = kinds.add(environments(supercells, ["Na", "Cl"]), 0).kinds
    assert [np.unique(part).tolist() for part in own] == [[0, 1], [2, 3], [4, 5]]
    moved = [atoms.copy() for atoms in supercells]
    for atoms in moved:
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
    found = kinds.add(environments(moved, ["Na", "Cl"]), 1).kinds
    same = [part == other for part, other in zip(own, found, strict=True)]
    assert np.concatenate(same).mean() > 0.95


def test_one_element_and_no_neighbours():
    kinds = EnvironmentKinds(RADIUS)
    lonely = Atoms("Li", [[0, 0, 0]], cell=[15, 15, 15], pbc=True)
    (of_lonely,), (of_bulk,) = (
        kinds.add(environments([atoms], ["Li"]), 1).kinds for atoms in (lonely, bulk("Li", cubic=True).repeat(2))
    )
    assert of_lonely.tolist() == [0] and of_bulk.tolist() == [1] * 16
    (again,) = kinds.add(environments([lonely.repeat((2, 1, 1))], ["Li"]), 2).kinds
    assert again.tolist() == [0, 0]


def test_nothing_to_add():
    kinds = EnvironmentKinds(RADIUS)
    assert kinds.add([], 1) == ([], []) and kinds.n_samples == 0
    kinds.add([np.eye(3)], 1)
    assert kinds.add([], 2) == ([], []) and kinds.n_samples == 1 and len(kinds.leaders) == 3


def test_nearest_takes_the_first_of_equal_leaders():
    leaders = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    numbers, distances = nearest(np.array([[0.1, 0.0], [0.9, 0.0]]), leaders)
    assert numbers.tolist() == [0, 1] and distances == pytest.approx([0.1, 0.1])
    assert np.isinf(nearest(leaders, leaders[:0])[1]).all()


def test_two_hundred_structures_take_seconds_among_many_kinds():
    kinds = EnvironmentKinds(RADIUS)
    kinds.leaders = np.random.default_rng(0).normal(size=(30_000, 285)).astype(np.float32)
    for name in ("n_structures", "n_references", "first_host", "first_iteration"):
        setattr(kinds, name, np.zeros(30_000, int))
    start = time.process_time()
    kinds.add(parts(cloud(2400, 0, n_features=285), 12), 5)
    assert time.process_time() - start < 30, "this takes 2 s"
