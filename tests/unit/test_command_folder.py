"""What is read from the files of an external program: structures, or the reason why there are none."""

from collections import Counter

import pytest
from ase.build import bulk
from ase.io import write

from chemloop.generator.command_folder import read_outputs
from chemloop.generator.prototypes import files
from chemloop.physics.structures import is_partial
from chemloop.reference import read_reference
from chemloop.runtime.errors import ItemFailed

SALT = bulk("NaCl", "rocksalt", 5.64)


def with_comment(path, occupancy):
    """A file as some programs write it, whose comment line has an `occupancy` that is not ASE's."""
    crystal = SALT.copy()
    crystal.info["occupancy"] = occupancy
    write(path, crystal)


@pytest.mark.parametrize("occupancy", [0.5, "full", {"Na": 0.5}, [1, 0.5]])
def test_an_occupancy_that_says_nothing_of_sites(occupancy, tmp_path):
    with_comment(tmp_path / "a.extxyz", occupancy)
    made, unusable = read_outputs(tmp_path, "*.extxyz", None)
    assert made == [SALT] and not unusable
    assert [atoms for _, atoms in files(tmp_path / "a.extxyz")] == [SALT]
    assert read_reference(str(tmp_path / "a.extxyz"), ["Na", "Cl"], 0.5, "") == [SALT]


@pytest.mark.parametrize(
    ("site", "expected"), [({"Na": 1.0}, False), ({"Na": 0.9}, True), ({"Na": 0.5, "K": 0.5}, True), ({}, False)]
)
def test_partial_occupancy_as_ase_reads_it(site, expected):
    crystal = SALT.copy()
    assert not is_partial(crystal)
    crystal.info["occupancy"] = {"0": site, "1": {"Cl": 1.0}}
    assert is_partial(crystal) is expected


@pytest.mark.parametrize("kind", ["cif", "extxyz"])
def test_files_without_structures(kind, tmp_path):
    """ASE reads an empty file of a format that it is told as no structures, without an error."""
    (tmp_path / f"a.{kind}").touch()
    (tmp_path / f"b.{kind}").touch()
    with pytest.raises(ItemFailed, match=rf"a.{kind} holds no structure; so it is with all 2 files"):
        read_outputs(tmp_path, f"*.{kind}", kind)
    write(tmp_path / f"c.{kind}", SALT)
    made, unusable = read_outputs(tmp_path, f"*.{kind}", kind)
    assert len(made) == 1 and unusable == Counter({"file without structures": 2})
