"""The label cache under concurrent readers and writers, with a bound; and the labels that go out of it and into it."""

import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from chemloop.physics.structures import read_structures, set_results
from chemloop.runtime.disk import write_json
from chemloop.runtime.errors import ConfigError, EnergyFrameError, StructureError
from chemloop.runtime.label_cache import LabelCache, canonical
from chemloop.workflow.labels import Labels, summary
from tests import vasp_standin
from tests.unit.test_corrections import TITLES


def frame(number: int, name: str = "spring-1") -> Atoms:
    atoms = bulk("Cu", cubic=True) if number % 2 else bulk("NaCl", "rocksalt", 5.6)
    atoms.positions += np.random.default_rng(number).normal(scale=0.05, size=(len(atoms), 3))
    forces = np.random.default_rng(number).normal(size=(len(atoms), 3))
    return set_results(atoms, "label", -1.0 - number, forces, np.diag([0.01, 0.02, 0.03]), name)


def fill(cache: LabelCache, n: int, name: str = "spring-1") -> list[str]:
    keys = []
    for number in range(n):
        keys.append(cache.key(frame(number), "static", name))
        cache.put(keys[-1], [frame(number, name)])
    return keys


def hammer(folder: str, seed: int, max_gb: float | None, failures: "multiprocessing.Queue[str]") -> None:
    """Read and write the same few keys many times; whatever is read must be whole and the right one."""
    cache = LabelCache(Path(folder), max_gb)
    rng = np.random.default_rng(seed)
    try:
        for number in rng.integers(8, size=60):
            key = cache.key(frame(number), "static", "spring-1")
            found = cache.get(key)
            if found is not None and abs(found[0].info["label_energy"] + 1 + number) > 1e-9:
                failures.put(f"{number}: {found[0].info}")
            cache.put(key, [frame(number)])
    except Exception as error:
        failures.put(repr(error))


@pytest.mark.parametrize("max_gb", [None, 4e-6])
def test_readers_and_writers_at_once(tmp_path, max_gb):
    context = multiprocessing.get_context("fork")
    failures = context.Queue()
    processes = [context.Process(target=hammer, args=(str(tmp_path), seed, max_gb, failures)) for seed in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
        assert process.exitcode == 0
    assert failures.empty(), failures.get()
    assert not list(tmp_path.glob("*/.*")), "temporary files were left"
    if max_gb is None:
        assert sum(1 for _ in LabelCache(tmp_path).calculations()) == 8


def test_bound_removes_what_was_not_used_for_longest(tmp_path):
    keys = fill(LabelCache(tmp_path), 5)
    sizes = [next(tmp_path.glob(f"*/{key}.extxyz")).stat().st_size for key in keys]
    for age, key in enumerate(keys):
        os.utime(next(tmp_path.glob(f"*/{key}.extxyz")), (1e9 + age, 1e9 + age))
    bounded = LabelCache(tmp_path, max_gb=(sum(sizes) - 1) / 1e9)
    assert bounded.get(keys[0]) is not None  # used now, so it stays
    bounded.put(keys[4], [frame(4)])
    assert [key in bounded for key in keys] == [True, False, True, True, True]


def test_cache_of_another_version_is_refused(tmp_path):
    fill(LabelCache(tmp_path), 1)
    LabelCache(tmp_path)
    write_json(tmp_path / "cache.json", {"format": 7})
    with pytest.raises(ConfigError, match=r"another version of ChemLoop \(format 7, this one reads 2\).*label_cache="):
        LabelCache(tmp_path)


def test_summary_counts_by_energy_frame(tmp_path):
    cache = LabelCache(tmp_path)
    fill(cache, 3)
    fill(cache, 2, "other-2")
    lines = summary(cache)
    assert lines[0] == "other-2: 2 calculations, 2 frames of Cl-Cu-Na"
    assert lines[1].startswith("spring-1: 3 calculations, 3 frames")
    assert "5 calculations" in lines[2] and "no bound" in lines[2]


@pytest.mark.parametrize(("form", "name"), [("extxyz", "labels.extxyz"), ("deepmd", "labels")])
def test_export_and_import_give_the_same_labels(tmp_path, form, name):
    cache, other = LabelCache(tmp_path / "a"), LabelCache(tmp_path / "b")
    fill(cache, 4)
    path = str(tmp_path / name)
    assert "4 frames of spring-1" in Labels("export", path, form)._export(cache)
    importing = Labels("import", path, form, None if form == "extxyz" else "theirs")
    assert "4 new labels of 4" in importing._import(other)
    assert "0 new labels of 4" in importing._import(other)
    frames = sorted((f for fs in other.calculations() for f in fs), key=lambda f: -f.info["label_energy"])
    assert {f.info["energy_frame"] for f in frames} == {"spring-1" if form == "extxyz" else "imported-theirs"}
    for number, found in enumerate(frames):
        wanted = frame(number)
        order = canonical(wanted)[2]
        assert found.info["label_energy"] == pytest.approx(wanted.info["label_energy"], abs=1e-6)
        assert found.arrays["label_forces"] == pytest.approx(wanted.arrays["label_forces"][order], abs=1e-6)
        assert found.info["label_stress"] == pytest.approx(wanted.info["label_stress"], abs=1e-6)


def test_vasp_runs_become_a_separate_frame(tmp_path):
    for name in ("relax", "static"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vasprun.xml").write_text(vasp_standin.recorded(name), encoding="latin-1")
    cache = LabelCache(tmp_path / "cache")
    with pytest.raises(EnergyFrameError, match="workflow.frame=NAME.*a separate energy frame, imported-NAME"):
        Labels("import", str(tmp_path), "vasp")._import(cache)
    # the single point is of a structure that the relaxation went through
    assert "3 new labels of 4, energy frame imported-si-pbe" in Labels(
        "import", str(tmp_path), "vasp", "si-pbe"
    )._import(cache)
    (tmp_path / "relax" / "vasprun.xml").write_text(vasp_standin.recorded("relax")[:-3000], encoding="latin-1")
    with pytest.raises(StructureError, match="relax/vasprun.xml is truncated after [23] ionic steps"):
        Labels("import", str(tmp_path), "vasp", "si-pbe")._import(cache)


def test_vasp_runs_of_two_levels_of_theory_are_no_frame(tmp_path):
    for name in ("relax", "ions_unconverged"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vasprun.xml").write_text(vasp_standin.recorded(name), encoding="latin-1")
    cache = LabelCache(tmp_path / "cache")
    with pytest.raises(EnergyFrameError, match="met: cutoff 300 eV and 250 eV; they are separate energy frames"):
        Labels("import", str(tmp_path), "vasp", "si-pbe")._import(cache)
    assert list(cache.calculations()) == []
    Labels("import", str(tmp_path / "relax"), "vasp", "si-pbe")._import(cache)
    with pytest.raises(EnergyFrameError, match="met: cutoff 250 eV and 300 eV"):
        Labels("import", str(tmp_path / "ions_unconverged"), "vasp", "si-pbe")._import(cache)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('name="ISMEAR">     0<', 'name="ISMEAR">    -5<'), "ISMEAR 0 with SIGMA 0.05 eV and -5"),
        (('name="SIGMA">      0.05', 'name="SIGMA">      0.20'), "0 with SIGMA 0.05 eV and 0 with SIGMA 0.2 eV"),
        (('name="ISPIN">     2<', 'name="ISPIN">     1<'), "ISPIN 2 and 1"),
        (("7        7        7 <", "4        4        4 <"), "k-meshes of .*the allowed factor of 1.5 apart"),
    ],
)
def test_vasp_runs_of_another_convergence_are_no_frame(tmp_path, change, message):
    text = vasp_standin.recorded("relax")
    assert change[0] in text
    for name, content in (("as_recorded", text), ("changed", text.replace(*change))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vasprun.xml").write_text(content, encoding="latin-1")
    cache = LabelCache(tmp_path / "cache")
    Labels("import", str(tmp_path / "as_recorded"), "vasp", "si-pbe")._import(cache)
    n_before = len(list(cache.calculations()))
    with pytest.raises(EnergyFrameError, match=f"met: .*{message}.*; they are separate energy frames"):
        Labels("import", str(tmp_path / "changed"), "vasp", "si-pbe")._import(cache)
    assert len(list(cache.calculations())) == n_before
    Labels("import", str(tmp_path / "changed"), "vasp", "another")._import(cache)


def test_extxyz_of_others(tmp_path):
    from ase.io import write

    atoms = bulk("Cu")
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0, forces=np.zeros((1, 3)), stress=np.zeros(6))
    write(tmp_path / "a.xyz", atoms, format="extxyz")
    cache = LabelCache(tmp_path / "cache")
    assert "1 new labels" in Labels("import", str(tmp_path / "a.xyz"), "extxyz", "x")._import(cache)
    write(tmp_path / "b.xyz", bulk("Cu"), format="extxyz")
    with pytest.raises(StructureError, match="structure 0 has no energy, forces or stress"):
        Labels("import", str(tmp_path / "b.xyz"), "extxyz", "x")._import(cache)


def test_export_does_not_mix_frames(tmp_path):
    cache = LabelCache(tmp_path / "a")
    with pytest.raises(StructureError, match="holds no labels"):
        Labels("export", str(tmp_path / "x"))._export(cache)
    fill(cache, 2)
    fill(cache, 2, "other-2")
    with pytest.raises(EnergyFrameError, match="2 levels of theory, which do not mix: other-2, spring-1"):
        Labels("export", str(tmp_path / "x.extxyz"))._export(cache)
    with pytest.raises(EnergyFrameError, match="workflow.frame = none: the cache has other-2, spring-1"):
        Labels("export", str(tmp_path / "x.extxyz"), frame="none")._export(cache)
    Labels("export", str(tmp_path / "x.extxyz"), frame="other-2")._export(cache)
    assert len(read_structures(tmp_path / "x.extxyz")) == 2


def energies(cache: LabelCache, name: str, **per_atom: float) -> None:
    """Labels of rocksalt LiS and of the elements, eV/atom."""
    for formula, energy in per_atom.items():
        atoms = bulk("LiS", "rocksalt", 5.0) if formula == "LiS" else bulk(formula, "fcc", 4.0)
        forces, stress = np.zeros((len(atoms), 3)), np.zeros((3, 3))
        set_results(atoms, "label", energy * len(atoms), forces, stress, name)
        if name.startswith("vasp-"):
            potcars = {element: TITLES[element] for element in set(atoms.symbols)}
            theory = {"functional": "PBE", "cutoff": 520.0, "hubbards": dict.fromkeys(potcars, 0.0), "potcars": potcars}
            atoms.info["vasp_theory"] = theory
        cache.put(cache.key(atoms, "static", name), [atoms])


def test_hull_of_the_cache_with_and_without_corrections(tmp_path, capsys):
    settings = SimpleNamespace(label_cache=str(tmp_path), label_cache_gb=None)
    energies(LabelCache(tmp_path), "vasp-mprelaxset-1", Li=-1.9, S=-4.0, LiS=-2.85)
    Labels("hull").run(None, settings, {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "vasp-mprelaxset-1: the lowest of 3 labels for each of 3 compositions"
    assert [line.split() for line in lines[2:]] == [
        ["Li", "1", "-1.900", "0.000"],
        ["S", "1", "-4.000", "0.000"],
        ["LiS", "2", "-2.850", "0.100"],
    ]
    Labels("hull", corrections="mp2020").run(None, settings, {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("vasp-mprelaxset-1+mp2020: ")
    # -0.503 eV per S of a sulfide: LiS is stable now
    assert {line.split()[0]: float(line.split()[2]) for line in lines[2:]}["LiS"] == pytest.approx(-3.1015, abs=1e-3)
    assert {line.split()[3] for line in lines[2:]} == {"0.000"}


def test_hull_of_the_cache_refuses(tmp_path):
    settings = SimpleNamespace(label_cache=str(tmp_path), label_cache_gb=None)
    energies(LabelCache(tmp_path), "gpaw-1", Li=-1.9, LiS=-2.85)
    with pytest.raises(StructureError, match="no structure of the element S alone"):
        Labels("hull").run(None, settings, {})
    with pytest.raises(EnergyFrameError, match="corrections are for VASP labels.*not for gpaw-1"):
        Labels("hull", corrections="mp2020").run(None, settings, {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"action": "sell"}, "workflow.action = sell: allowed are list, hull, export, import"),
        ({"action": "hull", "corrections": "mine"}, "workflow.corrections = mine: allowed are none, mp2020"),
        ({"action": "list", "corrections": "mp2020"}, "corrections are for hulls"),
        ({"action": "export"}, "give workflow.path=PATH"),
        ({"action": "export", "path": "x", "format": "vasp"}, "export knows extxyz, deepmd"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        Labels(**settings)


def test_import_of_nothing(tmp_path):
    cache = LabelCache(tmp_path / "cache")
    with pytest.raises(StructureError, match="there is no such file or folder"):
        Labels("import", str(tmp_path / "gone"))._import(cache)
    with pytest.raises(StructureError, match="holds no labels in format vasp"):
        Labels("import", str(tmp_path), "vasp", "x")._import(cache)
