"""Checkpoints that are damaged, foreign or of another version are refused in one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import chgnet
import mace
import pytest
import sevenn
import torch
from ase.build import bulk

from chemloop.model.chgnet import PACKAGED, CHGNetForceField
from chemloop.model.mace import MACEForceField
from chemloop.model.mattersim import MatterSimArchitecture, MatterSimForceField
from chemloop.model.sevennet import SevenNetForceField
from chemloop.physics.calculator import evaluate
from chemloop.runtime.errors import CheckpointError

MISFIT = "holds weights that do not fit the architecture it names"
NO_VERSION = f"as the version of sevenn that wrote it, which is none; installed is {sevenn.__version__}"


def sevennet(config):
    return {"config": config, "model_state_dict": {}}


def chgnet_file(content):
    return {"model": content}


def mace_file(**values):
    return {"mace_version": "0.3.10", "network": "MACE", "config": {}, "state_dict": {}} | values


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        (SevenNetForceField, sevennet({"cutoff": 5.0}), f"it names None {NO_VERSION}"),
        (SevenNetForceField, sevennet({"version": "x"}), f"it names 'x' {NO_VERSION}"),
        (SevenNetForceField, sevennet([]), "the checkpoint of another architecture, not of sevenn"),
        (
            SevenNetForceField,
            sevennet({"version": "99.0"}),
            f"sevenn 99.0, newer than the installed {sevenn.__version__}",
        ),
        (
            SevenNetForceField,
            sevennet({"version": "0.9.0"}),
            f"{MISFIT} (written by sevenn 0.9.0, installed is {sevenn.__version__})",
        ),
        (CHGNetForceField, chgnet_file(torch.zeros(3)), "the checkpoint of another architecture, not of chgnet"),
        (CHGNetForceField, chgnet_file(None), "the checkpoint of another architecture, not of chgnet"),
        (
            CHGNetForceField,
            chgnet_file({"model_args": {}, "state_dict": []}),
            f"{MISFIT} (installed is chgnet {chgnet.__version__})",
        ),
        (MACEForceField, mace_file(mace_version="abc"), "'abc' as the version of mace-torch that wrote it"),
        (
            MACEForceField,
            mace_file(config={"r_max": 5.0}),
            f"{MISFIT} (written by mace-torch 0.3.10, installed is {mace.__version__})",
        ),
    ],
)
def test_files_that_are_refused(tmp_path, kind, content, message):
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(CheckpointError) as caught:
        kind(checkpoint=str(tmp_path / "file.pt")).load()
    assert str(tmp_path / "file.pt") in str(caught.value) and message in str(caught.value)


def test_a_mattersim_file_is_foreign_to_chgnet(tmp_path):
    small = MatterSimArchitecture(num_blocks=1, units=4, max_l=1, max_n=1)
    MatterSimForceField(checkpoint=None, architecture=small).load().save(tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match=r"the checkpoint of another architecture, not of chgnet"):
        CHGNetForceField(checkpoint=str(tmp_path / "file.pt")).load()


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_chgnet_by_its_path(tmp_path, name):
    shutil.copy(Path(chgnet.__file__).parent / "pretrained" / PACKAGED[name], tmp_path / "file.pt")
    named, copied = (CHGNetForceField(checkpoint).load() for checkpoint in (name, str(tmp_path / "file.pt")))
    crystal = [bulk("LiS", "rocksalt", a=5.2)]
    assert evaluate(crystal, named)[0].energy == evaluate(crystal, copied)[0].energy
