"""Environments: the published numbers, what must not change them and what must."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell

from chemloop.physics.descriptors import blind_environments, environments
from chemloop.runtime.errors import StructureError

ELEMENTS = ["Li", "P", "S"]


def crystal(seed: int, n_atoms: int = 12, volume_per_atom: float = 18.0) -> Atoms:
    """A random Li-P-S cell without symmetry, no two atoms closer than 1.2 A."""
    rng = np.random.default_rng(seed)
    cell = np.eye(3) + rng.normal(scale=0.15, size=(3, 3))
    cell *= (n_atoms * volume_per_atom / abs(np.linalg.det(cell))) ** (1 / 3)
    numbers = rng.permutation(np.resize([3, 15, 16, 16], n_atoms))
    while True:
        atoms = Atoms(numbers, scaled_positions=rng.random((n_atoms, 3)), cell=cell, pbc=True)
        if np.min(atoms.get_all_distances(mic=True) + 9 * np.eye(n_atoms)) > 1.2:
            return atoms


def relabelled(atoms: Atoms) -> Atoms:
    swapped = atoms.copy()
    swapped.numbers = [{3: 16, 15: 3, 16: 15}[z] for z in atoms.numbers]
    return swapped


@pytest.fixture(scope="module")
def quests():
    return importlib.import_module("quests.descriptor")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("k, cutoff", [(32, 5.0), (12, 5.0), (64, 6.0)])
def test_blind_environments_are_the_published_ones(quests, k, cutoff):
    structures = [crystal(seed) for seed in range(5)]
    ours = np.vstack(blind_environments(structures, k, cutoff))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, quests.get_descriptors(structures, k=k, cutoff=cutoff), atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_one_element_gives_the_published_numbers(quests):
    structures = [crystal(seed) for seed in range(5)]
    for atoms in structures:
        atoms.numbers[:] = 3
    ours = np.vstack(environments(structures, ["Li"], 64, 5.0))[:, 1:]
    np.testing.assert_allclose(ours, quests.get_descriptors(structures, k=64, cutoff=5.0), atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_swapping_elements_is_seen_here_and_not_by_the_published_descriptor(quests):
    atoms = crystal(0)
    published = [quests.get_descriptors([a], k=32, cutoff=5.0) for a in (atoms, relabelled(atoms))]
    assert np.array_equal(*published)
    ours = environments([atoms, relabelled(atoms)], ELEMENTS)
    assert np.linalg.norm(ours[0] - ours[1], axis=1).min() > 1.0
    # Only neighbours change element here, so the marks of the central atoms cannot be what differs.
    neighbors_swapped = atoms.copy()
    phosphorus, lithium = np.flatnonzero(atoms.numbers == 15)[0], np.flatnonzero(atoms.numbers == 3)[0]
    neighbors_swapped.numbers[[phosphorus, lithium]] = [3, 15]
    others = np.setdiff1d(np.arange(len(atoms)), [phosphorus, lithium])
    a, b = environments([atoms, neighbors_swapped], ELEMENTS)
    assert np.linalg.norm((a - b)[others], axis=1).min() > 0.015


def test_central_elements_are_many_bandwidths_apart():
    atoms = crystal(1)
    (x,) = environments([atoms], ELEMENTS)
    distances = np.linalg.norm(x[:, None] - x[None], axis=2)
    assert distances[atoms.numbers[:, None] != atoms.numbers].min() > 1.4 > 90 * 0.015


def test_translation_rotation_and_renumbering_change_nothing():
    atoms = crystal(2)
    (expected,) = environments([atoms], ELEMENTS)
    moved = atoms.copy()
    moved.positions += [1.3, -0.4, 7.7]
    moved.wrap()
    turned = atoms.copy()
    turned.rotate(37, [1, 2, 3], rotate_cell=True)
    order = np.random.default_rng(0).permutation(len(atoms))
    for atoms_now, rows in ((moved, expected), (turned, expected), (atoms[order], expected[order])):
        np.testing.assert_allclose(environments([atoms_now], ELEMENTS)[0], rows, atol=1e-6)


@pytest.mark.parametrize("matrix", [np.diag([2, 1, 3]), [[1, 1, 0], [0, 1, 0], [-1, 0, 2]]])
def test_another_cell_of_the_same_crystal_gives_the_same_environments(matrix):
    atoms = crystal(3, n_atoms=6)
    larger = make_supercell(atoms, matrix)
    (x,), (y,) = environments([atoms], ELEMENTS), environments([larger], ELEMENTS)
    distances = np.linalg.norm(y[:, None] - x[None], axis=2)
    assert distances.min(axis=1).max() < 1e-5
    copies = round(abs(np.linalg.det(matrix)))
    assert (np.bincount(distances.argmin(axis=1)) == copies).all()


def test_no_element_is_special():
    structures = [crystal(seed) for seed in range(3)]
    both = environments(structures, ELEMENTS), environments([relabelled(atoms) for atoms in structures], ELEMENTS)
    x, y = (np.vstack(sets).astype(float) for sets in both)
    distances = [np.linalg.norm(rows[:, None] - rows[None], axis=2) for rows in (x, y)]
    np.testing.assert_allclose(*distances, atol=1e-6)


def test_neighbours_at_equal_distance_leave_no_choice():
    # 18 neighbours in shells of 12 and 6: a list of the 15 nearest would have to choose among equals.
    atoms = bulk("Li", "fcc", a=4.0, cubic=True)
    reference = environments([atoms], ["Li"], 15, 5.0)[0][0]
    for seed in range(5):
        turned = atoms.copy()
        turned.rotate(40 * seed + 11, np.random.default_rng(seed).normal(size=3), rotate_cell=True)
        np.testing.assert_allclose(environments([turned], ["Li"], 15, 5.0)[0], [reference] * 4, atol=1e-6)


def test_shape_and_repeatability():
    structures = [crystal(4), crystal(5, n_atoms=7)]
    first, again = environments(structures, ELEMENTS, 10), environments(structures, ELEMENTS, 10)
    assert [x.shape for x in first] == [(12, 3 + 3 * 10 + 6 * 9), (7, 3 + 3 * 10 + 6 * 9)]
    assert all(np.array_equal(x, y) and x.dtype == np.float32 for x, y in zip(first, again, strict=True))
    assert environments([], ELEMENTS) == []


def test_an_atom_without_neighbours_has_only_its_mark():
    (x,) = environments([Atoms("P", cell=np.eye(3) * 20, pbc=True)], ELEMENTS, 4)
    assert x[0].tolist() == [0.0, 1.0, 0.0] + [0.0] * (x.shape[1] - 3)


def test_large_blocks_are_cut_without_changing_the_result(monkeypatch):
    structures = [crystal(6)]
    (expected,) = environments(structures, ELEMENTS)
    monkeypatch.setattr("chemloop.physics.descriptors.BLOCK_TERMS", 300)
    np.testing.assert_array_equal(environments(structures, ELEMENTS)[0], expected)


def test_another_element_is_named():
    atoms = crystal(7)
    atoms.numbers[0] = 11
    atoms.info["id"] = "i00-g000-0001"
    with pytest.raises(StructureError, match="i00-g000-0001 holds Na; only Li, P, S can be described"):
        environments([atoms], ELEMENTS)


def test_two_atoms_in_one_place_are_refused():
    atoms = Atoms("LiS", positions=[[0, 0, 0], [0, 0, 0]], cell=np.eye(3) * 4, pbc=True)
    for describe in (lambda s: environments(s, ELEMENTS), blind_environments):
        with pytest.raises(StructureError, match="structure 0 has two atoms in the same place"):
            describe([atoms])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda atoms: atoms.positions.__setitem__((0, 1), np.nan), "positions or cell vectors that are not finite"),
        (lambda atoms: atoms.__setattr__("pbc", [True, True, False]), "only crystals, periodic in three directions"),
        (lambda atoms: atoms.__delitem__(slice(None)), "structure 1 has no atoms"),
    ],
)
def test_what_is_no_crystal_is_refused(change, message):
    broken = crystal(8)
    change(broken)
    for describe in (lambda s: environments(s, ELEMENTS), blind_environments):
        with pytest.raises(StructureError, match=message):
            describe([crystal(7), broken])
