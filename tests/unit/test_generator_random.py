"""generator=random: what it makes, that it repeats itself, that it stops, and what it refuses."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk
from ase.io import write
from omegaconf import OmegaConf

from chemloop.generator import random as module
from chemloop.generator.random import RandomGenerator, known_geometry
from chemloop.generator.random_compositions import read_compositions
from chemloop.physics.geometry import overlap
from chemloop.physics.structures import check_structure
from chemloop.runtime.errors import ConfigError
from chemloop.runtime.time_limit import TimeLimitExceeded, time_limit

ELEMENTS = ["Li", "P", "S"]
REFERENCE = "package:li-p-s"


@pytest.fixture(scope="module")
def crystals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate")
    made = RandomGenerator(REFERENCE).generate(60, ELEMENTS, {"energy_above_hull": 0.0}, 3, folder)
    return made, json.loads((folder / "yield.json").read_text())


def counts_of(atoms):
    return np.array([sum(atoms.symbols == element) for element in ELEMENTS])


def test_crystals_keep_distances_volumes_and_sizes(crystals):
    made, _ = crystals
    known = known_geometry(REFERENCE, tuple(ELEMENTS), "references")
    assert len(made) == 60
    for atoms in made:
        check_structure(atoms)
        limits, (low, high) = known.near(counts_of(atoms), 5)
        assert overlap(atoms, limits, known.numbers) <= 1 + 1e-6
        assert 0.9 * low * (1 - 1e-6) <= atoms.cell.volume / len(atoms) <= 1.2 * high * (1 + 1e-6)
        assert len(atoms) <= 12


def test_every_subsystem_is_reached(tmp_path):
    made = RandomGenerator(REFERENCE, subsystem_shares=[1.0]).generate(60, ELEMENTS, {}, 3, tmp_path)
    assert len({frozenset(atoms.symbols) for atoms in made}) == 7


def test_yield_is_reported(crystals):
    made, report = crystals
    assert report["crystals"] == len(made)
    assert report["attempts"] == report["crystals"] + sum(report["rejected"].values())
    for table in ("by_lattice", "by_n_elements"):
        assert sum(row["attempts"] for row in report[table].values()) == report["attempts"]
    assert report["crystals_per_cpu_second"] > 5


def test_the_same_seed_in_another_process_gives_the_same_crystals(crystals, tmp_path):
    made, _ = crystals
    script = (
        "import sys, pathlib, numpy as np; from chemloop.generator.random import RandomGenerator as G;"
        "np.random.seed(99);"
        f"made = G({REFERENCE!r}).generate(12, {ELEMENTS!r}, {{}}, 3, pathlib.Path(sys.argv[1]));"
        "np.savez(sys.argv[1] + '/made.npz', *[x for a in made for x in (a.numbers, a.cell.array, a.positions)])"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, env=None)
    again = list(np.load(tmp_path / "made.npz").values())
    expected = [array for atoms in made[:12] for array in (atoms.numbers, atoms.cell.array, atoms.positions)]
    assert all(np.array_equal(a, b) for a, b in zip(again, expected, strict=True))


def test_another_seed_gives_other_crystals(crystals, tmp_path):
    made, _ = crystals
    other = RandomGenerator(REFERENCE).generate(5, ELEMENTS, {}, 4, tmp_path)
    assert not any(a == b for a, b in zip(other, made, strict=False))


def test_symmetry_bias_goes_from_general_to_special(tmp_path):
    lattices = {}
    for bias in (0.0, 6.0):
        RandomGenerator(REFERENCE, symmetry_bias=bias).generate(25, ELEMENTS, {}, 1, tmp_path)
        lattices[bias] = json.loads((tmp_path / "yield.json").read_text())["by_lattice"]
    assert set(lattices[6.0]) <= {"triclinic", "monoclinic"}
    assert len(lattices[0.0]) >= 5


def test_cells_of_forty_atoms(tmp_path):
    generator = RandomGenerator(REFERENCE, min_atoms=38, max_atoms=40, subsystem_shares=[0.0, 0.0, 1.0])
    made = generator.generate(6, ELEMENTS, {}, 0, tmp_path)
    assert len(made) == 6 and max(map(len, made)) >= 38


def test_no_crystal_has_a_smaller_primitive_cell(tmp_path):
    generator = RandomGenerator(REFERENCE, min_atoms=8, max_atoms=8, subsystem_shares=[1.0, 0.0], symmetry_bias=0.5)
    made = generator.generate(40, ELEMENTS, {}, 2, tmp_path)
    cells = [(atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers) for atoms in made]
    assert {len(spglib.find_primitive(cell, symprec=1e-4)[2]) for cell in cells} == {8}
    assert json.loads((tmp_path / "yield.json").read_text())["rejected"]["smaller primitive cell"] > 0


@pytest.mark.parametrize("n_atoms", [7, 40])
def test_cells_of_just_so_many_atoms(n_atoms, tmp_path):
    made = RandomGenerator(REFERENCE).generate(8, ELEMENTS, {"n_atoms": float(n_atoms)}, 0, tmp_path)
    assert [len(atoms) for atoms in made] == [n_atoms] * 8
    report = json.loads((tmp_path / "yield.json").read_text())
    assert report["crystals_per_cpu_second"] > 5 and report["attempts"] <= 12
    same = RandomGenerator(REFERENCE, min_atoms=n_atoms, max_atoms=n_atoms).generate(8, ELEMENTS, {}, 0, tmp_path)
    assert same == made


def judged(formula: str, role: str, energy: float, is_new: bool = True) -> Atoms:
    atoms = Atoms(formula, cell=np.eye(3), pbc=True)
    atoms.info |= {"id": formula, "role": role, "e_above_hull": energy}
    return atoms if role == "label" else _flagged(atoms, is_new)


def _flagged(atoms: Atoms, is_new: bool) -> Atoms:
    atoms.info |= {"is_stable": True, "is_unique": True, "is_novel": is_new}
    return atoms


def test_what_it_learns_is_where_the_hull_misses_phases(tmp_path):
    generator = RandomGenerator(REFERENCE, min_atoms=8, max_atoms=8, hull_bias=10.0)
    pool = [judged("Li2S", "label", 0.0), judged("P8", "label", 0.3), judged("Li6P1S1", "candidate", 0.02)]
    pool += [judged("Li1P6S1", "candidate", 0.8), judged("Li3PS4", "candidate", 0.01, is_new=False)]
    pool += [judged("Li2S", "candidate", 0.0), judged("Li1P1S6", "lost", np.nan)]
    learned = replace(generator, checkpoint=generator.finetune(pool, tmp_path, 0))
    phases, tried, energies = read_compositions(learned.checkpoint, ELEMENTS)
    assert phases.tolist() == [[2, 0, 1], [6, 1, 1]], "near the hull, once, and new where they are candidates"
    assert tried.tolist() == [[6, 1, 1], [1, 6, 1], [3, 1, 4], [2, 0, 1], [1, 1, 6]]
    assert energies.tolist() == [0.02, 0.8, 0.01, 0.0, np.inf]
    known = known_geometry(REFERENCE, tuple(ELEMENTS), "references")

    def gain(of):
        counts, before = generator.compositions(ELEMENTS, known)
        after = learned.compositions(ELEMENTS, known)[1]
        return (after / before)[(counts == of).all(axis=1)].item()

    assert gain([3, 1, 4]) > gain([1, 6, 1]), "proposals there came low"
    assert gain([3, 1, 4]) > gain([6, 1, 1]), "no phase is counted there"
    assert gain([3, 1, 4]) > gain([1, 1, 6]), "what was proposed there was lost"
    assert learned.generate(5, ELEMENTS, {}, 0, tmp_path) != generator.generate(5, ELEMENTS, {}, 0, tmp_path)


def test_without_bias_there_is_nothing_to_learn(tmp_path):
    off = RandomGenerator(REFERENCE, hull_bias=1.0)
    assert not off.can_learn and RandomGenerator(REFERENCE, hull_bias=3.0).can_learn
    learned = replace(off, checkpoint=off.finetune([judged("Li6P1S1", "candidate", 0.02)], tmp_path, 0))
    assert learned.generate(5, ELEMENTS, {}, 0, tmp_path) == off.generate(5, ELEMENTS, {}, 0, tmp_path)


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"phases": []}', '{"phases": [{"Na": 1}], "tried": []}', '{"phases": [], "tried": [[{}, 0]]}'],
)
def test_a_checkpoint_of_something_else(content, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(content)
    generator = RandomGenerator(REFERENCE, hull_bias=3.0, checkpoint=str(path))
    with pytest.raises(ConfigError, match=r"checkpoint = .*other.json: no compositions of Li-P-S \(.*; give a"):
        generator.generate(1, ELEMENTS, {}, 0, tmp_path)


def test_composition_preferences():
    known = known_geometry(REFERENCE, tuple(ELEMENTS), "references")

    def share(of, **weights):
        counts, p = RandomGenerator(REFERENCE, min_atoms=8, max_atoms=8, **weights).compositions(ELEMENTS, known)
        return p[(counts == of).all(axis=1)].item()

    neutral = {"charge_balance_weight": 1.0, "known_composition_weight": 1.0}
    assert share([3, 1, 4], **neutral) == share([2, 5, 1], **neutral)
    assert share([3, 1, 4]) > 5 * share([2, 5, 1])
    away = neutral | {"known_composition_weight": 0.1}
    assert share([3, 1, 4], **away) < share([2, 5, 1], **away)


def test_another_system_from_a_file(tmp_path):
    write(tmp_path / "known.extxyz", [bulk("Na", "bcc", 4.29), bulk("Cl", "fcc", 5.5), bulk("NaCl", "rocksalt", 5.64)])
    generator = RandomGenerator(str(tmp_path / "known.extxyz"), max_atoms=8)
    made = generator.generate(10, ["Na", "Cl"], {}, 0, tmp_path)
    assert len(made) == 10 and set().union(*(atoms.symbols for atoms in made)) == {"Na", "Cl"}


def test_too_tight_cells_end_in_fewer_crystals(tmp_path):
    generator = RandomGenerator(REFERENCE, volume_scale=[0.3, 0.3], attempts_per_crystal=3, n_pushes=5)
    assert generator.generate(4, ELEMENTS, {}, 0, tmp_path) == []
    report = json.loads((tmp_path / "yield.json").read_text())
    assert report["attempts"] == 12 and report["rejected"] == {"too close": 12}


def test_a_hanging_attempt_is_interrupted_and_changes_no_other(monkeypatch, tmp_path):
    expected = RandomGenerator(REFERENCE).generate(4, ELEMENTS, {}, 3, tmp_path)
    calls, real = iter(range(100)), module.random_crystal

    def hanging(*args):
        if next(calls) == 1:
            while True:
                pass
        return real(*args)

    monkeypatch.setattr(module, "random_crystal", hanging)
    made = RandomGenerator(REFERENCE, timeout_s_per_crystal=2.0).generate(3, ELEMENTS, {}, 3, tmp_path)
    assert json.loads((tmp_path / "yield.json").read_text())["rejected"] == {"time limit": 1}
    assert made == [expected[0], *expected[2:]]


def test_a_time_limit_counts_computing_not_waiting():
    with time_limit(0.1):
        time.sleep(0.3)
    with pytest.raises(TimeLimitExceeded), time_limit(0.05):
        while True:
            pass
    errors = []

    def elsewhere():
        try:
            with time_limit(1.0):
                pass
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "main thread" in errors[0]


def test_the_yaml_is_the_schema():
    node = OmegaConf.load("conf/generator/random.yaml")
    assert node.pop("_target_") == "chemloop.generator.random.RandomGenerator"
    assert node.pop("python") is None
    node.reference, node.downloads = REFERENCE, "references"
    generator = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RandomGenerator), node))
    assert generator == RandomGenerator(REFERENCE, "references")
    assert set(node) == set(generator.__dataclass_fields__) - {"can_learn", "understands"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_atoms": 0}, "generator.min_atoms = 0: must be 1 or above"),
        ({"max_atoms": 3}, "generator.max_atoms = 3: must be generator.min_atoms = 4 or above"),
        ({"min_distance_scale": -1.0}, "generator.min_distance_scale = -1.0: must be above 0"),
        ({"charge_balance_weight": 0.0}, "generator.charge_balance_weight = 0.0: must be above 0"),
        ({"known_composition_weight": float("nan")}, "known_composition_weight = nan"),
        ({"hull_bias": 0.0}, "generator.hull_bias = 0.0: must be above 0"),
        ({"known_composition_width": 0.0}, "known_composition_width = 0.0"),
        ({"timeout_s_per_crystal": 0.0}, "timeout_s_per_crystal = 0.0: must be above 0"),
        ({"attempts_per_crystal": 0}, "attempts_per_crystal = 0"),
        ({"n_pushes": 0}, "n_pushes = 0"),
        ({"n_neighbours": 0}, "n_neighbours = 0: must be 1 or above, or null for all"),
        ({"symmetry_bias": -1.0}, "symmetry_bias = -1.0: must be 0 or above"),
        ({"subsystem_shares": []}, r"subsystem_shares = \[\]"),
        ({"subsystem_shares": [0.0, 0.0]}, "not all 0"),
        ({"volume_scale": [1.2, 0.9]}, "two numbers above 0, ascending"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(ConfigError, match=message):
        RandomGenerator(REFERENCE, **values)


def test_impossible_requests(tmp_path):
    with pytest.raises(ConfigError, match="leaves no composition of Li, P, S with 1 to 2 atoms"):
        RandomGenerator(REFERENCE, min_atoms=1, max_atoms=2, subsystem_shares=[0.0, 0.0, 1.0]).generate(
            1, ELEMENTS, {}, 0, tmp_path
        )
    with pytest.raises(ConfigError, match="max_atoms = 400 allows more than 2000000 compositions of 3 elements"):
        RandomGenerator(REFERENCE, max_atoms=400).generate(1, ELEMENTS, {}, 0, tmp_path)
    with pytest.raises(ConfigError, match="generator.reference is null"):
        RandomGenerator(None).generate(1, ELEMENTS, {}, 0, tmp_path)
    for n_atoms in (7.5, 0.0):
        with pytest.raises(ConfigError, match=f"condition n_atoms = {n_atoms:g}: must be a whole number of atoms, 1"):
            RandomGenerator(REFERENCE).generate(1, ELEMENTS, {"n_atoms": n_atoms}, 0, tmp_path)
    missing = RandomGenerator(REFERENCE, hull_bias=3.0, checkpoint="nowhere.json")
    with pytest.raises(ConfigError, match="generator.checkpoint = nowhere.json: .*No such file"):
        missing.generate(1, ELEMENTS, {}, 0, tmp_path)


def test_importing_it_is_cheap():
    script = "import sys, chemloop.generator.random; assert not {'torch', 'pymatgen', 'pyxtal'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
