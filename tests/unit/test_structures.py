"""Structures on disk: what is written is read back, and what breaks the conventions is refused."""

import numpy as np
import pytest
from ase.build import bulk

from chemloop.physics.structures import (
    check_structure,
    energies_per_atom,
    read_structures,
    set_results,
    without,
    write_structures,
)
from chemloop.runtime.errors import StructureError


def frame():
    atoms = bulk("Li", "bcc", 3.4, cubic=True)
    atoms.info |= {"id": "i00-r0001", "parent": "i00-r0000", "converged": True, "e_above_hull": -0.01}
    return set_results(atoms, "label", -3.8, np.full((2, 3), 0.1), 0.01 * np.eye(3), "teacher-1")


@pytest.mark.parametrize("name", ["10023 10027", "0012", "1e5", "12.5", "F", "T", "nan", "1 2.5", "T F"])
def test_ids_that_look_like_something_else_stay_as_they_are(tmp_path, name):
    """Children of the crystals 10023.cif and 10027.cif have the parents `10023 10027`, which ASE reads as an array."""
    atoms = frame()
    atoms.info |= {"id": name, "parents": name, "note": "see id=7 id=8"}
    write_structures(tmp_path / "x.extxyz", [frame(), atoms, frame()])
    first, read, last = read_structures(tmp_path / "x.extxyz")
    assert (read.info["id"], read.info["parents"], read.info["note"]) == (name, name, "see id=7 id=8")
    assert first.info["id"] == last.info["id"] == "i00-r0001"


def test_everything_survives_the_disk(tmp_path):
    write_structures(tmp_path / "x.extxyz", [frame(), bulk("P", "sc", 2.4)])
    read, plain = read_structures(tmp_path / "x.extxyz")
    expected = frame()
    assert set(read.info) == set(expected.info) and set(plain.info) == set()
    assert (read.info["id"], read.info["converged"], read.info["energy_frame"]) == ("i00-r0001", True, "teacher-1")
    assert np.allclose(read.info["label_stress"], expected.info["label_stress"])
    assert np.allclose(read.arrays["label_forces"], 0.1)
    assert energies_per_atom([read], "label") == pytest.approx([-1.9])
    assert [path.name for path in tmp_path.iterdir()] == ["x.extxyz"]


def test_nothing_is_an_empty_file(tmp_path):
    write_structures(tmp_path / "none.extxyz", [])
    assert read_structures(tmp_path / "none.extxyz") == []


def test_forgetting_labels():
    bare = without(frame(), "label")
    assert set(bare.info) == {"id", "parent"} and "label_forces" not in bare.arrays
    assert "label_energy" in without(frame(), "mlff").info


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.info.update(id=7), "it must be a string"),
        (lambda a: a.info.update(label_energy=float("nan")), "i00-r0001: info.'label_energy'. is nan"),
        (lambda a: a.info.update(label_energy="low"), "it must be a finite number"),
        (lambda a: a.info.update(converged="yes"), "it must be true or false"),
        (lambda a: a.info.update(label_stress=np.zeros(6)), r"has shape \(6,\); finite numbers of shape \(3, 3\)"),
        (lambda a: a.arrays.update(label_forces=np.full((2, 3), np.inf)), r"finite numbers of shape \(2, 3\)"),
        (lambda a: a.positions.fill(np.nan), "not finite"),
        (lambda a: a.set_cell(np.zeros((3, 3))), "volume above zero"),
        (lambda a: a.set_pbc([True, True, False]), "periodic in three directions"),
        (lambda a: a.__delitem__([0, 1]), "has no atoms"),
    ],
)
def test_broken_conventions(change, message, tmp_path):
    atoms = frame()
    change(atoms)
    with pytest.raises(StructureError, match=message):
        check_structure(atoms)
    with pytest.raises(StructureError, match=message):
        write_structures(tmp_path / "x.extxyz", [atoms])
    assert list(tmp_path.iterdir()) == []


def test_bad_files(tmp_path):
    with pytest.raises(StructureError, match="no structure file"):
        read_structures(tmp_path / "absent.extxyz")
    write_structures(tmp_path / "x.extxyz", [frame()])
    whole = (tmp_path / "x.extxyz").read_text()
    (tmp_path / "x.extxyz").write_text(whole[: whole.rindex("Li")])
    with pytest.raises(StructureError, match="is not a readable extxyz file"):
        read_structures(tmp_path / "x.extxyz")
