"""Compositions, and the geometry that known structures lend them."""

import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk
from pymatgen.core import Composition, Element

from chemloop.physics.composition import (
    cell_compositions,
    composition_probabilities,
    distance_to_known,
    is_charge_balanced,
    missing_from_hull,
    n_compositions,
)
from chemloop.physics.geometry import KnownGeometry, closest_contact, overlap, pair_limits, separate
from chemloop.physics.wyckoff import n_point_operations, random_crystal, random_occupation, space_group

NUMBERS = [3, 15, 16]


def test_every_cell_is_listed_once():
    counts = cell_compositions(3, 1, 8)
    assert len(counts) == n_compositions(3, 8) == len(np.unique(counts, axis=0))
    assert counts.sum(axis=1).min() == 1 and counts.sum(axis=1).max() == 8
    assert set(cell_compositions(2, 3, 3).sum(axis=1)) == {3} and len(cell_compositions(2, 3, 3)) == 4


def test_charge_balance():
    counts = {"Li2S": 1, "Li3P": 1, "Li3PS4": 1, "Li4P2S6": 1, "Li7P3S11": 1, "P2S5": 1, "Li6": 1, "Li3S": 0, "P4S3": 0}
    symbols = ["Li", "P", "S"]
    elements = [Element(symbol) for symbol in symbols]
    rows = np.array([[Composition(formula)[symbol] for symbol in symbols] for formula in counts]).astype(int)
    balanced = is_charge_balanced(rows, [e.icsd_oxidation_states for e in elements], [e.X for e in elements])
    assert balanced.tolist() == [bool(n) for n in counts.values()]


def test_charge_balance_agrees_with_pymatgens_guesses():
    counts = cell_compositions(2, 2, 6)
    elements = [Element("Li"), Element("S")]
    states = [e.icsd_oxidation_states for e in elements]
    balanced = is_charge_balanced(counts, states, [e.X for e in elements])
    for (a, b), is_balanced in zip(counts, balanced, strict=True):
        guesses = Composition({"Li": a, "S": b}).oxi_state_guesses()
        alike = [guess for guess in guesses if all(value in (*states[0], *states[1], 0) for value in guess.values())]
        assert is_balanced == bool(alike), (a, b, guesses)


def test_a_cation_is_less_electronegative_than_an_anion():
    assert is_charge_balanced(np.array([[1, 1]]), [[-1], [1]], [3.0, 1.0]).all()
    assert not is_charge_balanced(np.array([[1, 1]]), [[-1], [1]], [1.0, 3.0]).any()


def test_distance_to_known_counts_exchanged_atoms():
    known = np.array([[3, 1, 4], [1, 0, 0]])
    assert distance_to_known(np.array([[6, 2, 8], [4, 0, 4], [4, 0, 0]]), known) == pytest.approx([0, 1 / 8, 0])


def test_probabilities_follow_the_shares():
    counts = cell_compositions(3, 1, 6)
    flat = np.ones(len(counts))
    p = composition_probabilities(counts, [0.2, 0.3, 0.5], flat)
    n_different = (counts > 0).sum(axis=1)
    assert [p[n_different == k].sum() for k in (1, 2, 3)] == pytest.approx([0.2, 0.3, 0.5])
    li_p = (counts > 0) @ [1, 2, 4] == 3
    n_atoms = counts.sum(axis=1)
    assert [p[li_p & (n_atoms == n)].sum() for n in range(2, 7)] == pytest.approx([0.1 / 5] * 5)
    preferred = np.where((counts == [2, 0, 1]).all(axis=1), 10.0, 1.0)
    biased = composition_probabilities(counts, [0.2, 0.3, 0.5], preferred)
    other = (counts == [1, 0, 2]).all(axis=1)
    assert biased[preferred > 1] == pytest.approx(10 * biased[other])
    assert composition_probabilities(counts, [1.0], flat)[n_different == 3].sum() == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="no composition"):
        composition_probabilities(cell_compositions(3, 1, 1), [0.0, 1.0], np.ones(3))


def test_what_the_hull_misses():
    counts = cell_compositions(3, 8, 8)
    nothing = np.zeros((0, 3), dtype=int)

    def missing(phases, tried, energies):
        values = missing_from_hull(counts, np.array(phases), np.array(tried), np.array(energies))
        assert values.min() == 0 or len(set(values)) == 1
        return lambda of: values[(counts == of).all(axis=1)].item()

    assert len(set(missing_from_hull(counts, nothing, nothing, np.zeros(0)))) == 1, "nothing is known: no preference"
    of = missing([[2, 0, 1], [3, 1, 4]], [[3, 1, 4], [4, 2, 2], [1, 6, 1]], [0.0, 0.0, 0.5])
    assert of([4, 2, 2]) == 1, "low, and no phase there"
    assert of([4, 2, 2]) > of([2, 2, 4]) > of([1, 6, 1]), "what was not tried lies in between"
    assert of([4, 2, 2]) > of([3, 1, 4]), "there is a phase already"
    once, often = (missing(nothing, [[1, 6, 1]] * n + [[7, 1, 0]], [0.5] * n + [0.0]) for n in (1, 20))
    assert once([1, 6, 1]) == often([1, 6, 1]) == 0
    crowded = missing([[3, 1, 4]] * 5 + [[4, 2, 2]], nothing, np.zeros(0))
    assert crowded([3, 1, 4]) < crowded([4, 2, 2]) < crowded([2, 2, 4])


def test_known_geometry_is_that_of_the_nearest_compositions():
    lithium, phosphorus = bulk("Li", "bcc", 3.4), bulk("P", "sc", 2.4)
    rocksalt = bulk("LiS", "rocksalt", 5.0)
    known = KnownGeometry.of([lithium, phosphorus, rocksalt], NUMBERS)
    limits, volumes = known.near(np.array([2, 0, 2]), 1)
    assert volumes == pytest.approx([15.625, 15.625])
    assert limits[0, 2] == limits[2, 0] == pytest.approx(2.5)
    assert limits[0, 0] == pytest.approx(5 / np.sqrt(2))  # of LiS, not of the metal
    assert limits[1, 1] == pytest.approx(2.4)
    assert limits[0, 1] == pytest.approx(pair_limits(NUMBERS, 0.9)[0, 1])  # never in contact: covalent radii
    limits, volumes = known.near(np.array([2, 0, 2]), None)
    assert volumes == pytest.approx([2.4**3, 3.4**3 / 2])
    assert limits[0, 0] == pytest.approx(3.4 * np.sqrt(3) / 2)


def test_contacts_include_periodic_images():
    atoms = Atoms("Li", cell=[1.0, 5.0, 5.0], pbc=True)
    assert closest_contact(atoms) == (0, 0, pytest.approx(1.0), pytest.approx(1 / 2.56))
    assert closest_contact(Atoms("Li", cell=[9.0, 9.0, 9.0], pbc=True))[2] == np.inf


def test_pushing_keeps_volume_and_reaches_the_limits():
    rng = np.random.default_rng(0)
    limits = pair_limits(NUMBERS, 0.9)
    atoms = Atoms(
        "Li4P2S6", scaled_positions=rng.random((12, 3)), cell=6.0 * np.eye(3) + rng.normal(0, 0.3, (3, 3)), pbc=True
    )
    volume = atoms.cell.volume
    assert overlap(atoms, limits, NUMBERS) > 1
    assert separate(atoms, limits, NUMBERS, 500)
    assert overlap(atoms, limits, NUMBERS) <= 1
    assert atoms.cell.volume == pytest.approx(volume)


def test_pushing_gives_up_where_there_is_no_room():
    atoms = Atoms("S4", scaled_positions=np.random.default_rng(0).random((4, 3)), cell=2.0 * np.eye(3), pbc=True)
    assert not separate(atoms, pair_limits(NUMBERS, 0.9), NUMBERS, 20)
    assert np.isfinite(atoms.positions).all()
    assert not separate(Atoms("S2", cell=5 * np.eye(3), pbc=True), pair_limits(NUMBERS, 0.9), NUMBERS, 20)


def test_point_groups():
    orders = n_point_operations()
    assert [orders[number - 1] for number in (1, 2, 62, 166, 194, 225)] == [1, 2, 8, 12, 24, 48]


@pytest.mark.parametrize("number", [2, 5, 14, 43, 62, 121, 148, 166, 186, 205, 225, 227])
def test_crystals_keep_their_symmetry_when_pushed(number):
    rng = np.random.default_rng(number)
    group = space_group(number)
    counts = np.array([8, 0, 4])
    limits = pair_limits(NUMBERS, 0.8)
    occupation = next(found for _ in range(200) if (found := random_occupation(group, counts, rng)))
    crystal = random_crystal(group, occupation, np.array(NUMBERS), 20.0, 2.0, rng)
    separate(crystal, limits, NUMBERS, 100)
    assert crystal.get_chemical_formula() in ("Li8S4", "Li4S2", "Li2S")
    cell = (crystal.cell.array, crystal.get_scaled_positions(), crystal.numbers)
    found = spglib.get_symmetry_dataset(cell, symprec=1e-3)
    n_operations = len(np.unique(found.rotations, axis=0))
    assert n_operations % n_point_operations()[number - 1] == 0
