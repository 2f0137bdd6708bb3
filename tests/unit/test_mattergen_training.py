"""Training of a MatterGen: what is left of one that was killed, and what the network is known to have seen."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from chemloop.generator.mattergen import MatterGenGenerator
from chemloop.generator.mattergen_checkpoint import PUBLISHED, read_checkpoint
from chemloop.generator.mattergen_data import Architecture, Schedule
from chemloop.generator.mattergen_steps import Steps
from chemloop.physics.structures import read_structures
from chemloop.runtime.disk import file_hash, read_json
from chemloop.runtime.item import Item

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


def weights_of(folder: str | Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(str(folder)).weights


def test_a_killed_training_goes_on_and_ends_the_same(crystals, scratch, tmp_path, monkeypatch):
    step, made = Steps._step, []

    def killed(self, number):
        if number == 4:
            raise KeyboardInterrupt
        made.append(number)
        step(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Steps, "_step", killed)
        with pytest.raises(KeyboardInterrupt):
            TINY.finetune(crystals, tmp_path, 0)
        assert Item(tmp_path).progress is not None and Item(tmp_path).progress[1] == 6
        patch.setattr(Steps, "_step", lambda self, number: (made.append(number), step(self, number)))
        again = TINY.finetune(crystals, tmp_path, 0)
    assert made == [0, 1, 2, 3, 3, 4, 5], "it goes on from the checkpoint that was kept after three steps"
    expected, found = weights_of(scratch), weights_of(again)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert read_json(tmp_path / "metrics.json") == read_json(scratch.parent / "metrics.json")
    assert not list(tmp_path.glob("training-*"))


def test_a_damaged_state_is_not_used(crystals, scratch, tmp_path, monkeypatch, caplog):
    load = Steps._load

    def damaged(self, path):
        path.write_bytes(b"0" * 99)
        load(self, path)

    monkeypatch.setattr(Steps, "_load", damaged)
    found, expected = weights_of(TINY.finetune(crystals, tmp_path, 0)), weights_of(scratch)
    assert "is damaged; the training of MatterGen begins anew" in caplog.text
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_scores_are_kept_and_another_training_begins_anew(crystals, scratch, tmp_path, monkeypatch):
    monkeypatch.setattr(MatterGenGenerator, "sample", lambda *_: ([crystals[0].copy()] * 2, {}))
    calls: list[int] = []

    def scorer(structures):
        calls.append(len(structures))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return np.full(2, 0.1), np.array([len(calls) == 2, False])

    generator = replace(TINY, checkpoint=str(scratch), scorer=scorer)
    with pytest.raises(KeyboardInterrupt):
        generator.finetune(crystals, tmp_path, 0)
    assert Item(tmp_path).progress == (6, 7)
    generator.finetune(crystals, tmp_path, 0)
    choice = read_json(tmp_path / "choice.json")
    assert len(calls) == 4 and list(choice["scores"]) == ["before", "step 2", "step 4"]
    assert choice["chosen"] == "step 2" and Item(tmp_path).progress == (7, 7)
    generator.finetune(crystals, tmp_path, 0)
    assert len(calls) == 4, "it has ended"
    generator.finetune(crystals, tmp_path, 1)
    assert len(calls) == 7
