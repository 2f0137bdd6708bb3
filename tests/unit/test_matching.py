"""The matcher joins what pymatgen's joins, whatever the cell, and tells apart what differs among the references."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.io import read
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

import chemloop
from chemloop.physics.matching import Matcher, bond_counts, space_group
from chemloop.runtime.errors import ConfigError

DATA = Path(chemloop.__file__).parent / "data" / "li-p-s"
BONDS = {"P-S": 2.35, "S-S": 2.20, "P-P": 2.50}


@pytest.fixture(scope="module")
def references() -> dict[str, Atoms]:
    return {atoms.info["name"]: atoms for atoms in read(DATA / "reference.extxyz", index=":")}


@pytest.fixture(scope="module")
def excluded() -> dict[str, Atoms]:
    return {atoms.info["name"]: atoms for atoms in read(DATA / "mp_excluded.extxyz", index=":")}


def disguised(atoms: Atoms, rng: np.random.Generator, amplitude: float = 0.03) -> Atoms:
    """The same crystal: rotated, shifted, reordered, expanded, displaced a little, in a cell of twice the size."""
    other = make_supercell(atoms, [[1, 1, 0], [0, 1, 0], [0, 1, 2]])
    other = other[rng.permutation(len(other))]
    other.positions += rng.normal(scale=amplitude / np.sqrt(3), size=(len(other), 3)) + rng.normal(size=3)
    other.set_cell(other.cell.array * 1.08, scale_atoms=True)
    other.rotate(37, (1, 2, 3), rotate_cell=True)
    other.wrap()
    return other


def as_pymatgen(atoms: Atoms) -> Structure:
    return Structure(atoms.cell.array, atoms.get_chemical_symbols(), atoms.get_scaled_positions())


@pytest.mark.parametrize("settings", [{}, {"stol": 0.3}, {"ltol": 0.05, "stol": 0.05, "angle_tol": 2.0}])
def test_partition_is_that_of_structure_matcher(references, excluded, settings):
    rng = np.random.default_rng(3)
    small = [atoms for atoms in [*references.values(), *excluded.values()] if len(atoms) <= 12]
    structures = small + [disguised(atoms, rng) for atoms in small]
    structures = [structures[index] for index in rng.permutation(len(structures))]
    matcher = Matcher(**settings)
    numbered = [as_pymatgen(atoms) for atoms in structures]
    for number, structure in enumerate(numbered):
        structure.add_site_property("number", [number] * len(structure))
    plain = StructureMatcher(**{"ltol": 0.2, "stol": 0.2, "angle_tol": 5.0} | settings)
    expected = list(range(len(structures)))
    for group in plain.group_structures(numbered):
        members = [structure[0].properties["number"] for structure in group]
        for member in members:
            expected[member] = members[0]
    first = matcher.duplicates(structures)
    assert first == expected
    assert len(set(first)) < 0.7 * len(structures)
    known, new = structures[::2], structures[1::2]
    expected_known = [any(plain.fit(as_pymatgen(k), as_pymatgen(s)) for k in known) for s in new]
    assert matcher.is_known(new, known) == expected_known


def test_first_of_a_group_is_the_earliest():
    lithium, sulphur = bulk("Li", "bcc", 3.4), bulk("S", "sc", 2.6)
    rng = np.random.default_rng(0)
    assert Matcher().duplicates([sulphur, lithium, disguised(lithium, rng), disguised(sulphur, rng)]) == [0, 1, 1, 0]
    assert Matcher().duplicates([]) == []
    assert Matcher().is_known([lithium], []) == [False]
    assert Matcher().is_known([], [lithium]) == []


def test_references_under_the_default_tolerances(references, excluded):
    structures = list(references.values())
    names = list(references)
    first = Matcher().duplicates(structures)
    joined = {(names[index], names[number]) for number, index in enumerate(first) if index != number}
    # The first pair is one crystal: the entry called cI16 has relaxed to bcc. The second needs bonds, see below.
    assert joined == {("mp-567337", "mp-135"), ("mp-130", "mp-7245")}
    known = Matcher().is_known(list(excluded.values()), structures)
    copies = {name for name, is_known in zip(excluded, known, strict=True) if is_known}
    assert copies == {"mp-666931", "mp-723352", "mp-1179643"}
    for name in copies:
        assert "copy" in excluded[name].info["excluded_because"]


def test_pymatgens_site_tolerance_joins_more(references, excluded):
    pair = [references["mp-1064933"]], [excluded["mp-1179639"]]
    assert Matcher(stol=0.3).is_known(*pair) == [True]
    assert Matcher().is_known(*pair) == [False]


def test_bonds_separate_what_no_sensible_tolerance_does(references):
    a7, imma = references["mp-130"], references["mp-7245"]
    assert Matcher(stol=0.05).is_known([a7], [imma]) == [True]
    assert Matcher(bond_cutoffs=BONDS).is_known([a7], [imma]) == [False]
    structures = list(references.values())
    first = Matcher(bond_cutoffs=BONDS).duplicates(structures)
    assert sum(index != number for number, index in enumerate(first)) == 1


def test_bonds_are_counted_per_atom_not_per_cell(references):
    rng = np.random.default_rng(1)
    for name in ("mp-985583", "mp-1222635", "mp-157", "mp-10173"):
        atoms = references[name]
        assert bond_counts(atoms, BONDS) == bond_counts(disguised(atoms, rng, amplitude=0.0), BONDS)
    li3ps4 = bond_counts(references["mp-985583"], BONDS)
    assert li3ps4 == ((("Li", ()), 3), (("P", (("S", 4),)), 1), (("S", (("P", 1),)), 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ltol": 0.0}, r"loop.screen.matcher.ltol = 0.0: must be above 0"),
        ({"stol": -0.2}, r"matcher.stol = -0.2"),
        ({"angle_tol": float("nan")}, r"matcher.angle_tol = nan"),
        ({"bond_cutoffs": {"P-S": 0.0}}, r"bond_cutoffs has P-S: 0.0; two elements"),
        ({"bond_cutoffs": {"PS": 2.0}}, r"bond_cutoffs has PS: 2.0; two elements"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        Matcher(**settings)


def test_space_groups(references):
    for name in ("mp-985583", "mp-1153", "mp-641703"):
        assert space_group(references[name]) == references[name].info["spacegroup"]
    overlapping = Atoms("Li2", positions=[[0, 0, 0], [0, 0, 0.01]], cell=[3, 3, 3], pbc=True)
    assert space_group(overlapping) == "-"
