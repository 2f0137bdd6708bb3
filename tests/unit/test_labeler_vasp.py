"""labeler=vasp without VASP: inputs against pymatgen's own, recorded outputs, and a stand-in that replays them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal

from chemloop.labeler.external import LOG
from chemloop.labeler.vasp import VaspLabeler
from chemloop.labeler.vasp_output import read_steps
from chemloop.physics.limits import residual_force
from chemloop.runtime.errors import ConfigError, ItemFailed
from chemloop.runtime.process import MARK
from tests import vasp_standin

STANDIN = f"{sys.executable} {Path(vasp_standin.__file__)}"

POTCAR = """  PAW_PBE {symbol} 01Jan2000
   {valence}.00000000000000
 parameters from PSCTR are:
   VRHFIN ={symbol}: stand-in, no VASP data
   LEXCH  = PE
   EATOM  =   100.0000 eV,    7.0000 Ry
   TITEL  = PAW_PBE {symbol} 01Jan2000
   LULTRA =        F    use ultrasoft PP ?
   RCORE  =    1.900    outmost cutoff radius
   POMASS =   10.000; ZVAL   =    {valence}.000    mass and valenz
   ENMAX  =  250.000; ENMIN  =  200.000 eV
 END of PSCTR-controll parameters
 local part
  0.1 0.2 0.3
 End of Dataset
"""


@pytest.fixture
def potcars(tmp_path, monkeypatch):
    """A folder of stand-in POTCARs where pymatgen looks for them."""
    folder = tmp_path / "psp" / "POT_GGA_PAW_PBE"
    folder.mkdir(parents=True)
    for symbol, valence in (("Li_sv", 3), ("P", 5), ("S", 6), ("Si", 4)):
        (folder / f"POTCAR.{symbol}").write_text(POTCAR.format(symbol=symbol, valence=valence))
    monkeypatch.setitem(pytest.importorskip("pymatgen.core").SETTINGS, "PMG_VASP_PSP_DIR", str(tmp_path / "psp"))


@pytest.fixture
def no_potcars(monkeypatch):
    monkeypatch.delitem(pytest.importorskip("pymatgen.core").SETTINGS, "PMG_VASP_PSP_DIR", raising=False)


@pytest.fixture
def workdir(tmp_path):
    folder = tmp_path / "calculation"
    folder.mkdir()
    return folder


def lithium_sulfide() -> Atoms:
    atoms = crystal(["Li", "S"], [(0.25, 0.25, 0.25), (0, 0, 0)], spacegroup=225, cellpar=[5.72] * 3 + [90] * 3)
    return atoms[[11, 0, 8, 1, 2, 3, 4, 5, 6, 7, 9, 10]]


def recorded_start(name: str) -> Atoms:
    block = vasp_standin.recorded(name).split("<calculation>")[1] if name != "unfinished" else ""
    if not block:
        return bulk("Si")
    return Atoms("Si2", scaled_positions=vasp_standin.fractional(block), cell=vasp_standin.basis(block), pbc=True)


def labeler(**settings) -> VaspLabeler:
    return VaspLabeler(**{"executable": STANDIN, "poll_s": 0.3, **settings})


def compute(workdir, monkeypatch, *script: dict, name: str = "relax", kind: str = "relax", **settings) -> list[Atoms]:
    vasp = labeler(**settings)
    monkeypatch.setenv("STANDIN", json.dumps(script))
    vasp.write(recorded_start(name), kind, workdir)
    vasp.run(workdir)
    return vasp.read(workdir)


def test_inputs_are_those_of_pymatgen_and_the_paper(potcars, workdir):
    from pymatgen.io.ase import AseAtomsAdaptor
    from pymatgen.io.vasp.inputs import Incar, Kpoints, Poscar
    from pymatgen.io.vasp.sets import MPRelaxSet

    atoms = lithium_sulfide()
    labeler().write(atoms, "relax", workdir)
    theirs = MPRelaxSet(AseAtomsAdaptor.get_structure(atoms).get_sorted_structure(), force_gamma=True)
    incar = Incar.from_file(workdir / "INCAR")
    assert dict(incar) == dict(Incar.from_str(str(theirs.incar)))
    paper = {"ENCUT": 520.0, "EDIFF": 5e-5 * len(atoms), "ISIF": 3, "IBRION": 2, "NSW": 99, "ISMEAR": -5}
    assert {key: incar[key] for key in paper} == pytest.approx(paper)
    assert "EDIFFG" not in incar  # VASP's default is ten times EDIFF, the ionic threshold of the paper
    kpoints = Kpoints.from_file(workdir / "KPOINTS")
    assert kpoints.style.name == "Gamma" and kpoints.kpts == theirs.kpoints.kpts == [(4, 4, 4)]
    assert Poscar.from_file(workdir / "POSCAR").site_symbols == ["Li", "S"]
    potcar = (workdir / "POTCAR").read_text()
    assert [line.split()[3] for line in potcar.splitlines() if "TITEL" in line] == ["Li_sv", "S"]


def test_static_inputs_differ_in_nothing_but_the_ions(potcars, tmp_path):
    from pymatgen.io.vasp.inputs import Incar

    sets = {}
    for kind in ("relax", "static"):
        folder = tmp_path / kind
        folder.mkdir()
        labeler().write(lithium_sulfide(), kind, folder)
        sets[kind] = Incar.from_file(folder / "INCAR")
    changed = {key for key in sets["relax"] | sets["static"] if sets["relax"].get(key) != sets["static"].get(key)}
    assert changed == {"NSW", "IBRION", "ISIF"}
    assert {key: sets["static"][key] for key in sorted(changed)} == {"IBRION": -1, "ISIF": 2, "NSW": 0}
    for name in ("KPOINTS", "POTCAR", "POSCAR"):
        assert (tmp_path / "relax" / name).read_bytes() == (tmp_path / "static" / name).read_bytes()


def test_settings_id_knows_what_changes_the_level_of_theory_and_nothing_else():
    ids = {
        labeler(**settings).settings_id()
        for settings in ({}, {"k_density": 32}, {"incar": {"ENCUT": 600}}, {"potcar_functional": "PBE_54"})
    }
    assert len(ids) == 4
    same = (labeler(), labeler(executable="srun vasp_std", timeout_min=5, max_corrections=0))
    parallel = labeler(incar={"NCORE": 4, "KPAR": 2, "ALGO": "Normal"})
    assert len({vasp.settings_id() for vasp in (*same, parallel)}) == 1
    assert len({labeler(incar=incar).settings_id() for incar in ({"ENCUT": 600}, {"encut": 600, "npar": 2})}) == 1


def test_recorded_relaxation(tmp_path):
    path = tmp_path / "vasprun.xml"
    path.write_text(vasp_standin.recorded("relax"), encoding="latin-1")
    steps = read_steps(path)
    assert (steps.n_ionic, steps.is_whole, steps.is_ended) == (3, True, True)
    last = steps.frames[-1]
    assert last.get_potential_energy() == pytest.approx(-10.81720429)
    # ASE's own reader is a second opinion on units and signs
    from ase.io import read

    theirs = read(path, index="-1", format="vasp-xml")
    assert last.get_stress() == pytest.approx(theirs.get_stress(), abs=1e-9)
    assert last.get_forces() == pytest.approx(theirs.get_forces(), abs=1e-9)
    assert np.allclose(last.positions, theirs.positions)
    assert residual_force(last.get_forces(), last.get_stress(voigt=False), last.cell.volume) < 0.05


def test_the_whole_path(potcars, workdir, monkeypatch):
    frames = compute(workdir, monkeypatch, {"run": "relax"})
    assert len(frames) == 3 and frames[-1].info["converged"] is True
    assert "converged" not in frames[0].info
    assert {frame.info["energy_frame"] for frame in frames} == {labeler().settings_id()}
    assert np.allclose(frames[0].cell.array, recorded_start("relax").cell.array, atol=1e-6)
    theory = {"functional": "PBE", "cutoff": 250.0, "hubbards": {"Si": 0.0}, "potcars": {"Si": "PAW_PBE Si 05Jan2001"}}
    low, high = frames[0].info["vasp_theory"]["k_densities"]
    assert low < 7**3 * 39.366 / (2 * np.pi) ** 3 < high  # 7 x 7 x 7 points, and a cell of 39.366 A^3
    theory |= {"ismear": 0, "sigma": 0.05, "ispin": 2, "k_densities": [low, high]}
    assert all(frame.info["vasp_theory"] == theory for frame in frames)


def test_static_path(potcars, workdir, monkeypatch):
    (frame,) = compute(workdir, monkeypatch, {"run": "static"}, name="static", kind="static")
    assert frame.info["label_energy"] == pytest.approx(-10.82053873)
    assert "converged" not in frame.info


def test_labels_have_the_atoms_in_the_order_they_were_given(potcars, workdir):
    from pymatgen.io.vasp.inputs import Poscar

    atoms = lithium_sulfide()
    labeler().write(atoms, "static", workdir)
    order = json.loads((workdir / "job.json").read_text())["order"]
    poscar = Poscar.from_file(workdir / "POSCAR").structure
    assert np.allclose(poscar.cart_coords, atoms.positions[order], atol=1e-6)
    assert sorted(order) == list(range(12)) and order != list(range(12))


def test_steps_used_up_are_labels_of_what_did_not_converge(potcars, workdir, monkeypatch):
    frames = compute(workdir, monkeypatch, {"run": "ions_unconverged"}, name="ions_unconverged")
    assert len(frames) == 5 and frames[-1].info["converged"] is False


def test_scf_that_never_converges_is_no_label(potcars, workdir, monkeypatch):
    with pytest.raises(ItemFailed, match="custodian gave up") as caught:
        compute(workdir, monkeypatch, {"run": "electrons_unconverged"}, name="electrons_unconverged", kind="static")
    assert not caught.value.retryable
    incar = (workdir / "INCAR").read_text()
    assert "ALGO = Fast" not in incar  # custodian went through the algorithms that leave the level of theory alone


def test_unconverged_electronic_steps_are_left_out(tmp_path):
    path = tmp_path / "vasprun.xml"
    path.write_text(vasp_standin.recorded("electrons_unconverged"), encoding="latin-1")
    steps = read_steps(path)
    assert steps.n_ionic == 1 and steps.frames == [] and not steps.is_ended


def test_correction_of_the_level_of_theory_rejects_the_label(potcars, workdir, monkeypatch):
    script = {"say": "REAL_OPTLAY: internal error (1)", "run": "relax"}
    with pytest.raises(ItemFailed, match=r"real_optlay.*level of theory \(LREAL A\w* -> False\)") as caught:
        compute(workdir, monkeypatch, script, {"run": "relax"})
    assert not caught.value.retryable
    assert (workdir / "starts").read_text() == "1"  # no core hour for a label that nobody wants


def test_harmless_correction_keeps_the_label(potcars, workdir, monkeypatch):
    script = {"say": "ERROR in subspace rotation PSSYEVX", "run": "relax", "stop_after": 1}
    frames = compute(workdir, monkeypatch, script, {"run": "relax"})
    assert len(frames) == 3 and (workdir / "starts").read_text() == "2"
    assert "ALGO = Normal" in (workdir / "INCAR").read_text()
    assert "pssyevx" in (workdir / "custodian.json").read_text()


def test_tightened_ediff_leaves_the_ionic_threshold(potcars, workdir, monkeypatch):
    script = {"say": "ZBRENT: fatal error in bracketing", "run": "relax", "stop_after": 1}
    assert compute(workdir, monkeypatch, script, {"run": "relax"})[-1].info["converged"]
    from pymatgen.io.vasp.inputs import Incar

    incar = Incar.from_file(workdir / "INCAR")
    assert (incar["EDIFF"], incar["EDIFFG"]) == (1e-6, pytest.approx(10 * 5e-5 * 2))
    assert "EDIFFG" in (workdir / "custodian.json").read_text()


def test_no_ionic_step_twice_in_three_attempts(potcars, workdir, monkeypatch):
    for _ in range(2):
        with pytest.raises(ItemFailed, match="truncated after 2 ionic steps"):
            compute(workdir, monkeypatch, {"run": "relax", "stop_after": 2})
    frames = compute(workdir, monkeypatch, {"run": "relax"})
    # steps 1 and 2, then 2 and 3, then 3
    assert [frame.info["label_energy"] for frame in frames] == pytest.approx(read_steps_of("relax", workdir))


def test_timeout_then_restart_from_the_last_ionic_step(potcars, workdir, monkeypatch):
    script = {"run": "relax", "stop_after": 2, "sleep": 600}, {"run": "relax"}

    class Watched(subprocess.Popen):
        """Its clock starts when VASP has done two steps, however long custodian takes to start on a busy machine."""

        def wait(self, timeout=None):
            while timeout and self.poll() is None and not (workdir / "CONTCAR").exists():
                time.sleep(0.1)
            return super().wait(timeout)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", Watched)
        with pytest.raises(ItemFailed, match="labeler.timeout_min = 0.01 min") as caught:
            compute(workdir, monkeypatch, *script, timeout_min=0.01)
    assert caught.value.retryable
    assert not psutil.pid_exists(int((workdir / "process").read_text()))  # custodian gives VASP a session of its own
    frames = compute(workdir, monkeypatch, *script)
    whole = read_steps_of("relax", workdir)
    assert len(frames) == 3 and frames[-1].info["converged"]
    assert [frame.info["label_energy"] for frame in frames] == pytest.approx(whole)
    # the second run began with the second step
    assert (workdir / "vasprun.xml").read_text(encoding="latin-1").count("<calculation>") == 2


def test_next_attempt_begins_without_what_a_killed_worker_left(potcars, workdir):
    orphan = subprocess.Popen(["sleep", "60"], env=os.environ | {MARK: str((workdir / LOG).resolve())})
    labeler().write(recorded_start("relax"), "relax", workdir)
    assert orphan.wait(5) != 0 or not psutil.pid_exists(orphan.pid)


def read_steps_of(name: str, folder: Path) -> list[float]:
    path = folder / "whole.xml"
    path.write_text(vasp_standin.recorded(name), encoding="latin-1")
    return [frame.get_potential_energy() for frame in read_steps(path).frames]


def test_truncated_output_is_tried_again(potcars, workdir, monkeypatch):
    with pytest.raises(ItemFailed, match=r"truncated after 2 ionic steps") as caught:
        compute(workdir, monkeypatch, {"run": "relax", "stop_after": 2})
    assert caught.value.retryable


def test_run_killed_before_the_first_step_is_tried_again(potcars, workdir, monkeypatch):
    with pytest.raises(ItemFailed, match="vasprun.xml") as caught:
        compute(workdir, monkeypatch, {"run": "unfinished", "exit": 137}, name="unfinished")
    assert caught.value.retryable


def test_vasp_that_does_not_start_is_quoted(potcars, workdir, monkeypatch):
    words = "error while loading shared libraries: libmkl_rt.so"
    with pytest.raises(ItemFailed, match=rf"wrote no vasprun.xml; last lines of {workdir}/vasp.out: '{words}'; last"):
        compute(workdir, monkeypatch, {"say": words, "exit": 127})


def test_killed_process_is_tried_again(potcars, workdir, monkeypatch):
    labeler().write(recorded_start("relax"), "relax", workdir)
    with pytest.raises(ItemFailed, match="ended early") as caught:
        labeler().read(workdir)
    assert caught.value.retryable


def test_output_of_another_structure(potcars, workdir, monkeypatch):
    compute(workdir, monkeypatch, {"run": "relax"})
    (workdir / "vasprun.xml").write_text(vasp_standin.recorded("ions_unconverged"), encoding="latin-1")
    with pytest.raises(ItemFailed, match="is of another structure: it begins with Si2 in .* the input is Si2 in"):
        labeler().read(workdir)


def test_no_potcar_says_where_pymatgen_looks(no_potcars, workdir):
    with pytest.raises(ConfigError, match=r"no POTCAR for Li, S \(PBE\).*pmg config --add PMG_VASP_PSP_DIR FOLDER"):
        labeler().write(lithium_sulfide(), "relax", workdir)


def test_no_potcar_of_one_element(potcars, workdir):
    with pytest.raises(ConfigError, match=r"no POTCAR for Na \(PBE\).*Na_pv"):
        labeler().write(bulk("Na"), "relax", workdir)


def test_no_vasp(potcars, workdir):
    with pytest.raises(ConfigError, match="labeler.executable = 'vasp_gone': there is no such program"):
        labeler(executable="vasp_gone").write(lithium_sulfide(), "relax", workdir)


def test_no_custodian(potcars, workdir, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs custodian, which is not installed; run: pip install 'chemloop\[vasp"):
        labeler().write(lithium_sulfide(), "relax", workdir)


def test_hubbard_u_is_for_the_user_to_decide(potcars, workdir):
    oxide = bulk("FeO", "rocksalt", 4.3)
    with pytest.raises(ConfigError, match=r"MPRelaxSet gives FeO a Hubbard U.*\+labeler.incar.LDAU=false"):
        labeler().write(oxide, "static", workdir)
    assert not labeler(incar={"LDAU": False}).input_set(oxide, "static").incar.get("LDAU", False)
    assert labeler(incar={"LDAU": True}).input_set(oxide, "static").incar["LDAU"]


@pytest.mark.parametrize(
    ("incar", "message"),
    [
        ({"nsw": 5}, "has NSW, which the kind of calculation decides"),
        ({"KSPACING": 0.2}, "has KSPACING: the mesh is that of labeler.k_density"),
        ({"kgamma": False}, "has KGAMMA: the mesh is that of labeler.k_density"),
        ({"ENCTU": 700}, r"has ENCTU, which is no INCAR key that pymatgen knows; did you mean ENCUT\?"),
        ({"ENCUT": 700, "encut": 600}, "has ENCUT twice"),
    ],
)
def test_incar_keys_are_checked(incar, message):
    with pytest.raises(ConfigError, match=f"labeler.incar {message}"):
        labeler(incar=incar)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("k_density", 0), ("potcar_functional", "LDA"), ("max_corrections", -1), ("poll_s", 0.0)),
        *(("timeout_min", 0), ("incar", {"NSW": 5})),
    ],
)
def test_bad_settings_name_their_key(key, value):
    with pytest.raises(ConfigError, match=f"labeler.{key} "):
        labeler(**{key: value})
