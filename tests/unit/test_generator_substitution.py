"""generator=substitution: which ions replace which, where prototypes come from, what it makes and what it refuses."""

import json
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write
from ase.spacegroup import crystal
from omegaconf import OmegaConf

from chemloop.generator import prototypes as module
from chemloop.generator.prototypes import aflow_library, files, materials_project, oxidation_states
from chemloop.generator.random import known_geometry
from chemloop.generator.substitution import SubstitutionGenerator, primitive
from chemloop.generator.substitution_proposals import exchange_probabilities, load_table, related_systems
from chemloop.physics import decoration
from chemloop.physics.decoration import Ion, Prototype, decorations
from chemloop.physics.geometry import overlap
from chemloop.physics.matching import Matcher, space_group
from chemloop.physics.structures import check_structure
from chemloop.reference import read_reference
from chemloop.runtime.errors import ConfigError, StructureError

ELEMENTS = ["Li", "P", "S"]
REFERENCE = "package:li-p-s"
NEGATIVITIES = {"Li": 0.98, "P": 2.19, "S": 2.58}


@pytest.fixture(scope="module")
def crystals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate")
    made = SubstitutionGenerator(REFERENCE).generate(40, ELEMENTS, {"energy_above_hull": 0.0}, 3, folder)
    return made, json.loads((folder / "yield.json").read_text())


def test_crystals_keep_distances_volumes_and_sizes(crystals):
    made, report = crystals
    known = known_geometry(REFERENCE, tuple(ELEMENTS), "references")
    assert len(made) == 40
    for atoms in made:
        check_structure(atoms)
        assert set(atoms.symbols) <= set(ELEMENTS) and 2 <= len(atoms) <= 40
        counts = np.array([sum(atoms.symbols == element) for element in ELEMENTS])
        limits, (low, high) = known.near(counts, 5)
        assert overlap(atoms, limits, known.numbers) <= 1 + 1e-6
        assert low * (1 - 1e-6) <= atoms.cell.volume / len(atoms) <= 1.2 * high * (1 + 1e-6)
        assert atoms.info["operator"] in ("exchange", "decoration")
        assert atoms.info["parents"].startswith("aflow/") and " " not in atoms.info["parents"]
    assert report["attempts"] == len(made) + sum(report["rejected"].values())
    assert len(made) <= report["n_proposals"] and report["cpu_seconds"] > 0


def test_none_is_known_and_no_two_are_equal(crystals):
    made, _ = crystals
    assert Matcher().duplicates(made) == list(range(len(made)))
    assert not any(Matcher().is_known(made, read_reference(REFERENCE, ELEMENTS, 0.0, "references")))


def test_known_structures_come_again_on_request(tmp_path):
    made = SubstitutionGenerator(REFERENCE, keep_known=True).generate(200, ELEMENTS, {}, 0, tmp_path)
    references = read_reference(REFERENCE, ELEMENTS, 0.0, "references")
    assert any(Matcher().is_known(made, references))
    phases = {
        space_group(atoms) for atoms in made if atoms.symbols.formula.reduce()[0].count() == Counter(Li=3, P=1, S=4)
    }
    assert "Pmn2_1" in phases  # gamma-Li3PS4, an enargite
    assert "known" not in json.loads((tmp_path / "yield.json").read_text())["rejected"]


def test_the_seed_decides(crystals, tmp_path):
    made, _ = crystals
    generator = SubstitutionGenerator(REFERENCE)
    assert generator.generate(5, ELEMENTS, {}, 3, tmp_path) == made[:5]
    assert generator.generate(5, ELEMENTS, {}, 4, tmp_path) != made[:5]


def test_likely_proposals_come_first_where_the_bias_is_strong(tmp_path):
    generator = SubstitutionGenerator(REFERENCE, probability_bias=20.0, keep_known=True)
    (first,) = generator.generate(1, ELEMENTS, {}, 0, tmp_path)
    assert first.info["parents"] == generator.proposals(ELEMENTS, (2, 40))[0].prototype.name


def test_cells_of_one_size(tmp_path):
    made = SubstitutionGenerator(REFERENCE).generate(50, ELEMENTS, {"n_atoms": 16.0}, 0, tmp_path)
    assert made and {len(atoms) for atoms in made} == {16}


def test_fewer_where_there_are_no_more(tmp_path):
    generator = SubstitutionGenerator(REFERENCE, min_probability=1e-4)
    made = generator.generate(100, ELEMENTS, {}, 0, tmp_path)
    report = json.loads((tmp_path / "yield.json").read_text())
    assert 0 < len(made) <= report["n_proposals"] == report["attempts"] < 100


def test_another_system_from_a_file(tmp_path):
    write(tmp_path / "known.extxyz", [bulk("Na", "bcc", 4.29), bulk("Cl", "fcc", 5.5), bulk("NaCl", "rocksalt", 5.64)])
    generator = SubstitutionGenerator(str(tmp_path / "known.extxyz"), max_atoms=8)
    made = generator.generate(3, ["Na", "Cl"], {}, 0, tmp_path)
    assert len(made) == 3 and all(set(atoms.symbols) == {"Na", "Cl"} for atoms in made)
    assert not any(Matcher().is_known(made, [bulk("NaCl", "rocksalt", 5.64)]))


def test_probabilities_are_those_of_pymatgen():
    from pymatgen.core import Species

    table = load_table()
    new, old = [Species("Li", 1), Species("P", 5), Species("S", -2)], [Species("Cu", 1), Species("As", 5), None]
    old[2] = Species("S", -2)
    found = {
        proposal.prototype.name: proposal.decoration.probability
        for proposal in SubstitutionGenerator(REFERENCE).proposals(ELEMENTS, (2, 40))
        if proposal.keeps_symmetry and {ion.symbol for ion in proposal.decoration.ions} == set(ELEMENTS)
    }
    enargite = next(p for name, p in found.items() if "AB3C4_oP16_31" in name)
    assert enargite == pytest.approx(table.cond_prob_list(new, old))


def test_unknown_ions_have_the_weight_of_unseen_exchanges():
    table = load_table()
    assert set(exchange_probabilities(Ion("S", -2), [Ion("Li", 1), Ion("S", -2)], table)) == {Ion("S", -2)}
    (unknown,) = exchange_probabilities(Ion("P", -3), [Ion("S", -2)], table).values()
    assert unknown == pytest.approx(1 / len(table.species))


def two_cation_sites():
    """Li2O3 as it were: the cubic perovskite ABO3 with one element on A and B."""
    atoms = crystal(
        ["Fe", "Fe", "O"], [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)], spacegroup=221, cellpar=[4] * 3 + [90] * 3
    )
    return Prototype.of("perovskite", atoms, np.where(atoms.numbers == 26, 3, -2))


def test_sites_of_one_ion_may_differ(monkeypatch):
    prototype = two_cation_sites()
    assert len(prototype.ions) == 3
    replacements = {
        Ion("Fe", 3): {Ion("Li", 1): 0.1, Ion("P", 5): 0.2, Ion("P", 3): 0.3},
        Ion("O", -2): {Ion("S", -2): 0.5},
    }
    found = {
        tuple(ion.symbol + str(ion.charge) for ion in entry.ions if ion.charge > 0): entry.probability
        for entry in decorations(prototype, replacements, NEGATIVITIES, 1e-9)
    }
    assert found == pytest.approx({("Li1", "P5"): 0.01, ("P5", "Li1"): 0.01, ("P3", "P3"): 0.15})
    assert len(decorations(prototype, replacements, NEGATIVITIES, 0.1)) == 1
    monkeypatch.setattr(decoration, "MAX_SPLITS", 1)
    assert len(decorations(prototype, replacements, NEGATIVITIES, 1e-9)) == 1
    split = next(entry for entry in decorations(prototype, replacements, NEGATIVITIES, 1e-9))
    assert str(prototype.decorated(split).symbols.formula.count()) == "{'P': 2, 'S': 3}"


def test_only_neutral_salts(monkeypatch):
    prototype = Prototype.of("NaCl", bulk("NaCl", "rocksalt", 5.64), np.array([1, -1]))
    replacements = {Ion("Na", 1): {Ion("S", 2): 0.5, Ion("Li", 1): 0.5}, Ion("Cl", -1): {Ion("P", -2): 0.5}}
    assert (
        decorations(prototype, replacements, NEGATIVITIES, 1e-9) == []
    )  # S2+ with P2- is none, Li+ with P2- not neutral
    replacements[Ion("Cl", -1)] = {}
    assert decorations(prototype, replacements, NEGATIVITIES, 1e-9) == []


def test_prototypes_are_primitive_cells_and_keep_the_charges_of_sites():
    conventional = bulk("NaCl", "rocksalt", 5.64, cubic=True)
    prototype = Prototype.of("NaCl", conventional, np.where(conventional.numbers == 11, 1, -1))
    assert len(prototype.atoms) == 2 and sorted(prototype.charges) == [-1, 1]
    assert prototype.charges[prototype.atoms.numbers == 11] == 1
    assert len(primitive(conventional)) == 2


def test_oxidation_states():
    table = {name.split("-")[0]: oxidation_states(atoms) for name, atoms in aflow_library()}
    assert len(table) > 150
    assert sorted(set(table["aflow/Cu3AsS4"])) == [-2, 1, 5]
    assert sorted(set(table["aflow/Mn3O4"])) == [-2, 2, 3]  # one element with two states
    assert table["aflow/MgZn2"] is None  # an alloy
    given = bulk("NaCl", "rocksalt", 5.64)
    given.new_array("oxidation_states", np.array([3, -3]))
    assert list(oxidation_states(given)) == [3, -3]


def test_related_systems_are_those_of_like_ions():
    systems = related_systems(ELEMENTS, load_table(), 8)
    assert systems[0] == "Na-P-S" and {"Li-P-Se", "K-P-S"} <= set(systems)
    assert len(systems) == 8 and "Li-P-S" not in systems


def test_prototypes_from_files(tmp_path):
    anti = bulk("NaCl", "rocksalt", 5.64)
    anti.info["name"] = "my rock salt"
    write(tmp_path / "a.extxyz", [anti, bulk("ZnS", "zincblende", 5.41)])
    write(tmp_path / "b.cif", bulk("CsCl", "cesiumchloride", 4.1))
    found = dict(files(tmp_path))
    assert list(found) == ["my_rock_salt", "a-1", "b-0"]
    generator = SubstitutionGenerator(REFERENCE, prototypes=[str(tmp_path)], min_probability=1e-9)
    made = generator.generate(5, ELEMENTS, {}, 0, tmp_path)
    assert {atoms.info["parents"] for atoms in made} == set(found)


class FakeRester:
    def __init__(self, documents, error=None):
        self.asked = []
        self.documents, self.error = documents, error
        self.materials = SimpleNamespace(summary=SimpleNamespace(search=self.search))

    def search(self, **query):
        self.asked.append(query)
        if self.error is not None:
            raise self.error
        return self.documents

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


@pytest.fixture
def rester(monkeypatch):
    from pymatgen.io.ase import AseAtomsAdaptor

    structure = AseAtomsAdaptor.get_structure(bulk("NaCl", "rocksalt", 5.64))
    fake = FakeRester([SimpleNamespace(material_id=f"mp-{k}", structure=structure) for k in (22862, 1)])
    monkeypatch.setattr(module, "open_rester", lambda asked_by: fake)
    return fake


def test_prototypes_of_the_materials_project_are_asked_for_once(rester, tmp_path):
    for _ in range(2):
        found = materials_project(["Na-P-S", "Li-P-Se"], tmp_path)
        assert [name for name, _ in found] == ["mp-1", "mp-22862"]
    (query,) = rester.asked
    assert query["chemsys"] == ["Na-P-S", "Li-P-Se"] and query["include_gnome"] is False
    assert query["energy_above_hull"] == (0.0, 0.1)
    generator = SubstitutionGenerator(
        REFERENCE, str(tmp_path), prototypes=["materials_project"], related_systems=["Na-Cl"], min_probability=1e-9
    )
    made = generator.generate(3, ELEMENTS, {}, 0, tmp_path)
    assert len(made) == 1 and made[0].info["parents"] in ("mp-1", "mp-22862")  # equal crystals
    assert rester.asked[-1]["chemsys"] == ["Na-Cl"]


def test_the_materials_project_does_not_answer(rester, tmp_path, monkeypatch):
    rester.error = OSError("no route")
    with pytest.raises(StructureError, match="gave no structures of Na-P-S .*no route.*check the key and the network"):
        materials_project(["Na-P-S"], tmp_path)
    rester.error, rester.documents = None, []
    with pytest.raises(StructureError, match="has no structures of Na-P-S; name other systems"):
        materials_project(["Na-P-S"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_materials_project_needs_a_key(monkeypatch, tmp_path):
    for name in ("MP_API_KEY", "PMG_MAPI_KEY"):
        monkeypatch.delenv(name, raising=False)
    generator = SubstitutionGenerator(REFERENCE, str(tmp_path), prototypes=["materials_project"])
    with pytest.raises(ConfigError, match="generator.prototypes = materials_project needs a key: set MP_API_KEY"):
        generator.generate(1, ELEMENTS, {}, 0, tmp_path)


def test_bad_prototypes(tmp_path):
    def made_of(source):
        SubstitutionGenerator(REFERENCE, prototypes=[str(source)]).generate(1, ELEMENTS, {}, 0, tmp_path)

    with pytest.raises(ConfigError, match="generator.prototypes has alfow: there is no such file.*allowed are aflow"):
        made_of("alfow")
    (tmp_path / "noise.cif").write_text("this is no CIF\n")
    with pytest.raises(StructureError, match=r"has .*noise.cif, which ASE cannot read"):
        made_of(tmp_path / "noise.cif")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StructureError, match="empty, which holds no structure"):
        made_of(tmp_path / "empty")
    write(tmp_path / "molecule.xyz", Atoms("NaCl", [[0, 0, 0], [0, 0, 2.4]]))
    with pytest.raises(StructureError, match="only crystals"):
        made_of(tmp_path / "molecule.xyz")
    shared = bulk("NaCl", "rocksalt", 5.64)
    shared.info["occupancy"] = {"0": {"Na": 0.5, "K": 0.5}, "1": {"Cl": 1.0}}
    shared.set_array("spacegroup_kinds", np.array([0, 1]))
    write(tmp_path / "shared.cif", shared)
    with pytest.raises(StructureError, match="shared.cif, structure 0 has partially occupied sites"):
        made_of(tmp_path / "shared.cif")


def test_impossible_requests(tmp_path):
    generator = SubstitutionGenerator(REFERENCE)
    with pytest.raises(ConfigError, match="no crystal of 1 to 1 atoms whose ions those of Li, P, S may replace"):
        generator.generate(1, ELEMENTS, {"n_atoms": 1.0}, 0, tmp_path)
    with pytest.raises(ConfigError, match="whose ions those of Li may replace; give other prototypes"):
        generator.generate(1, ["Li"], {}, 0, tmp_path)
    with pytest.raises(ConfigError, match="generator.reference is null"):
        SubstitutionGenerator(None).generate(1, ELEMENTS, {}, 0, tmp_path)
    with pytest.raises(ConfigError, match="cannot be fine-tuned"):
        generator.finetune([], tmp_path, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prototypes": []}, r"generator.prototypes = \[\]: must be a list of aflow"),
        ({"n_related": 0}, "generator.n_related = 0: must be 1 or above"),
        ({"min_atoms": 0}, "generator.min_atoms = 0: must be 1 or above"),
        ({"max_atoms": 1}, "generator.max_atoms = 1: must be generator.min_atoms = 2 or above"),
        ({"min_probability": 0.0}, "generator.min_probability = 0.0: must be between 0 and 1"),
        ({"probability_bias": -1.0}, "generator.probability_bias = -1.0: must be 0 or above"),
        ({"n_neighbours": 0}, "generator.n_neighbours = 0"),
        ({"min_distance_scale": 0.0}, "generator.min_distance_scale = 0.0: must be above 0"),
        ({"max_volume_scale": 0.5}, "generator.max_volume_scale = 0.5: must be 1 or above"),
        ({"n_pushes": 0}, "generator.n_pushes = 0"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(ConfigError, match=message):
        SubstitutionGenerator(REFERENCE, **values)


def test_the_yaml_is_the_schema():
    node = OmegaConf.load("conf/generator/substitution.yaml")
    assert node.pop("_target_") == "chemloop.generator.substitution.SubstitutionGenerator"
    assert node.pop("python") is None
    node.reference, node.downloads = REFERENCE, "outputs/references"
    generator = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SubstitutionGenerator), node))
    assert generator == SubstitutionGenerator(REFERENCE)
    assert set(node) == set(generator.__dataclass_fields__) - {"can_learn", "understands"}


def test_importing_it_is_cheap():
    script = (
        "import sys, chemloop.generator.substitution; assert not {'torch', 'pymatgen', 'pyxtal'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
