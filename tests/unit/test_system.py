"""The chemical system and its known structures: what is read, and what is refused with which message."""

from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write
from omegaconf import OmegaConf

from chemloop import reference
from chemloop.runtime.errors import ConfigError, StructureError
from chemloop.system import System

NA = bulk("Na", "bcc", 4.29)
P = bulk("P", "sc", 2.4)
NA3P = Atoms(
    "Na3P", scaled_positions=[[0.5] * 3, [0.25] * 3, [0.75] * 3, [0] * 3], cell=6.6 * (1 - np.eye(3)) / 2, pbc=True
)


@pytest.fixture
def file(tmp_path):
    def make(structures, name="known.extxyz", **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, structures, **options)
        return str(path)

    return make


def references(path, elements=("Na", "P")):
    return System(list(elements), str(path)).references()


def test_the_packaged_system_is_complete():
    system = System(["Li", "P", "S"], "package:li-p-s")
    structures = system.references()
    assert (system.name, system.mobile_ion) == ("li-p-s", "Li")
    assert [atoms.info["id"] for atoms in structures] == [f"i00-r{n:04d}" for n in range(75)]
    assert {atoms.info["name"] for atoms in structures} >= {"mp-985583", "mp-1153"}
    assert structures[0].info == {"id": "i00-r0000", "name": "mp-10173", "formula": "Li", "phase": "hcp Li"}
    assert all(set(atoms.arrays) == {"numbers", "positions"} for atoms in structures)
    assert system.references()[40] == structures[40]


def test_the_yaml_is_the_schema():
    node = OmegaConf.load("conf/system/li-p-s.yaml")
    node.pop("_target_")
    node.downloads = "references"
    system = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(System), node))
    assert system.bond_cutoffs == {"P-P": 2.5, "P-S": 2.35, "S-S": 2.25}
    # Another system from the command line, on top of this file.
    node.elements, node.reference = ["Na", "Ge", "S"], "known.extxyz"
    system = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(System), node))
    assert (system.name, system.mobile_ion) == ("na-ge-s", "Na")
    assert system.bond_cutoffs == {"Ge-Ge": 2.76, "Ge-S": 2.587, "S-S": 2.25}


def test_mobile_ion_and_bonds():
    assert System(["Si", "O"]).mobile_ion is None
    assert System(["Li", "Na", "P"]).mobile_ion is None
    assert System(["Li", "Na", "P"], mobile_ion="Na").mobile_ion == "Na"
    assert System(["Li", "P"], mobile_ion=None).bond_cutoffs.keys() == {"Li-Li", "Li-P", "P-P"}
    assert System(["Li", "P", "S"], bond_cutoffs={"S-P": 2.4}).bond_cutoffs["P-S"] == 2.4


def test_the_size_limit_never_takes_an_element():
    system = System(["Li", "P", "S"], "package:li-p-s")
    structures = system.references(max_atoms=3)
    assert {atoms.info["name"] for atoms in structures if len(atoms) > 3} == {
        "mp-1065250"
    }  # the first of the smallest S
    assert {str(atoms.symbols[0]) for atoms in structures if len(set(atoms.symbols)) == 1} == {"Li", "P", "S"}
    every = {atoms.info["id"]: len(atoms) for atoms in system.references()}
    assert all(every[atoms.info["id"]] == len(atoms) for atoms in structures)
    assert len(system.references(max_atoms=16)) == sum(n <= 16 for n in every.values())


@pytest.mark.parametrize("kind", ["extxyz", "cif", "vasp"])
def test_every_format_gives_the_same_crystals(file, tmp_path, kind):
    names = {"cif": "{}.cif", "vasp": "POSCAR_{}", "extxyz": "{}.xyz"}[kind]
    for name, atoms in (("a", NA), ("b", P), ("c", NA3P)):
        file(atoms, f"folder/{names.format(name)}", format=kind)
    (tmp_path / "folder/notes.txt").write_text("not a structure")
    found = references(tmp_path / "folder")
    assert [atoms.info["formula"] for atoms in found] == ["Na", "P", "Na3P"]
    assert [atoms.info["id"] for atoms in found] == ["i00-r0000", "i00-r0001", "i00-r0002"]
    for atoms, expected in zip(found, (NA, P, NA3P), strict=True):
        assert atoms.cell.volume / len(atoms) == pytest.approx(expected.cell.volume / len(expected), rel=1e-5)
        assert "occupancy" not in atoms.info


def test_a_single_file_of_several_structures(file):
    assert len(references(file([NA, P, NA3P]))) == 3


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ([], "system.elements is empty"),
        (["Li", "Xx"], "system.elements has 'Xx', which is no element"),
        (["li", "P"], "did you mean Li?"),
        (["Lii", "P"], "did you mean .*Li"),
        (["Sj", "P"], "did you mean .*S"),
        (["Li", "P", "Li"], r"\[Li,P,Li\] has Li more than once"),
    ],
)
def test_bad_elements(elements, message):
    with pytest.raises(ConfigError, match=message):
        System(elements)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mobile_ion": "Na"}, "system.mobile_ion = Na: must be one of Li, P, auto, or null"),
        ({"name": "a/b"}, "system.name = 'a/b'"),
        ({"bond_cutoffs": {"P-Sx": 2.0}}, "bond_cutoffs has 'P-Sx': must be two element symbols"),
        ({"bond_cutoffs": {"P": 2.0}}, "bond_cutoffs has 'P'"),
        ({"bond_cutoffs": {"P-S": -2.0}}, "bond_cutoffs.P-S = -2.0: must be a distance in A, above 0"),
        ({"min_distance_ratio": 0.0}, "system.min_distance_ratio = 0.0"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(ConfigError, match=message):
        System(["Li", "P"], **values)


def test_no_structure_for_an_element(file):
    with pytest.raises(StructureError, match="no structure of P alone.*add what is missing"):
        references(file([NA, NA3P]))
    with pytest.raises(StructureError, match="system.reference = null has no structure of Na nor of P alone"):
        System(["Na", "P"]).references()


def changed(atoms, **changes):
    atoms = atoms.copy()
    for key, value in changes.items():
        setattr(atoms, key, value)
    return atoms


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (changed(NA, positions=[[np.nan, 0, 0]]), "positions or cell vectors that are not finite"),
        (changed(NA, cell=np.zeros((3, 3))), "volume above zero"),
        (changed(NA, pbc=False), "periodic in three directions"),
        (bulk("K", "bcc", 5.3), "contains K, outside the system Na-P"),
        (NA * (2, 1, 1) + Atoms("Na", [[0.1, 0, 0]]), r"atoms 0 \(Na\) and 2 \(Na\) lie on top of each other, 0.100 A"),
        (NA + Atoms("P", [[0, 0, 0]]), r"atoms 0 \(Na\) and 1 \(P\) lie on top of each other, 0.000 A"),
        (
            bulk("Na", "bcc", 1.5),
            r"atoms 0 \(Na\) and 0 \(Na\) lie on top of each other, 1.299 A apart; at least 1.66 A",
        ),
    ],
)
def test_bad_structures_are_named(file, bad, message):
    path = file([NA, bad], format="extxyz")
    with pytest.raises(StructureError, match=message) as error:
        references(path)
    assert f"{path}, structure 1" in str(error.value)


def test_bad_files(tmp_path, file):
    (tmp_path / "empty.extxyz").touch()
    (tmp_path / "blank.extxyz").write_text("\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary.extxyz").write_bytes(bytes(range(256)))
    (tmp_path / "broken.cif").write_text("data_x\n_cell_length_a 5\n")
    (tmp_path / "POSCAR").write_text("Na\n1.0\n5 0 0\n0 5 0\n")
    (tmp_path / "known.json").write_text("{}")
    whole = (tmp_path / file([NA3P], "whole.extxyz")).read_text().splitlines(keepends=True)
    (tmp_path / "cut.extxyz").write_text("".join(whole[:-1]))
    for name, message in {
        "absent.extxyz": "there is no such file or folder; give an extxyz file",
        "empty.extxyz": "empty.extxyz is empty",
        "blank.extxyz": "blank.extxyz (is not a readable extxyz file|holds no structure)",
        "folder": "no file in this folder is called",
        "binary.extxyz": "binary.extxyz is not a readable extxyz file",
        "cut.extxyz": "cut.extxyz is not a readable extxyz file",
        "broken.cif": "broken.cif holds no structure",
        "POSCAR": "POSCAR is not a readable vasp file",
        "known.json": r"its name must be \*.extxyz",
    }.items():
        with pytest.raises(StructureError, match=message):
            references(tmp_path / name)
    with pytest.raises(ConfigError, match="the package has package:li-p-s"):
        references("package:li-o")


def test_disordered_crystals_are_refused(file, tmp_path):
    path = tmp_path / file(NA, "na.cif")
    path.write_text(path.read_text().replace("1.0000", "0.5000"))
    with pytest.raises(StructureError, match="na.cif, structure 0 .*partially occupied"):
        references(path)


class FakeRester:
    """Answers as mp-api's MPRester does, and remembers what it was asked."""

    def __init__(self, structures):
        self.materials = SimpleNamespace(summary=self)
        self.structures, self.queries = structures, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def search(self, **query):
        self.queries.append(query)
        if isinstance(self.structures, Exception):
            raise self.structures
        return [SimpleNamespace(material_id=name, structure=structure) for name, structure in self.structures]


@pytest.fixture
def materials_project(monkeypatch):
    from pymatgen.io.ase import AseAtomsAdaptor

    crystals = {"mp-3": NA3P, "mp-1": P, "mp-2": NA}
    rester = FakeRester([(name, AseAtomsAdaptor.get_structure(atoms)) for name, atoms in crystals.items()])
    monkeypatch.setattr(reference, "open_rester", lambda: rester)
    return rester


def test_materials_project_is_asked_once(materials_project, tmp_path):
    system = System(["P", "Na"], "materials_project", downloads=str(tmp_path / "references"))
    structures = system.references()
    assert [atoms.info["name"] for atoms in structures] == ["mp-1", "mp-2", "mp-3"]
    assert structures[2].info["formula"] == "Na3P"
    assert system.references() == structures
    (query,) = materials_project.queries
    assert set(query["chemsys"]) == {"P", "Na", "Na-P"} and query["include_gnome"] is False


def test_materials_project_fails_clearly(materials_project, tmp_path):
    system = System(["Na", "P"], "materials_project", downloads=str(tmp_path))
    materials_project.structures = ConnectionError("unreachable")
    with pytest.raises(
        StructureError, match=r"gave no structures of Na-P \(ConnectionError: unreachable\).*check the key"
    ):
        system.references()
    materials_project.structures = []
    with pytest.raises(StructureError, match="has no structures of Na-P"):
        system.references()
    assert list(tmp_path.iterdir()) == []


def test_materials_project_needs_a_key(monkeypatch, tmp_path):
    for name in reference.API_KEYS:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="needs a key: set MP_API_KEY"):
        System(["Na", "P"], "materials_project", downloads=str(tmp_path)).references()
