"""Training of a MatterGen: what the network it leaves is known to have seen."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from chemloop.generator.mattergen import MatterGenGenerator
from chemloop.generator.mattergen_checkpoint import PUBLISHED, read_checkpoint
from chemloop.generator.mattergen_data import Architecture, Schedule
from chemloop.physics.structures import read_structures
from chemloop.runtime.disk import file_hash

TINY = MatterGenGenerator(
    checkpoint=None,
    architecture=Architecture(hidden=32, blocks=1, cutoff=5.0, neighbours=8, diffusion_steps=10),
    scratch=Schedule(n_steps=6, max_epochs=9, batch_size=4),
    finetuning=Schedule(n_steps=4, max_epochs=9, batch_size=4, learning_rate=2e-5),
    n_checkpoints=2,
    n_scored=2,
)


@pytest.fixture(scope="module")
def crystals():
    """Eight small references that pretend to lie 0 to 0.07 eV/atom above the hull."""
    references = read_structures(str(files("chemloop") / "data/li-p-s/reference.extxyz"))
    chosen = [atoms for atoms in references if len(atoms) <= 12][:8]
    for number, atoms in enumerate(chosen):
        atoms.info["e_above_hull"] = 0.01 * number
    return chosen


@pytest.fixture(scope="module")
def scratch(crystals, tmp_path_factory) -> Path:
    """The checkpoint of a network from scratch."""
    return Path(TINY.finetune(crystals, tmp_path_factory.mktemp("scratch"), 0))


def test_what_other_weights_without_a_record_have_seen_is_unknown(scratch, tmp_path, monkeypatch):
    copy = shutil.copytree(scratch, tmp_path / "copy")
    (copy / "trained_on.json").unlink()
    seen = read_checkpoint(str(copy)).trained_on
    unknown = "elements Li, P; n_atoms = 4 asked for: range unknown, the checkpoint does not say what it was trained on"
    assert seen.warnings(["Li", "P"], {"n_atoms": 4.0}) == [unknown]
    joined = seen.joined(read_checkpoint(str(scratch)).trained_on)
    assert not type(seen).from_json(joined.to_json()).is_known
    monkeypatch.setitem(PUBLISHED, "mattergen_base", file_hash(copy / "checkpoints/last.ckpt"))
    assert read_checkpoint(str(copy)).trained_on.warnings(["Li", "P"], {"n_atoms": 4.0}) == []
