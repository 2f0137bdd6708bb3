"""A relaxation that was interrupted ends as if it had not been, and computes no ionic step twice."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.spacegroup import crystal

from chemloop.config import build
from chemloop.labeler.ase import AseLabeler
from chemloop.labeler.ionic_steps import StepFolder, continued_trajectory
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import ItemFailed


class MortalEMT(EMT):
    """EMT that dies at a given evaluation and counts how many it did."""

    def __init__(self, dies_at: int | None = None):
        super().__init__()
        self.dies_at = dies_at
        self.n_done = 0

    def calculate(self, *args, **kwargs):
        if self.n_done == self.dies_at:
            raise KeyboardInterrupt
        self.n_done += 1
        super().calculate(*args, **kwargs)


def strained() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array @ np.diag([1.04, 0.97, 1.02]), scale_atoms=True)
    atoms.positions += np.random.default_rng(0).normal(scale=0.1, size=(4, 3))
    return atoms


@pytest.mark.parametrize("dies_at", [1, 4, 9])
def test_interrupted_relaxation_takes_the_path_of_one_that_was_not(tmp_path, dies_at):
    whole = MortalEMT()
    reference = continued_trajectory(strained(), whole, 0.01, 100, StepFolder(tmp_path / "whole"))
    assert len(reference) == whole.n_done > 9
    steps = StepFolder(tmp_path / "steps")
    with pytest.raises(KeyboardInterrupt):
        continued_trajectory(strained(), MortalEMT(dies_at), 0.01, 100, steps)
    assert len(steps) == dies_at
    second = MortalEMT()
    frames = continued_trajectory(strained(), second, 0.01, 100, steps)
    assert second.n_done == len(frames) - dies_at
    assert frames[-1].info["converged"] and len(frames) == len(reference)
    for frame, other in zip(frames, reference, strict=True):
        assert np.array_equal(frame.positions, other.positions) and np.array_equal(frame.cell, other.cell)
        assert frame.get_potential_energy() == other.get_potential_energy()
        assert np.array_equal(frame.get_forces(), other.get_forces())
        assert np.array_equal(frame.get_stress(), other.get_stress())


def test_finished_relaxation_computes_nothing_again(tmp_path):
    steps = StepFolder(tmp_path / "steps")
    once = continued_trajectory(strained(), MortalEMT(), 0.01, 100, steps)
    again = continued_trajectory(strained(), MortalEMT(dies_at=0), 0.01, 100, steps)
    assert len(again) == len(once) and again[-1].info["converged"]


def test_steps_of_all_attempts_count(tmp_path):
    steps = StepFolder(tmp_path / "steps")
    with pytest.raises(KeyboardInterrupt):
        continued_trajectory(strained(), MortalEMT(dies_at=4), 1e-9, 6, steps)
    frames = continued_trajectory(strained(), MortalEMT(), 1e-9, 6, steps)
    assert len(frames) == 7 and not frames[-1].info["converged"]


def test_steps_that_lead_elsewhere_are_computed_again(tmp_path):
    """As where another version of the optimiser took them."""
    steps = StepFolder(tmp_path / "steps")
    whole = continued_trajectory(strained(), MortalEMT(), 0.01, 100, steps)
    third = read_json(steps.folder / "0002.json")
    third["positions"][0][0] += 0.01
    write_json(steps.folder / "0002.json", third)
    second = MortalEMT()
    frames = continued_trajectory(strained(), second, 0.01, 3, steps)
    assert second.n_done == 2
    assert len(steps) == len(frames) == 4
    assert np.array_equal(frames[-1].positions, whole[3].positions)


def test_ase_labeler_remembers(tmp_path):
    labeler = AseLabeler(0.01, 100, {"_target_": "ase.calculators.emt.EMT"})
    labeler.write(strained(), "relax", tmp_path)
    labeler.run(tmp_path)
    frames = labeler.read(tmp_path)
    assert len(list((tmp_path / "steps").glob("*.json"))) == len(frames) > 3
    assert {frame.info["energy_frame"] for frame in frames} == {labeler.settings_id()}


def test_ase_labeler_leaves_the_files_of_its_calculator_in_the_workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "calculation"
    folder.mkdir()
    labeler = AseLabeler(0.01, 1, {"_target_": "tests.unit.test_ionic_steps.LoggingEMT"})
    labeler.write(strained(), "static", folder)
    labeler.run(folder.relative_to(tmp_path))
    assert (folder / "emt.log").exists() and not (tmp_path / "emt.log").exists()


class LoggingEMT(EMT):
    def calculate(self, *args, **kwargs):
        Path("emt.log").write_text("computed")
        super().calculate(*args, **kwargs)


def test_calculator_that_fails_on_one_structure_is_no_matter_of_the_campaign(tmp_path):
    labeler = AseLabeler(0.01, 1, {"_target_": "tests.unit.test_ionic_steps.LeavingEMT"})
    labeler.write(strained(), "static", tmp_path)
    with pytest.raises(ItemFailed, match="LeavingEMT failed on Cu4: ConnectionResetError gone") as caught:
        labeler.run(tmp_path)
    assert not caught.value.retryable


class LeavingEMT(EMT):
    def calculate(self, *args, **kwargs):
        raise ConnectionResetError("gone")


@pytest.mark.skipif(shutil.which("cp2k_shell.psmp") is None, reason="CP2K is not installed: apt-get install cp2k")
def test_cp2k_as_configured(tmp_path, monkeypatch):
    """Li2S by labeler=cp2k; coarser, so that it takes seconds."""
    monkeypatch.setenv("CP2K_DATA_DIR", "/usr/share/cp2k")
    node = yaml.safe_load((Path(__file__).parents[2] / "conf/labeler/cp2k.yaml").read_text())
    node["calculator"]["cutoff"] = 2721.0
    labeler = build(node, "labeler")
    cell = [5.72] * 3 + [90] * 3
    atoms = crystal(["Li", "S"], [(0.25, 0.25, 0.25), (0, 0, 0)], spacegroup=225, cellpar=cell, primitive_cell=True)
    labeler.write(atoms, "static", tmp_path)
    labeler.run(tmp_path)
    (frame,) = labeler.read(tmp_path)
    assert np.abs(frame.arrays["label_forces"]).max() < 0.01
    assert frame.info["label_energy"] / 27.2114 == pytest.approx(-25.1, abs=0.5)
