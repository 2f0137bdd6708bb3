"""Labels in the files of others: right species, or one sentence that says what is wrong."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from chemloop.physics.structures import set_results, write_structures
from chemloop.runtime.errors import StructureError
from chemloop.runtime.label_cache import LabelCache
from chemloop.workflow.label_files import read_deepmd, write_deepmd
from chemloop.workflow.labels import Labels
from tests import vasp_standin


def label(atoms: Atoms, energy: float = -1.0) -> Atoms:
    atoms.positions += 0.01
    return set_results(atoms, "label", energy, np.full((len(atoms), 3), energy), np.eye(3) * energy, "spring-1")


def rejected(tmp_path: Path, path: Path, form: str) -> str:
    cache = LabelCache(tmp_path / "cache")
    with pytest.raises(StructureError) as caught:
        Labels("import", str(path), form, "theirs")._import(cache)
    assert list(cache.calculations()) == []
    return str(caught.value)


def test_mixed_systems_keep_their_species(tmp_path):
    dpdata = pytest.importorskip("dpdata")
    wanted = [bulk("LiS", "rocksalt", 5.0), bulk("PS", "rocksalt", 5.2), bulk("Li")]
    write_deepmd(tmp_path / "single", [label(atoms, -1.0 - k) for k, atoms in enumerate(wanted)])
    folders = [marker.parent for marker in (tmp_path / "single").rglob("type.raw")]
    single = dpdata.MultiSystems(*(dpdata.LabeledSystem(str(folder), fmt="deepmd/npy") for folder in folders))
    single.to("deepmd/npy/mixed", str(tmp_path / "mixed"))
    found = sorted(read_deepmd(tmp_path / "mixed"), key=lambda atoms: -atoms.info["label_energy"])
    assert [atoms.get_chemical_formula() for atoms in found] == ["LiS", "PS", "Li"]
    for atoms, original in zip(found, wanted, strict=True):
        order = [list(original.symbols).index(symbol) for symbol in atoms.symbols]
        assert atoms.positions == pytest.approx(original.positions[order])
        assert atoms.info["label_stress"] == pytest.approx(original.info["label_stress"], abs=1e-6)


def test_deepmd_folders_that_make_no_labels(tmp_path):
    pytest.importorskip("dpdata")
    write_deepmd(tmp_path / "data", [label(bulk("LiS", "rocksalt", 5.0))])
    (folder,) = (marker.parent for marker in (tmp_path / "data").rglob("type.raw"))
    (folder / "nopbc").touch()
    assert "is not periodic (nopbc)" in rejected(tmp_path, tmp_path / "data", "deepmd")
    (folder / "nopbc").unlink()
    box = (folder / "set.000" / "box.npy").read_bytes()
    (folder / "set.000" / "box.npy").write_bytes(box[:20])
    assert f"{folder} is not a readable deepmd/npy system" in rejected(tmp_path, tmp_path / "data", "deepmd")
    (folder / "set.000" / "box.npy").write_bytes(box)
    (folder / "set.000" / "force.npy").rename(folder / "kept.npy")
    assert "has no energies or no forces" in rejected(tmp_path, tmp_path / "data", "deepmd")
    (folder / "kept.npy").rename(folder / "set.000" / "force.npy")
    (folder / "type_map.raw").write_text("Li_sv\nS\n")
    assert "type_map.raw: Li_sv: not chemical symbols" in rejected(tmp_path, tmp_path / "data", "deepmd")
    (folder / "type_map.raw").unlink()
    assert "has no type_map.raw, so its species are not known" in rejected(tmp_path, tmp_path / "data", "deepmd")


def test_extxyz_files_that_make_no_labels(tmp_path):
    path = tmp_path / "labels.extxyz"
    path.write_text("nothing of the kind\n")
    assert f"{path} is not a readable extxyz file" in rejected(tmp_path, path, "extxyz")
    assert f"{tmp_path} is a folder" in rejected(tmp_path, tmp_path, "extxyz")
    bare = bulk("Cu")
    write(path, [label(bulk("Cu")), bare], format="extxyz")
    message = rejected(tmp_path, path, "extxyz")
    assert message == f"{path}, structure 1 has no energy, no forces, no stress; all three make a label"
    partial = label(bulk("Cu"))
    del partial.arrays["label_forces"]
    write_structures(path, [partial])
    assert "structure 0 has no forces; all three" in rejected(tmp_path, path, "extxyz")


def test_compressed_and_numbered_vasp_runs(tmp_path):
    content = vasp_standin.recorded("relax").encode("latin-1")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "vasprun.xml.relax1.gz").write_bytes(gzip.compress(content))
    (tmp_path / "a" / "vasprun.xml.relax1.gz.backup").write_text("not read")
    done = Labels("import", str(tmp_path / "a"), "vasp", "theirs")._import(LabelCache(tmp_path / "cache"))
    assert "3 new labels of 3" in done
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "vasprun.xml.gz").write_bytes(gzip.compress(content)[:-100])
    with pytest.raises(StructureError, match="b/vasprun.xml.gz: vasprun.xml.gz cannot be unpacked"):
        Labels("import", str(tmp_path / "b"), "vasp", "theirs")._import(LabelCache(tmp_path / "cache"))
