"""Anion motifs: told apart, the same in every cell, named, charged, and catalogued."""

from __future__ import annotations

import io
import json
import time
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import make_supercell
from ase.io import read
from scipy.optimize import minimize

import chemloop
from chemloop.physics.motif_names import charges_of, is_open, name_of, octet_charge
from chemloop.physics.motifs import MotifCatalogue, find_motifs, xyz_text
from chemloop.physics.nets import Net, bonds_of, is_same_net, refine
from chemloop.runtime.errors import StructureError

CUTOFFS = {"P-S": 2.35, "S-S": 2.20, "P-P": 2.50}
LENGTHS = {"PS": 2.05, "SS": 2.08, "PP": 2.25}
REFERENCES = Path(chemloop.__file__).parent / "data" / "li-p-s" / "reference.extxyz"

# Backbone, bonds in it (those that lead into the next cell marked by 1), terminal S on each backbone atom, charge.
TABLE_1 = {
    "PS4^3-": ("P", [], [4], "molecule"),
    "P2S6^2-": ("PSPS", [(0, 1), (1, 2), (2, 3), (3, 0)], [2, 0, 2, 0], "ring"),
    "P2S7^4-": ("PSP", [(0, 1), (1, 2)], [3, 0, 3], "molecule"),
    "P3S9^3-": ("PSPSPS", [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0)], [2, 0] * 3, "ring"),
    "(PS3)_n^n-": ("PSPS", [(0, 1), (1, 2), (2, 3), (3, 0, 1)], [2, 0] * 2, "chain"),
    "P2S6^4-": ("PP", [(0, 1)], [3, 3], "molecule"),
    "PS3^2-": ("P", [], [3], "molecule"),
    "P3S8^3-": ("PPSPS", [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)], [2, 2, 0, 2, 0], "ring"),
    "1,4-P2S8^2-": ("PSSPSS", [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0)], [2, 0, 0, 2, 0, 0], "ring"),
    "1,3-P2S8^2-": ("PSPSSS", [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0)], [2, 0, 2, 0, 0, 0], "ring"),
    "1,3-P2S7^2-": ("PSPSS", [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)], [2, 0, 2, 0, 0], "ring"),
    "(PS4)_n^n-": ("PSSPSS", [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0, 1)], [2, 0, 0] * 2, "chain"),
}


def charge_in(name: str) -> int:
    digits = name.split("^")[1].rstrip("-").rstrip("n")
    return -int(digits or 1)


@cache
def example(name: str) -> Atoms:
    """A crystal of one motif of Table 1 and the Li that it needs, its atoms where bonds have their lengths."""
    backbone, bonds, terminals, shape = TABLE_1[name]
    symbols, links = list(backbone), [(*bond, 0)[:3] for bond in bonds]
    for atom, n in enumerate(terminals):
        links += [(atom, len(symbols) + k, 0) for k in range(n)]
        symbols += ["S"] * n
    period = 3.1 * len(backbone) / 2 if shape == "chain" else 0.0
    positions = embed(symbols, links, period)
    n_li = -charge_in(name) * (symbols.count("P") if shape == "chain" else 1)
    lithium = [(1.0 + 2.5 * k, 1.0, 1.0) for k in range(n_li)]
    return Atoms(
        symbols + ["Li"] * n_li, [*(positions + 10), *lithium], cell=[20, 20, period or 20], pbc=True
    )  # fmt: skip


def embed(symbols: list[str], links: list[tuple[int, int, int]], period: float) -> np.ndarray:
    """Positions with bonded atoms at their bond lengths and all others at least 2.8 A apart."""
    n = len(symbols)
    step = np.array([0.0, 0.0, period])
    lengths = np.array([LENGTHS["".join(sorted((symbols[i], symbols[j])))] for i, j, _ in links])
    i, j, shift = np.array(links).T
    images = (-1, 0, 1) if period else (0,)
    bonded = set(links) | {(b, a, -s) for a, b, s in links}
    others = np.array([(a, b, s) for a in range(n) for b in range(a) for s in images if (a, b, s) not in bonded]).T

    def strain(flat: np.ndarray) -> float:
        x = flat.reshape(n, 3)
        stretch = np.linalg.norm(x[j] + shift[:, None] * step - x[i], axis=1) - lengths
        if not others.size:
            return float(np.sum(stretch**2))
        apart = np.linalg.norm(x[others[1]] + others[2][:, None] * step - x[others[0]], axis=1)
        return float(np.sum(stretch**2) + np.sum(np.maximum(2.8 - apart, 0) ** 2))

    for seed in range(20):
        start = np.random.default_rng(seed).normal(scale=2, size=(n, 3))
        found = minimize(strain, start.ravel(), method="L-BFGS-B", options={"maxfun": 10**6})
        if found.fun < 1e-3:
            return found.x.reshape(n, 3)
    raise AssertionError(f"no embedding of {symbols}")


@cache
def references() -> dict[str, Atoms]:
    return {atoms.info["name"]: atoms for atoms in read(REFERENCES, ":")}


def table(atoms: Atoms) -> dict[str, int]:
    return {motif.title: motif.count for motif in find_motifs(atoms, CUTOFFS, "Li")}


@pytest.mark.parametrize("name", TABLE_1)
def test_motifs_of_the_papers_table(name):
    (motif,) = find_motifs(example(name), CUTOFFS, "Li")
    shape = TABLE_1[name][3]
    assert (motif.name, motif.charge, motif.shape) == (name, charge_in(name), shape)
    assert motif.dimensionality == (1 if shape == "chain" else 0)
    assert motif.count == (2 if shape == "chain" else 1)


def test_all_twelve_are_told_apart():
    motifs = [find_motifs(example(name), CUTOFFS, "Li")[0] for name in TABLE_1]
    assert len({motif.wl_hash for motif in motifs}) == 12
    assert not any(is_same_net(a.net, b.net) for a, b in combinations(motifs, 2))


@pytest.mark.parametrize("name", TABLE_1)
@pytest.mark.parametrize(
    "matrix", [np.diag([1, 1, 3]), [[1, 0, 1], [0, 1, -1], [0, 0, 2]], [[2, 1, 0], [0, 1, 0], [1, 0, 1]]]
)
def test_the_choice_of_cell_changes_nothing(name, matrix):
    rng = np.random.default_rng(0)
    atoms = example(name)
    other = make_supercell(atoms, matrix)
    other = other[rng.permutation(len(other))]
    other.rotate(40, (1, 2, 3), rotate_cell=True)
    other.positions += rng.uniform(-20, 20, 3)
    other.wrap()
    (a,), (b,) = find_motifs(atoms, CUTOFFS, "Li"), find_motifs(other, CUTOFFS, "Li")
    assert (a.title, a.formula, a.charge, a.wl_hash) == (b.title, b.formula, b.charge, b.wl_hash)
    assert b.count == a.count * round(np.linalg.det(matrix))
    assert is_same_net(a.net, b.net) and is_same_net(b.net, a.net)


@pytest.mark.parametrize("name", ["P2S7^4-", "(PS4)_n^n-"])
def test_cut_out_motifs_are_whole(name):
    atoms = example(name).copy()
    atoms.positions -= 10
    atoms.wrap()
    (motif,) = find_motifs(atoms, CUTOFFS, "Li")
    x, cell = motif.atoms.positions, motif.atoms.cell.array
    assert sorted(motif.atoms.symbols) == sorted(symbol for symbol in atoms.symbols if symbol != "Li")
    lengths = [np.linalg.norm(x[j] + np.array(shift) @ cell - x[i]) for i, j, shift in motif.net.bonds]
    assert max(lengths) < 2.3
    assert np.ptp(x, axis=0).max() < 15 and np.allclose(x.mean(axis=0), 0)
    assert motif.atoms.pbc.sum() == motif.dimensionality


REFERENCE_MOTIFS = {
    "mp-985583": {"PS4^3-": 4},  # beta-Li3PS4
    "mp-641703": {"P2S7^4-": 2, "PS4^3-": 2},  # Li7P3S11
    "mp-1211324": {"PS4^3-": 4, "S^2-": 8},  # Li7PS6
    "mp-1222635": {"PS3^2-": 2},  # Li2PS3 without P-P bonds
    "mp-1001069": {"PS4^3-": 13, "PS3^3-": 3},  # Li48P16S61: PS4 units that lost an S
    "mp-1153": {"S^2-": 1},  # Li2S
    "mp-736": {"P^3-": 2},  # Li3P
    "mp-28336": {"P7^3- cage": 4},  # Li3P7
    "mp-9588": {"P_n^n- chain": 8},  # LiP
    "mp-27687": {"(P7)_n^n- chain": 8},  # LiP7
    "mp-2412": {"(P5)_n^n- network": 4},  # LiP5
    "mp-1180520": {"S2^2-": 2},  # Li2S2
    "mp-1064933": {"S2": 2},  # sulfur of S2 molecules: neutral, although a terminal S is -1 otherwise
    "mp-1057216": {"S^-": 1},  # LiS of single S
    "mp-1220021": {"P": 4, "S": 2},  # bonds longer than any cut-off, and no ions: no charges
    "mp-557031": {"S6 ring": 2, "S10 ring": 2},
    "mp-77": {"S8 ring": 4},
    "mp-555760": {"S_n chain": 9},
    "mp-118": {"P4 cage": 6},  # white P
    "mp-157": {"P_n sheet": 4},  # black P
    "mp-1198724": {"P_n chain": 42},  # fibrous red P
    "mp-53": {"P_n network": 1},  # one atom, bonded to its own images
    "mp-541788": {"P4S10 cage": 2},
    "mp-1199938": {"(P2S7)_n chain": 4},
    "mp-1147714": {"(P2S3)_n sheet": 4},
    "mp-51": {},  # Li
}


@pytest.mark.parametrize("name", REFERENCE_MOTIFS)
def test_known_crystals(name):
    assert table(references()[name]) == REFERENCE_MOTIFS[name]


@pytest.mark.parametrize("name", ["mp-157", "mp-1198724", "mp-27687", "mp-2412", "mp-1147714", "mp-641703", "mp-53"])
def test_dimensionalities_agree_with_pymatgen(name):
    from pymatgen.analysis.dimensionality import get_structure_components
    from pymatgen.analysis.graphs import StructureGraph
    from pymatgen.analysis.local_env import CutOffDictNN
    from pymatgen.io.ase import AseAtomsAdaptor

    atoms = references()[name]
    framework = atoms[atoms.numbers != 3]
    neighbours = CutOffDictNN({tuple(pair.split("-")): cutoff for pair, cutoff in CUTOFFS.items()})
    graph = StructureGraph.from_local_env_strategy(AseAtomsAdaptor.get_structure(framework), neighbours)
    expected = {piece["dimensionality"] for piece in get_structure_components(graph)}
    assert {motif.dimensionality for motif in find_motifs(atoms, CUTOFFS, "Li")} == expected


def test_nets_of_one_hash_are_compared_bond_by_bond():
    """In violet and black P every atom has three bonds in a sheet; rings of five against rings of six decide."""
    violet, black, grey = (
        find_motifs(references()[name], CUTOFFS, "Li")[0] for name in ("mp-568348", "mp-157", "mp-130")
    )
    assert violet.wl_hash == black.wl_hash == grey.wl_hash
    assert is_same_net(black.net, grey.net) and not is_same_net(violet.net, black.net)
    home = (0, 0, 0)
    prism = Net(
        ("P",) * 6,
        tuple((i, j, home) for i, j in [(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5), (0, 3), (1, 4), (2, 5)]),
    )
    bipartite = Net(("P",) * 6, tuple((i, j, home) for i in range(3) for j in range(3, 6)))
    assert prism.wl_hash == bipartite.wl_hash and not is_same_net(prism, bipartite)
    assert is_same_net(prism, Net(prism.symbols, prism.bonds[::-1]))


@pytest.mark.parametrize(
    "name, repeats, title",
    [
        ("mp-1977409", (3, 2, 1), "S_n chain"),
        ("mp-568348", (3, 2, 1), "P_n sheet"),
        ("mp-27687", (3, 3, 1), "(P7)_n^n- chain"),
        ("mp-53", (8, 8, 8), "P_n network"),
        ("mp-985583", (5, 5, 1), "PS4^3-"),
    ],
)
def test_five_hundred_atoms_take_a_fraction_of_a_second(name, repeats, title):
    atoms = references()[name].repeat(repeats)
    assert sum(atoms.numbers != 3) >= 480
    start = time.process_time()
    assert list(table(atoms)) == [title]
    assert time.process_time() - start < 4, "this takes 0.4 s at most"


def test_one_molecule_of_five_hundred_atoms():
    """An open chain is the worst case for the colours: it takes as many rounds as half its length."""
    turns = np.arange(500) * 1.9
    helix = np.column_stack([1.0 * np.cos(turns), 1.0 * np.sin(turns), 1.35 * np.arange(500)])
    atoms = Atoms("S500", helix + 5, cell=[20, 20, 900], pbc=True)
    start = time.process_time()
    first = find_motifs(atoms, CUTOFFS, None)
    assert is_same_net(first[0].net, find_motifs(atoms[::-1], CUTOFFS, None)[0].net)
    assert time.process_time() - start < 3
    assert [(motif.formula, motif.shape) for motif in first] == [("S500", "molecule")]


def test_no_bonds_at_all():
    assert table(Atoms("Li2S", [[0, 0, 0], [2, 2, 2], [5, 5, 5]], cell=[9, 9, 9], pbc=True)) == {"S^2-": 1}
    assert find_motifs(references()["mp-1153"], {}, "Li")[0].name == "S^2-"
    assert find_motifs(references()["mp-51"], CUTOFFS, "Li") == []
    (lithium,) = find_motifs(references()["mp-51"], CUTOFFS, None)
    assert (lithium.name, lithium.charge, lithium.shape) == ("Li", 0, "atom")


def test_positions_that_are_not_numbers():
    atoms = example("PS4^3-").copy()
    atoms.positions[1, 2] = np.nan
    atoms.info["id"] = "i03-g012-0457"
    with pytest.raises(StructureError, match="i03-g012-0457 has positions or cell vectors that are not finite numbers"):
        find_motifs(atoms, CUTOFFS, "Li")


def test_a_pair_may_be_given_in_either_order_and_others_do_not_bond():
    assert [m.name for m in find_motifs(example("PS4^3-"), {"S-P": 2.35}, "Li")] == ["PS4^3-"]
    assert {m.formula for m in find_motifs(example("PS4^3-"), {"S-S": 2.2}, "Li")} == {"P", "S"}


def star(centre: str, ligand: str, n: int) -> Net:
    return Net((centre, *[ligand] * n), tuple((0, k, (0, 0, 0)) for k in range(1, n + 1)))


def test_locants_tell_isomers_and_so_need_two_atoms():
    links = tuple((i, (i + 1) % 4, (0, 0, 0)) for i in range(4))
    assert name_of(Net(("P", "S", "S", "S"), links), None) == "PS3"
    assert name_of(Net(("P", "P", "S", "S"), links), None) == "1,2-P2S2"


@pytest.mark.parametrize(
    "net, name",
    [
        (star("Ge", "S", 4), "GeS4^4-"),
        (star("B", "S", 4), "BS4^5-"),
        (star("S", "O", 4), "SO4^2-"),
        (star("S", "S", 3), "S4^2-"),
        (star("P", "S", 3), "PS3^3-"),
        (star("Cl", "O", 0), "Cl^-"),
        (star("B", "S", 3), "BS3"),
        (star("P", "S", 6), "PS6"),
        (star("Zr", "S", 4), "ZrS4"),
    ],
)
def test_charges_by_the_octet_rule(net, name):
    assert name_of(net, octet_charge(net)) == name
    assert is_open(net) == (name in {"PS3^3-", "BS3", "PS6", "ZrS4", "S4^2-"})


@pytest.mark.parametrize(
    "counts, n_ions, expected",
    [
        ([1, 1], 6, [-3, -3]),  # octets balance
        ([1, 1], 5, [-3, -2]),  # PS4 keeps its charge, PS3 gets the rest
        ([1, 2], 7, [-3, -2]),
        ([1, 2], 6, [-3, None]),  # 3 for two PS3
        ([1, 1], 1, [-3, None]),  # PS3 would be +2
        ([1, 1], 7, [-3, None]),  # and here -4, with an electron too many
    ],
)
def test_ions_decide_what_bonds_leave_open(counts, n_ions, expected):
    kinds = [star("P", "S", 4), star("P", "S", 3)]
    assert charges_of(kinds, counts, "Li", n_ions) == expected
    assert charges_of(kinds, counts, "Al", n_ions) == [-3, None]


def test_colours_are_refined_until_nothing_changes():
    path = [[j for j in (i - 1, i + 1) if 0 <= j < 9] for i in range(9)]
    colours = refine("S" * 9, path)
    assert colours == colours[::-1] and len(set(colours)) == 5
    assert refine("SSS", [[1, 1], [0, 0, 2], [1]])[0] != refine("SSS", [[1], [0, 2], [1]])[0]


def test_catalogue():
    catalogue = MotifCatalogue()
    for name in ("mp-985583", "mp-690", "mp-7260"):
        catalogue.add(find_motifs(references()[name], CUTOFFS, "Li"), name, 0, is_reference=True)
    assert [entry.title for entry in catalogue.entries] == ["PS4^3-", "P4S5 cage", "P4S5 cage, isomer 2"]
    glass = find_motifs(references()["mp-641703"], CUTOFFS, "Li")
    (new,) = catalogue.add(glass, "i01-g000-0001", 1, 0.04)
    assert (new.title, new.first_iteration, new.is_known, new.count) == ("P2S7^4-", 1, False, 2)
    assert catalogue.add(glass, "i02-g000-0001", 2, 0.01) == []
    catalogue.add(glass, "i03-g000-0001", 3, 0.02)
    catalogue.add([], "i03-g000-0002", 3, 0.02)
    assert (new.host, new.e_above_hull, new.first_iteration, new.n_structures) == ("i02-g000-0001", 0.01, 1, 3)
    known = catalogue.entries[0]
    assert known.is_known and known.first_iteration == 0 and known.count == 10
    assert catalogue.occurrences().tolist() == [3, 0, 0, 3] and catalogue.n_structures == 4
    assert len({entry.file_stem for entry in catalogue.entries}) == 4
    with pytest.raises(StructureError, match="i04 has e_above_hull = nan: a finite number, or None, is needed"):
        catalogue.add(glass, "i04", 4, float("nan"))


def test_catalogue_as_json():
    catalogue = MotifCatalogue()
    hosts = ("mp-985583", "mp-690", "mp-7260", "mp-2412", "mp-568348", "mp-641703")
    for number, name in enumerate(hosts):
        catalogue.add(find_motifs(references()[name], CUTOFFS, "Li"), name, number // 3, 0.1 * number, number < 3)
    again = MotifCatalogue.from_json(json.loads(json.dumps(catalogue.to_json())))
    assert again == catalogue
    for entry, other in zip(catalogue.entries, again.entries, strict=True):
        assert (entry.title, entry.motif.net, entry.file_stem) == (other.title, other.motif.net, other.file_stem)
        assert entry.motif.atoms == other.motif.atoms
    firsts = {entry.title: entry.first_structure for entry in again.entries}
    assert (firsts["PS4^3-"], firsts["P4S5 cage"]) == ("mp-641703", None)
    for each in (catalogue, again):
        assert each.add(find_motifs(references()["mp-690"], CUTOFFS, "Li"), "again", 3) == []
        each.add(find_motifs(references()["mp-118"], CUTOFFS, "Li"), "new", 3)
    assert again == catalogue and again.entries[-1].title == "P4 cage"


def test_cutoffs_of_the_packaged_system_close_the_rings_of_its_references(compose_config):
    """S-S bonds of these two are up to 2.205 A long, beyond the paper's cut-off."""
    cutoffs = compose_config()["system"]["bond_cutoffs"]
    for name in ("mp-557559", "mp-83"):
        assert {motif.title for motif in find_motifs(references()[name], CUTOFFS, "Li")} == {"S7"}
        assert {motif.title for motif in find_motifs(references()[name], cutoffs, "Li")} == {"S7 ring"}


def test_catalogue_tells_names_by_bonds_not_by_hosts():
    """PS3 is -3 in one host and -2 in the other: one motif, charged as in its best host."""
    catalogue = MotifCatalogue()
    for name, e_above_hull in (("mp-1001069", 0.016), ("mp-1222635", 0.119)):
        catalogue.add(find_motifs(references()[name], CUTOFFS, "Li"), name, 1, e_above_hull)
    assert [entry.title for entry in catalogue.entries] == ["PS4^3-", "PS3^3-"]
    catalogue.add(find_motifs(references()["mp-38200"], CUTOFFS, "Li"), "mp-38200", 1, 0.0)
    assert catalogue.entries[1].title == "PS3^2-"


@pytest.mark.parametrize("name", ["P3S9^3-", "(PS3)_n^n-"])
def test_export(name):
    (motif,) = find_motifs(example(name), CUTOFFS, "Li")
    atoms = read(io.StringIO(xyz_text(motif)), format="extxyz")
    assert atoms.info["name"] == motif.title and atoms.info["charge"] == motif.charge
    assert (atoms.numbers == motif.atoms.numbers).all() and (atoms.pbc == motif.atoms.pbc).all()
    np.testing.assert_allclose(atoms.positions, motif.atoms.positions, atol=1e-6)
    np.testing.assert_allclose(atoms.cell.array, motif.atoms.cell.array, atol=1e-6)


def test_bonds_are_shorter_than_their_cutoff_in_either_order_of_the_pair():
    atoms = Atoms("PSLi", [[0, 0, 0], [2.35, 0, 0], [0, 1.0, 0]], cell=[9, 9, 9], pbc=True)
    for cutoffs in ({"P-S": 2.36}, {"S-P": 2.36}, {"P-S": 2.36, "S-S": 9.0, "P-Cl": 9.0}):
        i, j, shifts = bonds_of(atoms, cutoffs)
        bonds = {(a, b) for a, b, shift in zip(i.tolist(), j.tolist(), shifts.tolist(), strict=True) if not any(shift)}
        assert bonds == {(0, 1), (1, 0)}, "lithium has no pair, however close"
    for cutoffs in ({"P-S": 2.35}, {"S-Cl": 3.0}, {}):
        i, j, shifts = bonds_of(atoms, cutoffs)
        assert len(i) == len(j) == 0 and shifts.shape == (0, 3)
