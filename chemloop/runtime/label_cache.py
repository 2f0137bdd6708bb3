"""Labels by what they are labels of: a calculation that anybody has done is never done again.

One extxyz file per calculation, under the hash of structure, kind and settings. Files appear whole or not at all, so
any number of campaigns may read and write at once; two that compute one label at the same time write the same file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from chemloop.physics.structures import read_structures, write_structures
from chemloop.runtime.errors import StructureError

RESOLUTION = 1e-6
"""A; structures whose coordinates agree to this are the same calculation."""


@dataclass(frozen=True)
class LabelCache:
    """The folder of labels, `outputs/label-cache/` unless configured otherwise."""

    folder: Path

    def key(self, atoms: Atoms, kind: str, settings_id: str) -> str:
        """Hash of species, positions, cell, kind of calculation and level of theory."""
        digest = hashlib.sha256(f"{settings_id}/{kind}/".encode())
        digest.update(atoms.numbers.astype("<i8").tobytes())
        for array in (atoms.cell.array, atoms.positions):
            digest.update(np.rint(array / RESOLUTION).astype("<i8").tobytes())
        return digest.hexdigest()

    def get(self, key: str) -> list[Atoms] | None:
        """The frames of a calculation, or None; a damaged file counts as absent and is removed."""
        path = self._path(key)
        if not path.exists():
            return None
        try:
            frames = read_structures(path)
        except StructureError:
            frames = []
        if not frames or frames[-1].info.get("n_frames") != len(frames):
            path.unlink(missing_ok=True)
            return None
        return frames

    def put(self, key: str, frames: Sequence[Atoms]) -> None:
        """Store the frames of a calculation and note in `computed.log` that it was done."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        frames[-1].info["n_frames"] = len(frames)
        write_structures(path, frames)
        with open(self.folder / "computed.log", "a") as log:
            log.write(f"{key}\n")
            log.flush()
            os.fsync(log.fileno())

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.extxyz"
