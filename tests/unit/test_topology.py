"""Rules for the bonds of a framework: which known crystals keep them, and what is refused as a rule."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import make_supercell

from chemloop.config import build
from chemloop.physics.topology import Topology, breaks
from chemloop.runtime.errors import ConfigError
from chemloop.system import System
from tests.unit.test_motifs import TABLE_1, example, references

CUTOFFS = {"P-S": 2.35, "S-S": 2.25, "P-P": 2.50}
CORNER = Topology(sharing={"P": "corner"})
TETRAHEDRA = Topology(bonds=["P-S"], coordination={"P-S": [4]}, sharing={"P": "corner"})


def kept(topology: Topology) -> set[str]:
    return {name for name in TABLE_1 if breaks(example(name), topology, CUTOFFS) is None}


def crystal(symbols: str, positions: list[list[float]], cell: float | list[float] = 12.0) -> Atoms:
    return Atoms(symbols, positions, cell=cell if isinstance(cell, list) else [cell] * 3, pbc=True)


@pytest.mark.parametrize(
    ("topology", "dropped"),
    [
        (Topology(), set()),
        (CORNER, {"P2S6^2-"}),
        (
            Topology(sharing={"P": "none"}),
            {"P2S6^2-", "P2S7^4-", "P3S9^3-", "(PS3)_n^n-", "P3S8^3-", "1,3-P2S8^2-", "1,3-P2S7^2-"},
        ),
        (Topology(sharing={"P": "edge"}), set()),
        (Topology(forbidden_bonds=["P-P"]), {"P2S6^4-", "P3S8^3-"}),
        (Topology(forbidden_bonds=["S-S"]), {"1,4-P2S8^2-", "1,3-P2S8^2-", "1,3-P2S7^2-", "(PS4)_n^n-"}),
        (Topology(coordination={"P-S": [4]}), {"P2S6^4-", "P3S8^3-", "PS3^2-"}),
        (Topology(coordination={"P-S": [3, 4]}), set()),
        (Topology(coordination={"P": [4]}), {"PS3^2-"}),
        (Topology(max_dimensionality=0), {"(PS3)_n^n-", "(PS4)_n^n-"}),
        (Topology(max_dimensionality=1, isolated=[]), set()),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
def test_motifs_of_the_papers_table(topology, dropped):
    assert TABLE_1.keys() - kept(topology) == dropped


def test_corner_sharing_tetrahedra():
    assert kept(TETRAHEDRA) == {"PS4^3-", "P2S7^4-", "P3S9^3-", "(PS3)_n^n-"}
    known = references()
    by_formula = {known[name].info["formula"]: breaks(known[name], TETRAHEDRA, CUTOFFS) for name in known}
    assert by_formula["Li3PS4"] is None and by_formula["Li7P3S11"] is None and by_formula["Li7PS6"] is None
    assert breaks(example("P2S6^2-"), TETRAHEDRA, CUTOFFS) == "P-P polyhedra share an edge"
    assert breaks(example("P2S6^4-"), TETRAHEDRA, CUTOFFS) == "P-P bond"


@pytest.mark.parametrize(
    ("topology", "n_kept", "n_ternary"),
    [
        (CORNER, 73, 8),
        (Topology(forbidden_bonds=["P-P"]), 54, 8),
        (Topology(coordination={"P-S": [3, 4]}), 52, 8),
        (Topology(coordination={"P-S": [4]}), 46, 5),
        (Topology(coordination={"S": [0, 1, 2]}), 75, 8),
        (Topology(isolated=["S"]), 73, 8),
        (Topology(isolated=[]), 66, 7),
        (Topology(max_dimensionality=0), 57, 8),
        (TETRAHEDRA, 21, 5),
    ],
    ids=str,
)
def test_how_many_references_keep_a_rule(topology, n_kept, n_ternary):
    """The numbers of the table in docs/generators.md."""
    keeping = [atoms for atoms in references().values() if breaks(atoms, topology, CUTOFFS) is None]
    assert (len(references()), len(keeping)) == (75, n_kept)
    assert sum(len(set(atoms.symbols)) == 3 for atoms in keeping) == n_ternary


@pytest.mark.parametrize("name", ["P2S6^2-", "P2S7^4-", "(PS3)_n^n-"])
@pytest.mark.parametrize("topology", [CORNER, Topology(sharing={"P": "none"}), Topology(max_dimensionality=0)], ids=str)
def test_the_cell_does_not_matter(name, topology):
    atoms = example(name)
    larger = make_supercell(atoms, [[1, 0, 1], [0, 1, -1], [0, 0, 2]])
    larger.positions += 3.3
    larger.wrap()
    larger = larger[np.random.default_rng(0).permutation(len(larger))]
    assert breaks(larger, topology, CUTOFFS) == breaks(atoms, topology, CUTOFFS)


def test_polyhedra_share_with_their_own_images():
    # a chain of squares: the P of the next cell is bonded to both S of this one
    chain = crystal("PS2", [[6, 6, 0], [4.5, 6, 1.5], [7.5, 6, 1.5]], [12, 12, 3])
    assert breaks(chain, CORNER, CUTOFFS) == "P-P polyhedra share an edge"
    assert breaks(chain, Topology(sharing={"P": "edge"}), CUTOFFS) is None
    assert breaks(chain, Topology(coordination={"P-S": [4]}), CUTOFFS) is None
    assert breaks(chain, Topology(coordination={"S-P": [1]}), CUTOFFS) == "S with 2 P"


def test_faces_and_polyhedra_of_two_elements():
    angles = 2 * np.pi * np.arange(3) / 3
    ring = np.stack([6 + 1.6 * np.cos(angles), 6 + 1.6 * np.sin(angles), np.full(3, 6.0)], axis=1)
    face = crystal("S3PGe", [*ring.tolist(), [6, 6, 7.4], [6, 6, 4.4]])
    cutoffs = {"P-S": 2.35, "Ge-S": 2.6, "Ge-P": 2.4}
    for sharing, broken in (
        ({"P": "edge", "Ge": "face"}, "Ge-P polyhedra share a face"),
        ({"P": "face", "Ge": "none"}, "Ge-P polyhedra share a face"),
        ({"P": "face", "Ge": "face"}, None),
        ({"P": "none"}, None),
    ):
        assert breaks(face, Topology(sharing=sharing), cutoffs) == broken


def test_mobile_ions_have_no_bonds():
    strict = Topology(isolated=[], bonds=["P-S"])
    atoms = example("PS4^3-")
    atoms.append("Li")
    atoms.positions[-1] = atoms.positions[0] + [0.0, 0.0, 1.0]
    assert breaks(atoms, strict, CUTOFFS) is None
    # also where a user gives a length for their bonds
    system = System(["Li", "P", "S"], bond_cutoffs={**CUTOFFS, "Li-P": 2.9})
    assert breaks(atoms, strict, system.bond_cutoffs) is None
    assert breaks(crystal("Li", [[0, 0, 0]], 3.0), strict, system.bond_cutoffs) is None
    assert breaks(crystal("LiS", [[0, 0, 0], [3, 0, 0]]), strict, CUTOFFS) == "isolated S"


def test_reasons_are_the_same_for_all_that_break_a_rule_alike():
    strict = Topology(forbidden_bonds=["P-P"], coordination={"P-S": [4], "S": [0, 1, 2]}, max_dimensionality=0)
    reasons = {breaks(atoms, strict, CUTOFFS) for atoms in references().values()}
    assert reasons == {None, "P-P bond", "P with 0 S", "P with 3 S", "1-dimensional framework"}


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ({"bonds": ["PS"]}, r"system.topology.bonds has 'PS': must be two elements such as P-S"),
        ({"forbidden_bonds": ["P-"]}, r"forbidden_bonds has 'P-': must be two elements such as P-S"),
        ({"forbidden_bonds": ["P-O"]}, r"forbidden_bonds has P-O, but O is not in the framework .* are P, S"),
        ({"bonds": ["Li-S"]}, r"bonds has Li-S, but Li is not in the framework .*without the mobile ion"),
        ({"bonds": ["P-S"], "forbidden_bonds": ["S-P"]}, r"allows and forbids P-S: name it in bonds or in forbidden"),
        ({"coordination": {"p": [4]}}, r"coordination has 'p': must be an element such as P or two elements such as"),
        ({"coordination": {"P-S": []}}, r"coordination.P-S = \[\]: must be one or more numbers .* between 0 and 24"),
        ({"coordination": {"P-S": [-1, 4]}}, r"coordination.P-S = \[-1, 4\]: must be one or more numbers"),
        ({"coordination": {"P": [44]}}, r"coordination.P = \[44\]: must be one or more numbers of neighbours"),
        ({"coordination": {"P-S": 4}}, r"system\.topology\.coordination\.P-S"),
        ({"coordination": {"P-S": ["four"]}}, r"coordination.P-S: Value 'four' .* incompatible with type hint 'int'"),
        (
            {"coordination": {"P-S": [4]}, "bonds": ["P-P"]},
            r"coordination.P-S = \[4\] needs P-S bonds, which system.topology does not allow",
        ),
        ({"sharing": {"P": "vertex"}}, r"sharing.P = vertex: must be one of none, corner, edge, face"),
        ({"sharing": {"Ge": "edge"}}, r"sharing has Ge, but Ge is not in the framework"),
        ({"isolated": ["X"]}, r"isolated has X, but X is not in the framework"),
        ({"max_dimensionality": 4}, r"max_dimensionality = 4: must be 0 \(molecules\), 1, 2, 3 or null"),
        ({"max_dimension": 1}, r"unknown key system.topology.max_dimension; did you mean max_dimensionality\?"),
    ],
    ids=str,
)
def test_impossible_rules_are_refused(topology, message):
    node = {"_target_": "chemloop.system.System", "elements": ["Li", "P", "S"], "topology": topology}
    with pytest.raises(ConfigError, match=message):
        build(node, "system")


def test_given_on_the_command_line(compose_config):
    assert build(compose_config()["system"], "system").topology is None
    given = compose_config("system.topology={bonds:[P-S],coordination:{P-S:[3,4]},sharing:{P:corner}}")["system"]
    assert build(given, "system").topology == Topology(["P-S"], [], {"P-S": [3, 4]}, {"P": "corner"})
    given = compose_config("+system.topology.forbidden_bonds=[P-P]", "+system.topology.max_dimensionality=1")["system"]
    assert build(given, "system").topology == Topology(forbidden_bonds=["P-P"], max_dimensionality=1)


def test_the_example_in_the_yaml_can_be_uncommented():
    from omegaconf import OmegaConf

    from tests.conftest import CONF

    lines = (CONF / "system" / "li-p-s.yaml").read_text().split("topology: null", 1)[1].splitlines()[1:]
    example_lines = [line.removeprefix("#") for line in lines if line.startswith("#   ")]
    node = OmegaConf.create("topology:\n" + "\n".join(example_lines))
    given = OmegaConf.to_container(node.topology)
    system = build({"_target_": "chemloop.system.System", "elements": ["Li", "P", "S"], "topology": given}, "system")
    assert set(given) == set(vars(Topology()))
    assert system.topology.sharing == {"P": "corner"}
