"""What makes two calculations the same one, so that one label serves both."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from chemloop.labeler.ase import AseLabeler
from chemloop.labeler.gpaw import GpawLabeler
from chemloop.labeler.teacher import TeacherLabeler
from chemloop.runtime.label_cache import LabelCache
from chemloop.stages.labelling import Labelled, LabelSettings, Protocol


@pytest.mark.parametrize("kind", [GpawLabeler, AseLabeler, TeacherLabeler])
def test_limits_of_a_relaxation_are_not_the_level_of_theory(kind):
    labelers = [kind(), kind(fmax=0.01), kind(max_steps=7)]
    assert len({labeler.settings_id() for labeler in labelers}) == 1
    assert len({labeler.relaxation_id() for labeler in labelers}) == 3


def rocksalt() -> Atoms:
    """Strained and rattled, so that no two atoms are alike."""
    atoms = bulk("NaCl", "rocksalt", 5.6, cubic=True)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * np.arange(9).reshape(3, 3) / 8), scale_atoms=True)
    atoms.rattle(0.1, seed=0)
    return atoms


def shuffled(atoms: Atoms, seed: int = 1) -> tuple[Atoms, np.ndarray]:
    """The same crystal, its atoms in another order and other images of the cell; and that order."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(atoms))
    other = atoms[order]
    other.positions += rng.integers(-2, 3, size=(len(atoms), 3)) @ atoms.cell.array
    return other, order


def key(atoms: Atoms, folder: Path) -> str:
    return LabelCache(folder).key(atoms, "static", "a")


@pytest.mark.parametrize("seed", range(5))
def test_order_and_images_of_atoms_do_not_matter(tmp_path, seed):
    assert key(shuffled(rocksalt(), seed)[0], tmp_path) == key(rocksalt(), tmp_path)


def test_border_of_the_cell_parts_no_atom_from_itself(tmp_path):
    atoms = bulk("NaCl", "rocksalt", 5.6, cubic=True)
    keys = {key(atoms, tmp_path)}
    for noise in (1e-12, -1e-12):
        moved = atoms.copy()
        moved.positions += noise
        keys.add(key(moved, tmp_path))
        moved.wrap()
        keys.add(key(moved, tmp_path))
    assert len(keys) == 1


def test_other_crystals_are_other_calculations(tmp_path):
    atoms = rocksalt()
    swapped, moved, shifted, rotated = atoms.copy(), atoms.copy(), atoms.copy(), atoms.copy()
    swapped.numbers[[0, 1]] = swapped.numbers[[1, 0]]
    moved.positions[3, 2] += 1e-5
    shifted.positions += 0.1
    rotated.rotate(10, "z", rotate_cell=True)
    others = (swapped, moved, shifted, rotated, atoms * (2, 1, 1))
    assert len({key(other, tmp_path) for other in (atoms, *others)}) == 6


@pytest.mark.parametrize("kind", ["relax", "static"])
def test_label_of_the_same_crystal_comes_in_the_order_of_who_asks(tmp_path, kind):
    labeler = AseLabeler(0.05, 3, {"_target_": "ase.calculators.lj.LennardJones", "sigma": 2.2, "rc": 5.0})
    first = Protocol(labeler, LabelSettings(), LabelCache(tmp_path))
    computed = first.compute(rocksalt(), kind, Labelled())
    other, order = shuffled(rocksalt())
    result = Labelled()
    found = first.compute(other, kind, result)
    assert (result.n_computed, result.n_from_cache) == (0, 1)
    fresh = Protocol(labeler, LabelSettings(), LabelCache(tmp_path / "empty")).compute(other, kind, Labelled())
    again = first.compute(rocksalt(), kind, Labelled())
    assert [frame.info.keys() for frame in again] == [frame.info.keys() for frame in computed]
    assert all((a.positions == b.positions).all() for a, b in zip(again, computed, strict=True))
    for frame, here, there in zip(found, fresh, computed, strict=True):
        assert list(frame.numbers) == list(other.numbers)
        assert frame.arrays["label_forces"] == pytest.approx(here.arrays["label_forces"], abs=1e-6)
        assert frame.arrays["label_forces"] == pytest.approx(there.arrays["label_forces"][order], abs=1e-7)
        shifts = frame.get_scaled_positions(False) - here.get_scaled_positions(False)
        assert shifts == pytest.approx(np.rint(shifts), abs=1e-6)
        assert frame.info["label_energy"] == pytest.approx(here.info["label_energy"], abs=1e-6)
    assert np.abs(found[0].arrays["label_forces"]).max() > 0.1
    assert found[0].arrays["label_forces"] != pytest.approx(computed[0].arrays["label_forces"], abs=1e-2)


def test_order_is_that_of_the_structure_not_of_its_first_frame(tmp_path):
    """A relaxation may be known from its second step on only, and steps may be rounded."""
    start = bulk("NaCl", "rocksalt", 5.6, cubic=True)
    moved = start.copy()
    moved.positions = moved.positions[::-1] + 0.01
    moved.arrays["tag"] = np.arange(8.0)
    cache = LabelCache(tmp_path)
    cache.put("ab", [moved], start)
    (found,) = cache.get("ab", start) or []
    assert list(found.arrays["tag"]) == list(range(8))
    (canonical,) = cache.get("ab") or []
    assert list(canonical.numbers) == [11] * 4 + [17] * 4
