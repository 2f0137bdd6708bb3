"""The matcher joins what pymatgen's joins, whatever the cell, and tells apart what differs among the references."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.io import read
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

import chemloop
from chemloop.physics.crystal_key import CrystalKey
from chemloop.physics.lattice_search import MAYBE, NO, YES, compare
from chemloop.physics.matching import Matcher, space_group
from chemloop.physics.nets import Net
from chemloop.physics.reduction import bonded_pieces, reduced_cell
from chemloop.runtime.errors import ConfigError, StructureError
from chemloop.stages.crystal_keys import read_keys, write_keys

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


def pieces(atoms: Atoms) -> list[tuple[str, int]]:
    return [(net.wl_hash, n) for net, n in bonded_pieces(atoms, BONDS)]


def test_bonded_pieces_are_counted_per_atom_not_per_cell(references):
    rng = np.random.default_rng(1)
    for name in ("mp-985583", "mp-1222635", "mp-157", "mp-10173"):
        assert pieces(references[name]) == pieces(disguised(references[name], rng, amplitude=0.0))
    li3ps4 = {len(net.symbols): n for net, n in bonded_pieces(references["mp-985583"], BONDS)}
    assert li3ps4 == {1: 3, 5: 1}  # lithium and PS4


def sulphur_chain(*lengths: int) -> Atoms:
    """Straight molecules in a row: bonds of 2.0 A, gaps of 2.4 A."""
    steps = np.concatenate([[2.0] * (length - 1) + [2.4] for length in lengths])
    positions = np.zeros((len(steps), 3))
    positions[:, 0] = np.cumsum(steps) - steps
    return Atoms(f"S{len(steps)}", positions, cell=[steps.sum(), 5, 6], pbc=True)


def test_bond_graphs_separate_what_numbers_of_bonds_do_not():
    """S2 + S5 and S3 + S4: four atoms with one bond and three with two, and the same positions within 0.4 A."""
    structures = [sulphur_chain(2, 5), sulphur_chain(3, 4), sulphur_chain(5, 2)]
    assert Matcher().duplicates(structures) == [0, 0, 0]
    assert Matcher(bond_cutoffs=BONDS).duplicates(structures) == [0, 1, 0]


def test_rings_are_compared_beyond_their_hashes():
    """Two fused six-membered rings and two linked five-membered ones have equal Weisfeiler-Lehman colours."""
    fused = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (5, 6), (6, 7), (7, 8), (8, 9), (9, 0)]
    linked = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (5, 6), (6, 7), (7, 8), (8, 9), (9, 5), (0, 5)]
    nets = [Net(("S",) * 10, tuple((i, j, (0, 0, 0)) for i, j in bonds)) for bonds in (fused, linked)]
    empty = np.zeros((0, 3))
    keys = [CrystalKey(np.zeros(0, int), empty, empty, ((net, 1),)) for net in nets]
    assert keys[0].bucket == keys[1].bucket
    assert keys[0].has_nets_of(keys[0]) and not keys[0].has_nets_of(keys[1])


@pytest.mark.parametrize("stol", [0.1, 0.2, 0.3])
def test_what_the_search_is_certain_of_the_matcher_says(references, excluded, stol):
    rng = np.random.default_rng(5)
    matcher, theirs = Matcher(stol=stol), StructureMatcher(stol=stol)
    seen = Counter()
    for atoms in [*references.values(), *excluded.values()]:
        if not 2 <= len(atoms) <= 10:
            continue
        copies = [atoms, *(displaced(atoms, amplitude, rng) for amplitude in (0.1, 0.5, 0.9, 1.2))]
        first, *others = matcher.keys(copies)
        for other in others:
            if other.bucket == first.bucket:
                verdict = compare(*first.search_terms, *other.search_terms, 0.2, stol, 5.0)
                seen[verdict, bool(theirs.fit(first.structure, other.structure, skip_structure_reduction=True))] += 1
    assert seen[YES, False] == seen[NO, True] == 0
    assert seen[YES, True] > 20 and seen[NO, False] > 20
    assert seen[MAYBE, True] + seen[MAYBE, False] < 0.3 * seen.total()


def displaced(atoms: Atoms, amplitude: float, rng: np.random.Generator) -> Atoms:
    other = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    other.positions += amplitude * rng.uniform(-1, 1, size=other.positions.shape)
    other.set_cell(other.cell.array @ (np.eye(3) + rng.uniform(-0.08, 0.08, size=(3, 3))), scale_atoms=True)
    return other


def test_reduced_cell_is_that_of_structure_matcher(references):
    rng = np.random.default_rng(2)
    small = [atoms for atoms in references.values() if len(atoms) <= 12]
    for atoms in [*small, *(disguised(atoms, rng) for atoms in small[::3])]:
        numbers, cell, positions = reduced_cell(atoms)
        expected = StructureMatcher._get_reduced_structure(as_pymatgen(atoms))
        assert numbers.tolist() == list(expected.atomic_numbers)
        np.testing.assert_allclose(cell, expected.lattice.matrix, atol=1e-9)
        difference = positions - expected.frac_coords
        np.testing.assert_allclose(difference, np.round(difference), atol=1e-9)


def test_processes_and_stored_keys_change_nothing(references, tmp_path):
    matcher = Matcher(bond_cutoffs=BONDS)
    structures = list(references.values())
    keys = matcher.keys(structures)
    write_keys(tmp_path / "keys.jsonl", keys, BONDS)
    stored = read_keys(tmp_path / "keys.jsonl", BONDS)
    expected = matcher.duplicates(structures)
    assert matcher.duplicates(stored) == expected
    assert matcher.duplicates([*structures[:30], *stored[30:]], n_jobs=2) == expected
    assert matcher.is_known(stored[::2], structures[1::2], n_jobs=2) == matcher.is_known(structures[::2], keys[1::2])
    with pytest.raises(StructureError, match=r"were found with bond_cutoffs = .*, not \{\}; delete them"):
        read_keys(tmp_path / "keys.jsonl", {})
    (tmp_path / "keys.jsonl").write_text("{")
    with pytest.raises(StructureError, match=r"keys.jsonl is no file of crystal keys"):
        read_keys(tmp_path / "keys.jsonl", BONDS)


def test_one_structure_identical_structures_one_element():
    lithium = bulk("Li", "bcc", 3.4)
    for matcher in (Matcher(), Matcher(bond_cutoffs=BONDS)):
        assert matcher.duplicates([lithium]) == [0]
        assert matcher.duplicates([lithium] * 4) == [0, 0, 0, 0]
        assert matcher.is_known([lithium], [lithium]) == [True]


def test_structures_that_cannot_be_matched():
    broken = bulk("Li", "bcc", 3.4)
    broken.positions[0, 0] = np.nan
    broken.info["id"] = "i01-g000-0007"
    with pytest.raises(StructureError, match="i01-g000-0007 has positions or cell vectors that are not finite"):
        Matcher().duplicates([broken])
    with pytest.raises(StructureError, match="only crystals, periodic in three directions"):
        Matcher().is_known([Atoms("S2", [[0, 0, 0], [0, 0, 2]])], [])


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
