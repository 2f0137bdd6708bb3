"""Fingerprints: what they tell, what must not change them, sites without any; maps of few and of equal points."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell

import chemloop
from chemloop.physics import fingerprints
from chemloop.physics.fingerprints import N_FEATURES, embed, featurizer, site_fingerprints, structure_fingerprint
from chemloop.physics.oxidation import guess_oxidation_states
from chemloop.physics.structures import read_structures
from chemloop.runtime.errors import StructureError

REFERENCES = read_structures(Path(chemloop.__file__).parent / "data" / "li-p-s" / "reference.extxyz")


def rattled(atoms: Atoms, seed: int) -> Atoms:
    copy = atoms.copy()
    rng = np.random.default_rng(seed)
    copy.set_cell(copy.cell.array @ (np.eye(3) + rng.normal(scale=0.03, size=(3, 3))), scale_atoms=True)
    copy.positions += rng.normal(scale=0.15, size=copy.positions.shape)
    return copy


def small_references(n: int) -> list[Atoms]:
    """The smallest of each composition."""
    smallest: dict[str, Atoms] = {}
    for atoms in sorted(REFERENCES, key=len):
        smallest.setdefault(atoms.symbols.formula.reduce()[0].format("hill"), atoms)
    return list(smallest.values())[:n]


def test_every_feature_has_a_label():
    assert len(featurizer().feature_labels()) == N_FEATURES


def test_a_structure_is_the_mean_of_its_sites():
    atoms = rattled(small_references(8)[-1], 1)
    np.testing.assert_allclose(structure_fingerprint(atoms, None), site_fingerprints(atoms).mean(axis=0), atol=1e-12)


def test_tetrahedra_and_octahedra_are_told():
    labels = featurizer().feature_labels()
    octahedral, tetrahedral = labels.index("octahedral CN_6"), labels.index("tetrahedral CN_4")
    rocksalt = structure_fingerprint(bulk("NaCl", "rocksalt", a=5.64), None)
    zincblende = structure_fingerprint(bulk("ZnS", "zincblende", a=5.41), None)
    assert rocksalt[octahedral] > 0.95 and rocksalt[tetrahedral] == 0.0
    assert zincblende[tetrahedral] > 0.95 and zincblende[octahedral] == 0.0


def test_choice_of_cell_and_orientation_change_nothing():
    atoms = rattled(small_references(8)[-1], 3)
    moved = make_supercell(atoms, [[1, 1, 0], [0, 1, 0], [0, 0, 2]])
    moved.rotate(37.0, (1, 2, 3), rotate_cell=True)
    moved.positions += [0.3, -7.0, 11.0]
    moved = moved[np.random.default_rng(1).permutation(len(moved))]
    for leave_out in (None, "Li"):
        expected = structure_fingerprint(atoms, leave_out)
        np.testing.assert_allclose(structure_fingerprint(moved, leave_out), expected, atol=1e-6)


def test_the_framework_is_that_of_the_structure_without_the_ion():
    atoms = next(atoms for atoms in REFERENCES if set(atoms.get_chemical_symbols()) == {"Li", "P", "S"})
    framework = structure_fingerprint(atoms, "Li")
    assert not np.allclose(framework, structure_fingerprint(atoms, None), atol=1e-2)
    bound = site_fingerprints(atoms)[[symbol != "Li" for symbol in atoms.get_chemical_symbols()]]
    assert not np.allclose(framework, bound.mean(axis=0), atol=1e-2)
    np.testing.assert_array_equal(structure_fingerprint(atoms, "Na"), structure_fingerprint(atoms, None))


def test_what_has_no_fingerprint_is_counted_with_a_reason(monkeypatch):
    class Lost:
        def featurize(self, structure, site):
            if site == 1:
                raise RuntimeError("no neighbors")
            return np.zeros(N_FEATURES)

    reasons: Counter[str] = Counter()
    assert np.isnan(structure_fingerprint(bulk("Li", "bcc", a=3.5), "Li", reasons)).all()
    assert np.isfinite(structure_fingerprint(bulk("Li", "bcc", a=3.5), None, reasons)).all()
    monkeypatch.setattr(fingerprints, "featurizer", Lost)
    rows = site_fingerprints(bulk("LiS", "rocksalt", a=5.0), reasons)
    np.testing.assert_array_equal(np.isnan(rows).all(axis=1), [False, True])
    assert reasons == {"there are no atoms besides Li": 1, "CrystalNN: no neighbors": 1}
    with pytest.raises(StructureError, match="not finite"):
        site_fingerprints(Atoms("S", positions=[[np.nan, 0, 0]], cell=[3, 3, 3], pbc=True))


def test_atoms_far_apart_have_no_neighbours_and_a_fingerprint_of_zeros():
    reasons: Counter[str] = Counter()
    for cell in ([12, 12, 12], [4.5, 4.5, 40]):
        assert not structure_fingerprint(Atoms("S", cell=cell, pbc=True), None, reasons).any()
    assert not reasons


def test_no_warning_is_raised():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for atoms in small_references(5):
            structure_fingerprint(atoms, "P")


@pytest.mark.parametrize(
    "formula", ["Li3PS4", "Li7P3S11", "Li4P2S6", "LiP7", "Li5PS2", "Li2S", "PS", "Li10Ge1P2S12", "Na3"]
)
def test_oxidation_states_are_pymatgens_first_guess(formula):
    from pymatgen.core import Composition

    composition = Composition(formula)
    guesses = composition.oxi_state_guesses(max_sites=-1)
    counts = composition.reduced_composition.get_el_amt_dict()
    states = guess_oxidation_states(tuple((symbol, int(number)) for symbol, number in counts.items()))
    assert dict(states) == pytest.approx(guesses[0] if guesses else dict.fromkeys(counts, 0.0))


def test_oxidation_states_of_a_hundred_atoms_take_no_minutes():
    begin = time.process_time()
    states = guess_oxidation_states((("Li", 41), ("P", 20), ("S", 60)))
    assert time.process_time() - begin < 10.0
    assert sum(states[symbol] * n for symbol, n in (("Li", 41), ("P", 20), ("S", 60))) == pytest.approx(0.0)


def test_map_keeps_groups_together_and_is_the_same_again():
    rng = np.random.default_rng(0)
    rows = rng.normal(scale=0.01, size=(60, N_FEATURES))
    rows[30:, 5] += 1.0
    rows[7] = np.nan
    points = embed(rows, seed=1)
    np.testing.assert_array_equal(points, embed(rows, seed=1))
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(points).any(axis=1)), [7])
    np.testing.assert_array_equal(np.delete(points, 7, axis=0), embed(np.delete(rows, 7, axis=0), seed=1))
    first, second = np.delete(points[:30], 7, axis=0), points[30:]
    gap = np.linalg.norm(first.mean(axis=0) - second.mean(axis=0))
    assert gap > 2.0 * max(first.std(), second.std())


def test_maps_of_few_and_of_equal_points():
    rows = np.random.default_rng(0).random((5, N_FEATURES))
    assert embed(rows[:0], seed=0).shape == (0, 2)
    np.testing.assert_array_equal(embed(rows[:1], seed=0), [[0.0, 0.0]])
    np.testing.assert_array_equal(embed(rows[:2], seed=0), [[-1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_array_equal(embed(rows[[0, 0, 0, 0]], seed=0), np.zeros((4, 2)))
    assert np.isnan(embed(np.full((3, N_FEATURES), np.nan), seed=0)).all()
    for n in (3, 4, 5):
        points = embed(rows[:n], seed=0)
        assert np.isfinite(points).all() and len(np.unique(points.round(3), axis=0)) == n
    assert np.isfinite(embed(rows[[0, 0, 0, 1]], seed=0)).all()
