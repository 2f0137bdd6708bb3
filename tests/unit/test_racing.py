from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from chemloop.physics.matching import Matcher
from chemloop.physics.racing import find_hopeless, find_known, relax_in_two_parts
from chemloop.physics.relaxation import Relaxed
from chemloop.physics.structures import set_results
from chemloop.runtime.errors import EnergyFrameError


def with_energy(atoms: Atoms, per_atom: float, frame: str = "f") -> Atoms:
    n = len(atoms)
    return set_results(atoms, "mlff", per_atom * n, np.zeros((n, 3)), np.zeros((3, 3)), frame)


def elements() -> list[Atoms]:
    return [with_energy(bulk("Li", "bcc", a=3.4), -1.0), with_energy(bulk("S", "fcc", a=5.0), -3.0)]


def salt(a: float, id: str, per_atom: float = -2.0) -> Atoms:
    atoms = with_energy(bulk("LiS", "rocksalt", a=a), per_atom)
    atoms.info["id"] = id
    return atoms


def test_only_those_far_above_the_hull_are_hopeless():
    structures = [salt(5.0, "at", -2.0), salt(5.0, "below", -2.5), salt(5.0, "near", -1.81), salt(5.0, "far", -1.79)]
    reasons = find_hopeless(structures, elements(), 0.2)
    assert reasons[:3] == [None, None, None]
    assert reasons[3] == "hopeless: 0.210 eV/atom above the hull after the coarse part"


def test_energies_of_another_frame_do_not_race():
    with pytest.raises(EnergyFrameError):
        find_hopeless([with_energy(bulk("LiS", "rocksalt", a=5.0), -2.0, "other")], elements(), 0.2)


def test_what_is_known_is_found_early():
    known = salt(5.1, "known")
    other = salt(5.0, "other")
    other.set_chemical_symbols(["Li", "P"])
    twin = salt(5.02, "twin").repeat((2, 1, 1))
    cesium = with_energy(bulk("LiS", "cesiumchloride", a=3.0), -2.0)
    assert find_known([salt(5.0, "new"), other, twin, cesium], [], Matcher()) == [
        None,
        None,
        "known early: equals new",
        None,
    ]
    assert find_known([], [known], Matcher()) == []
    found = find_known([salt(5.0, "new"), other], [known, *elements()], Matcher())
    assert found == ["known early: equals a known structure", None]


def test_of_twins_the_lowest_is_kept():
    twins = [salt(5.0, "high", -1.9), salt(5.6, "low", -2.1), salt(5.2, "middle", -2.0).repeat((2, 1, 1))]
    assert find_known(twins, [], Matcher()) == ["known early: equals low", None, "known early: equals low"]
    for atoms in twins:
        del atoms.info["mlff_energy"]
    assert find_known(twins, [], Matcher()) == [None, "known early: equals high", "known early: equals high"]


def test_nothing_is_the_twin_of_a_known_one_alone():
    """To match is not transitive: the first lies within the tolerance of both others, these not of each other."""
    known, near, far = (bulk("LiS", "cesiumchloride", a=3.0) for _ in range(3))
    near.positions[1] += [0, 0, 0.6]
    far.positions[1] += [0, 0, 1.2]
    matcher = Matcher()
    assert matcher.is_known([near, far], [known]) == [True, False]
    assert matcher.duplicates([near, far]) == [0, 0]
    assert find_known([near, far], [known], matcher) == ["known early: equals a known structure", None]


def parts(log: list[list[str]]):
    """A coarse and a fine part that move every atom, count two and three steps, and note whom they were given."""

    def part(n_steps: int):
        def relax(structures):
            log.append([atoms.info["id"] for atoms in structures])
            ends = []
            for atoms in structures:
                moved = atoms.copy()
                moved.positions += n_steps
                moved.info["converged"] = True
                ends.append(Relaxed(moved, n_steps, "exploded" if atoms.info["id"] == "bad" else None))
            return ends

        return relax

    return part(2), part(3)


def test_those_given_up_are_relaxed_no_further():
    log: list[list[str]] = []
    coarse, fine = parts(log)
    structures = [salt(5.0, id) for id in ("a", "bad", "b", "c")]
    ends = relax_in_two_parts(structures, coarse, lambda atoms: [None, "hopeless: far", None], fine)
    assert log == [["a", "bad", "b", "c"], ["a", "c"]]
    assert [end.atoms.info["id"] for end in ends] == ["a", "bad", "b", "c"]
    assert [end.n_steps for end in ends] == [5, 2, 2, 5]
    assert [end.rejection for end in ends] == [None, "exploded", "hopeless: far", None]
    assert not ends[2].atoms.info["converged"] and ends[3].atoms.info["converged"]
    np.testing.assert_allclose(ends[3].atoms.positions - structures[3].positions, 5)


def test_nobody_left_is_no_error():
    coarse, fine = parts([])
    assert relax_in_two_parts([], coarse, lambda atoms: [], fine) == []
    (end,) = relax_in_two_parts([salt(5.0, "bad")], coarse, lambda atoms: [], fine)
    assert end.rejection == "exploded"
