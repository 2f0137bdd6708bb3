"""Checkpoints that are damaged, foreign or of another version are refused in one sentence."""

from __future__ import annotations

import pytest

from chemloop.model.chgnet import CHGNetForceField
from chemloop.model.mattersim import MatterSimArchitecture, MatterSimForceField
from chemloop.runtime.errors import CheckpointError


def test_a_mattersim_file_is_foreign_to_chgnet(tmp_path):
    small = MatterSimArchitecture(num_blocks=1, units=4, max_l=1, max_n=1)
    MatterSimForceField(checkpoint=None, architecture=small).load().save(tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match=r"the checkpoint of another architecture, not of chgnet"):
        CHGNetForceField(checkpoint=str(tmp_path / "file.pt")).load()
