"""generator=evolution: what it makes of which parents, that it repeats itself, what it learns, and what it refuses."""

import functools
import json
import subprocess
import sys
from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest
from ase.build import bulk
from omegaconf import OmegaConf

from chemloop.generator import evolution as module
from chemloop.generator.evolution import DEFAULT_WEIGHTS, EvolutionGenerator
from chemloop.generator.random import is_neutral, known_geometry
from chemloop.physics.geometry import overlap
from chemloop.physics.structures import check_structure, read_structures, write_structures
from chemloop.reference import read_reference
from chemloop.runtime.errors import CheckpointError, ConfigError

ELEMENTS = ["Li", "P", "S"]
REFERENCE = "package:li-p-s"
BRED = {name: 1.0 for name in DEFAULT_WEIGHTS if name != "random"}


@pytest.fixture(scope="module")
def pool():
    """The known structures as labels, and candidates at 0 to 0.3 eV/atom that two operators made."""
    known = [atoms for atoms in read_reference(REFERENCE, ELEMENTS, 0.5, "references") if len(atoms) <= 24]
    structures = []
    for number, atoms in enumerate(known):
        energy = 0.005 * (7 * number % 61)
        label, candidate = atoms.copy(), atoms.copy()
        label.info = {"id": f"i00-r{number:04d}", "role": "label", "e_above_hull": energy}
        candidate.info = {"id": f"i01-g{number:04d}", "role": "candidate", "e_above_hull": energy + 0.005}
        candidate.info |= {"is_stable": number % 2 == 0, "is_unique": True, "is_novel": True, "generator": "evolution"}
        candidate.info |= {"operator": "heredity" if number % 2 else "soft"}
        structures += [label, candidate]
    return structures


@pytest.fixture(scope="module")
def crystals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate")
    made = EvolutionGenerator(REFERENCE).generate(80, ELEMENTS, {"energy_above_hull": 0.0}, 3, folder)
    return made, json.loads((folder / "yield.json").read_text())


def counts_of(atoms):
    return np.array([sum(atoms.symbols == element) for element in ELEMENTS])


def test_crystals_keep_distances_volumes_and_sizes(crystals):
    made, _ = crystals
    known = known_geometry(REFERENCE, tuple(ELEMENTS), "references")
    assert len(made) == 80
    for atoms in made:
        check_structure(atoms)
        limits, (low, high) = known.near(counts_of(atoms), 5)
        assert overlap(atoms, limits, known.numbers) <= 1 + 1e-6
        assert 0.9 * low * (1 - 1e-6) <= atoms.cell.volume / len(atoms) <= 1.2 * high * (1 + 1e-6)
        assert 4 <= len(atoms) <= 24


def test_every_crystal_says_where_it_comes_from(crystals):
    made, _ = crystals
    names = {atoms.info["name"] for atoms in read_reference(REFERENCE, ELEMENTS, 0.5, "references")}
    assert {atoms.info["operator"] for atoms in made} == set(DEFAULT_WEIGHTS)
    for atoms in made:
        parents = atoms.info.get("parents", "").split()
        assert atoms.info["generator"] == "evolution" and set(parents) <= names
        assert len(parents) == {"heredity": 2, "random": 0}.get(atoms.info["operator"], 1)


def test_yield_is_reported_by_operator(crystals):
    made, report = crystals
    assert report["crystals"] == len(made) == report["attempts"] - sum(report["rejected"].values())
    assert report["crystals_per_cpu_second"] > 20
    rows = report["by_operator"]
    assert {name: row["crystals"] for name, row in rows.items()} == Counter(atoms.info["operator"] for atoms in made)
    for key in ("attempts", "crystals"):
        assert sum(row[key] for row in rows.values()) == report[key]


def test_the_same_seed_in_another_process_gives_the_same_crystals(crystals, tmp_path):
    made, _ = crystals
    script = (
        "import sys, pathlib, numpy as np; from chemloop.generator.evolution import EvolutionGenerator as G;"
        "np.random.seed(99);"
        f"made = G({REFERENCE!r}).generate(80, {ELEMENTS!r}, {{}}, 3, pathlib.Path(sys.argv[1]));"
        "np.savez(sys.argv[1] + '/made.npz', *[x for a in made for x in (a.numbers, a.cell.array, a.positions)])"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    again = list(np.load(tmp_path / "made.npz").values())
    expected = [array for atoms in made for array in (atoms.numbers, atoms.cell.array, atoms.positions)]
    assert all(np.array_equal(a, b) for a, b in zip(again, expected, strict=True))


def test_another_seed_gives_other_crystals(crystals, tmp_path):
    made, _ = crystals
    other = EvolutionGenerator(REFERENCE).generate(5, ELEMENTS, {}, 4, tmp_path)
    assert not any(a == b for a, b in zip(other, made, strict=False))


def test_what_is_injected_does_not_depend_on_how_much_is(tmp_path):
    """The number and the first composition come from the seed alone; from one stream, few would mean much lithium."""
    rare = EvolutionGenerator(REFERENCE, operators={"random": 0.1, "strain": 0.9})
    without_lithium = []
    for seed in range(60):
        made = rare.generate(10, ELEMENTS, {}, seed, tmp_path)
        injected = [atoms for atoms in made if atoms.info["operator"] == "random"]
        without_lithium += [counts_of(atoms)[0] == 0 for atoms in injected[:1]]
    assert len(without_lithium) > 25 and 0.05 < np.mean(without_lithium) < 0.45


def test_cells_of_the_size_asked_for(tmp_path):
    made = EvolutionGenerator(REFERENCE).generate(30, ELEMENTS, {"n_atoms": 14.0}, 0, tmp_path)
    assert len(made) == 30 and {len(atoms) for atoms in made} == {14}
    assert len({atoms.info["operator"] for atoms in made}) >= 5


def test_neutral_compositions_and_subsystems_are_preferred_as_asked(tmp_path):
    def share(wanted, **preferences):
        generator = EvolutionGenerator(REFERENCE, operators={"exchange": 1.0}, **preferences)
        counts = np.array([counts_of(atoms) for atoms in generator.generate(60, ELEMENTS, {}, 0, tmp_path)])
        return wanted(counts).mean()

    def has_two(counts):
        return np.count_nonzero(counts, axis=1) == 2

    neutral = functools.partial(is_neutral, elements=ELEMENTS)
    assert share(neutral, charge_balance_weight=100.0) > share(neutral, charge_balance_weight=0.01) + 0.3
    assert share(has_two, subsystem_shares=[0.0, 1.0, 0.0]) == 1


def test_the_checkpoint_holds_the_parents(pool, tmp_path):
    generator = EvolutionGenerator(REFERENCE, n_parents=12, max_per_composition=2)
    checkpoint = generator.finetune(pool, tmp_path, 0)
    parents = read_structures(tmp_path / "checkpoint" / "parents.extxyz")
    assert len(parents) == 12 and parents[0].info["id"] == "i00-r0000"
    energies = [atoms.info["e_above_hull"] for atoms in parents]
    assert energies == sorted(energies) and energies[-1] < 0.2
    assert max(Counter(str(atoms.symbols.formula.reduce()[0]) for atoms in parents).values()) == 2
    made = replace(generator, checkpoint=checkpoint, operators=BRED).generate(30, ELEMENTS, {}, 0, tmp_path)
    ids = {id for atoms in made for id in atoms.info["parents"].split()}
    assert len(made) == 30 and ids <= {atoms.info["id"] for atoms in parents} and len(ids) > 5


def test_cold_evolution_breeds_the_best_only(pool, tmp_path):
    operators = {key: weight for key, weight in BRED.items() if key != "permutation"}  # the best is pure lithium
    generator = EvolutionGenerator(REFERENCE, temperature=1e-4, operators=operators)
    made = replace(generator, checkpoint=generator.finetune(pool, tmp_path, 0)).generate(10, ELEMENTS, {}, 0, tmp_path)
    mutated = [atoms for atoms in made if atoms.info["operator"] != "heredity"]
    assert {atoms.info["parents"] for atoms in mutated} == {"i00-r0000"}


def test_operators_that_paid_are_used_more_if_asked(pool, tmp_path):
    equal = EvolutionGenerator(REFERENCE, operators={"heredity": 1.0, "soft": 1.0})
    adapting = replace(equal, checkpoint=equal.finetune(pool, tmp_path, 0))
    success = json.loads((tmp_path / "checkpoint" / "operators.json").read_text())
    assert json.loads((tmp_path / "metrics.json").read_text())["n_sun_soft"] == success["soft"]["n_sun"]
    assert success["soft"]["n_sun"] == success["soft"]["n_made"] > 0 == success["heredity"]["n_sun"]

    def share(generator):
        made = generator.generate(60, ELEMENTS, {}, 0, tmp_path)
        return np.mean([atoms.info["operator"] == "soft" for atoms in made])

    assert share(replace(adapting, adapt_operators=False)) == pytest.approx(0.5, abs=0.15)
    expected = success["soft"]["factor"] / (success["soft"]["factor"] + success["heredity"]["factor"])
    assert expected > 0.65 and share(adapting) == pytest.approx(expected, abs=0.12)


def test_parents_of_ones_own(tmp_path):
    mine = bulk("Li", "bcc", 3.5)
    mine.info = {"id": "mine", "e_above_hull": 0.0}
    write_structures(tmp_path / "mine.extxyz", [mine])
    generator = EvolutionGenerator(REFERENCE, checkpoint=str(tmp_path / "mine.extxyz"), operators=BRED)
    made = generator.generate(10, ELEMENTS, {}, 0, tmp_path)
    assert len(made) == 10 and {id for atoms in made for id in atoms.info["parents"].split()} == {"mine"}
    assert "permutation" not in {atoms.info["operator"] for atoms in made}


def test_a_hanging_attempt_is_interrupted_and_changes_no_other(monkeypatch, tmp_path):
    generator = EvolutionGenerator(REFERENCE, operators={"heredity": 1.0, "exchange": 1.0}, timeout_s_per_crystal=2.0)
    expected = generator.generate(4, ELEMENTS, {}, 3, tmp_path)
    calls, real = iter(range(100)), module.Breeder.breed

    def hanging(*args):
        while next(calls) == 1:
            while True:
                pass
        return real(*args)

    monkeypatch.setattr(module.Breeder, "breed", hanging)
    made = generator.generate(3, ELEMENTS, {}, 3, tmp_path)
    assert json.loads((tmp_path / "yield.json").read_text())["rejected"] == {"time limit": 1}
    assert made == [expected[0], *expected[2:]]


def test_too_tight_cells_end_in_fewer_crystals(tmp_path):
    generator = EvolutionGenerator(REFERENCE, volume_scale=[0.3, 0.3], attempts_per_crystal=3, n_pushes=3)
    generator = replace(generator, operators=BRED)
    assert generator.generate(4, ELEMENTS, {}, 0, tmp_path) == []
    report = json.loads((tmp_path / "yield.json").read_text())
    assert report["attempts"] == 12 == sum(report["rejected"].values()) and report["rejected"]["too close"] > 6


def test_the_yaml_is_the_schema():
    node = OmegaConf.load("conf/generator/evolution.yaml")
    assert node.pop("_target_") == "chemloop.generator.evolution.EvolutionGenerator"
    assert node.pop("python") is None
    node.reference, node.downloads = REFERENCE, "references"
    generator = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(EvolutionGenerator), node))
    assert generator == EvolutionGenerator(REFERENCE, "references")
    assert set(node) == {field.name for field in fields(generator)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"operators": {"crossover": 1.0}}, "generator.operators has crossover; allowed are heredity, strain"),
        ({"operators": {"soft": 0.0}}, "generator.operators = .*: must be 0 or above, not all 0"),
        ({"operators": {"soft": -1.0, "strain": 2.0}}, "must be 0 or above, not all 0"),
        ({"operators": {}}, "not all 0"),
        ({"n_parents": 0}, "generator.n_parents = 0: must be 1 or above"),
        ({"max_per_composition": 0}, "max_per_composition = 0: must be 1 or above"),
        ({"max_change": 0}, "max_change = 0: must be 1 or above"),
        ({"temperature": 0.0}, "temperature = 0.0: must be above 0"),
        ({"composition_width": float("nan")}, "composition_width = nan: must be above 0"),
        ({"strain": -0.1}, "strain = -0.1: must be above 0"),
        ({"max_e_above_hull": -0.1}, "max_e_above_hull = -0.1: must be 0 or above"),
        ({"same_energy": -0.1}, "same_energy = -0.1: must be 0 or above"),
        ({"displacement": [1.0, 0.5]}, r"displacement = \[1.0, 0.5\]: must be two numbers above 0, ascending"),
        ({"max_atoms": 3}, "generator.max_atoms = 3: must be generator.min_atoms = 4 or above"),
        ({"volume_scale": [1.2, 0.9]}, "volume_scale"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(ConfigError, match=message):
        EvolutionGenerator(REFERENCE, **values)


def test_checkpoints_that_are_none(tmp_path):
    def refuse(message, *structures):
        if structures:
            write_structures(tmp_path / "parents.extxyz", structures)
        with pytest.raises(CheckpointError, match=message):
            EvolutionGenerator(REFERENCE, checkpoint=str(tmp_path / "parents.extxyz")).generate(
                1, ELEMENTS, {}, 0, tmp_path
            )

    refuse("no structure file .*; give what a learn stage left, a file of parents of your own, or null")
    salt, lithium = bulk("NaCl", "rocksalt", 5.64), bulk("Li")
    refuse("structure 1, Li, has no id and no e_above_hull", as_parent(lithium), lithium)
    refuse("structure 0, NaCl, contains Cl, Na; parents are crystals of Li-P-S", as_parent(salt))
    (tmp_path / "parents.extxyz").write_text("")
    refuse("holds no structure")
    (tmp_path / "parents.extxyz").write_text("no crystal\n")
    refuse("is not a readable extxyz file")


def test_a_checkpoint_without_its_operators(pool, tmp_path):
    generator = EvolutionGenerator(REFERENCE)
    damaged = replace(generator, checkpoint=generator.finetune(pool, tmp_path, 0))
    (tmp_path / "checkpoint" / "operators.json").unlink()
    with pytest.raises(CheckpointError, match="operators.json is missing or damaged"):
        damaged.generate(1, ELEMENTS, {}, 0, tmp_path)
    assert len(replace(damaged, adapt_operators=False).generate(1, ELEMENTS, {}, 0, tmp_path)) == 1


def as_parent(atoms):
    copy = atoms.copy()
    copy.info = {"id": "a", "e_above_hull": 0.0}
    return copy


def test_impossible_requests(pool, tmp_path):
    with pytest.raises(ConfigError, match="none of them can make cells of 4 to 24 atoms of the 1 parents.* 64 to 64"):
        write_structures(tmp_path / "large.extxyz", [as_parent(bulk("Li", "bcc", 3.5).repeat((4, 4, 4)))])
        EvolutionGenerator(REFERENCE, checkpoint=str(tmp_path / "large.extxyz"), operators=BRED).generate(
            1, ELEMENTS, {}, 0, tmp_path
        )
    with pytest.raises(ConfigError, match="cells of up to 400 atoms have more than 2000000 compositions"):
        EvolutionGenerator(REFERENCE, max_atoms=400).generate(1, ELEMENTS, {}, 0, tmp_path)
    with pytest.raises(ConfigError, match="generator.reference is null"):
        EvolutionGenerator(None).generate(1, ELEMENTS, {}, 0, tmp_path)
    with pytest.raises(ConfigError, match="n_atoms = 2.5: must be a whole number"):
        EvolutionGenerator(REFERENCE).generate(1, ELEMENTS, {"n_atoms": 2.5}, 0, tmp_path)
    high = [atoms for atoms in pool if atoms.info["e_above_hull"] > 0.25]
    with pytest.raises(ConfigError, match="max_e_above_hull = 0.2 leaves none as a parent; raise one of the two"):
        EvolutionGenerator(REFERENCE).finetune(high, tmp_path, 0)
    with pytest.raises(ConfigError, match="of the 0 structures of the pool"):
        EvolutionGenerator(REFERENCE).finetune([], tmp_path, 0)


def test_importing_it_is_cheap():
    script = "import sys, chemloop.generator.evolution; assert not {'torch', 'pymatgen', 'pyxtal'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
