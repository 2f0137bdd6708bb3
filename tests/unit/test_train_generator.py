"""workflow=train_generator: where energies above the hull come from, and bad input."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

import pytest
from ase import Atoms

from chemloop.config import load
from chemloop.physics.structures import read_structures, write_structures
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.errors import CampaignError, ConfigError, StructureError
from chemloop.workflow.train_generator import TrainGenerator, with_energies_above_hull


@pytest.fixture
def references():
    return read_structures(str(files("chemloop") / "data/li-p-s/reference.extxyz"))


@pytest.fixture
def two_files(tmp_path):
    """Li and P, and, in the other file, P and two LiP, of which one says itself that it is on the hull."""
    energies = {"Li": [-2.0], "P": [-5.0, -4.9], "LiP": [-13.0, -12.9]}
    crystals = []
    for formula, values in energies.items():
        for value in values:
            atoms = Atoms(
                formula, [[0, 0, 0], [1.6, 1.6, 1.6]][: len(formula.replace("i", ""))], cell=[3.2] * 3, pbc=True
            )
            atoms.info |= {"mlff_energy": value, "energy_frame": "model-1", "converged": True}
            crystals.append(atoms)
    crystals[3].info["e_above_hull"] = 0.0
    write_structures(tmp_path / "a.extxyz", crystals[:2])
    write_structures(tmp_path / "b.extxyz", crystals[2:])
    return [str(tmp_path / "a.extxyz"), str(tmp_path / "b.extxyz")]


def command(compose_config, structures, folder, *overrides):
    """Run it as the command line does."""
    config = compose_config("workflow=train_generator", "generator=evolution", *overrides)
    config["workflow"] |= {"structures": structures, "folder": str(folder)}
    settings = load(config)
    settings.workflow.run(Campaign(folder), settings, config)


def test_one_hull_for_all_files_and_all_members_of_a_frame(two_files):
    found = [atoms.info["e_above_hull"] for atoms in TrainGenerator(two_files, max_e_above_hull=9.0).chosen()]
    assert found == pytest.approx([0.0, 0.0, 0.1, 0.0, 0.05])


def test_the_generator_learns_in_a_worker_that_its_yaml_names(compose_config, two_files, tmp_path, capsys):
    folder, python = tmp_path / "trained", tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$OMP_NUM_THREADS" > {tmp_path}/threads\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    command(compose_config, two_files, folder, f"+generator.python={python}")
    assert (tmp_path / "threads").read_text() == "1\n"
    printed = capsys.readouterr().out
    assert "5 of 5 structures within 0.3 eV/atom" in printed
    assert f"generator.checkpoint={folder}/checkpoint" in printed
    parents = read_structures(folder / "checkpoint/parents.extxyz")
    assert {atoms.info["id"] for atoms in parents} <= {f"structure-{k:05d}" for k in range(5)}
    with pytest.raises(CampaignError, match=f"{folder} has a finished checkpoint, {folder}/checkpoint; give another"):
        command(compose_config, two_files, folder)


def test_an_unfinished_training_goes_on_and_is_no_other_one(compose_config, two_files, tmp_path):
    folder = tmp_path / "trained"
    command(compose_config, two_files, folder)
    (folder / "DONE").unlink()
    planned = (folder / "item.yaml").stat().st_mtime_ns
    with pytest.raises(CampaignError, match="generator.n_parents: 100 -> 3.*another workflow.folder"):
        command(compose_config, two_files, folder, "generator.n_parents=3")
    command(compose_config, two_files, folder)
    assert (folder / "DONE").exists() and (folder / "item.yaml").stat().st_mtime_ns == planned


def test_a_folder_of_something_else_is_left_alone(compose_config, two_files, tmp_path):
    with pytest.raises(CampaignError, match="has files of something else; give another workflow.folder"):
        command(compose_config, two_files, Path(two_files[0]).parent)


def test_energies_above_the_hull_are_computed_by_frame(references):
    bare = []
    for frame, shift in (("a", 0.0), ("b", 5.0)):
        for number, atoms in enumerate(references[:3]):
            copy = atoms.copy()
            copy.info = {"mlff_energy": (number * 0.1 + shift) * len(atoms), "energy_frame": frame}
            copy.numbers[:] = 3
            bare.append(copy)
    found = [atoms.info["e_above_hull"] for atoms in with_energies_above_hull(bare)]
    assert found == pytest.approx([0.0, 0.1, 0.2] * 2)


def test_bad_input():
    with pytest.raises(ConfigError, match="workflow.structures is empty"):
        TrainGenerator()
    with pytest.raises(ConfigError, match="must be above 0 eV/atom"):
        TrainGenerator(["x.extxyz"], max_e_above_hull=0.0)


def test_a_missing_file_is_no_full_disk(compose_config, tmp_path):
    with pytest.raises(ConfigError, match=r"workflow.structures has .*none.extxyz: there is no such file"):
        command(compose_config, [str(tmp_path / "none.extxyz")], tmp_path / "trained")
    assert not (tmp_path / "trained").exists()


def test_nothing_is_planned_where_no_structure_is_left(compose_config, two_files, tmp_path):
    """A folder with that plan would refuse the same command with a higher limit."""
    high = read_structures(two_files[1])[2:]
    for atoms in high:
        atoms.info["e_above_hull"] = 0.5
    path = tmp_path / "high.extxyz"
    write_structures(path, high)
    with pytest.raises(StructureError, match="= 0.3 leaves none of the 1 structures .* lowest lies at 0.500 eV/atom"):
        command(compose_config, [str(path)], tmp_path / "trained")
    limits = "workflow.max_e_above_hull=0.6", "generator.max_e_above_hull=0.6"
    command(compose_config, [str(path)], tmp_path / "trained", *limits)


def test_structures_without_energies_are_refused(references):
    with pytest.raises(StructureError, match="structure 0 carries neither e_above_hull nor an energy"):
        with_energies_above_hull(references[:1])
