"""Labels by what they are labels of: a calculation that anybody has done is never done again.

One extxyz file per calculation, under the hash of structure, kind and settings. Files appear whole or not at all, so
any number of campaigns may read and write at once; two that compute one label at the same time write the same file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from chemloop.physics.structures import parse_structures, write_structures
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import ConfigError, StructureError

RESOLUTION = 1e-6
"""A; structures whose coordinates agree to this are the same calculation."""

FORMAT = 1
"""Of the folder. It changes when a key or a file comes to mean something else; the number is in `cache.json`."""


@dataclass(frozen=True)
class LabelCache:
    """The folder of labels, `outputs/label-cache/` unless configured otherwise.

    max_gb: what it may hold in GB; the calculations that were not asked for longest are removed. None: everything
    Raises: ConfigError for a folder in another format
    """

    folder: Path
    max_gb: float | None = None

    def __post_init__(self) -> None:
        note = self.folder / "cache.json"
        found = read_json(note)["format"] if note.exists() else FORMAT
        if found != FORMAT:
            raise ConfigError(
                f"label_cache = {self.folder}: it was written by another version of ChemLoop (format {found}, this one"
                f" reads {FORMAT}); name another folder with label_cache=FOLDER"
            )

    def key(self, atoms: Atoms, kind: str, settings_id: str, relaxation_id: str = "") -> str:
        """Hash of species, positions, cell, kind of calculation and level of theory.

        relaxation_id: what decides, beside the level of theory, where a relaxation ends; nothing to single points
        """
        limits = f"{relaxation_id}/" if kind == "relax" and relaxation_id else ""
        digest = hashlib.sha256(f"{settings_id}/{kind}/{limits}".encode())
        digest.update(atoms.numbers.astype("<i8").tobytes())
        for array in (atoms.cell.array, atoms.positions):
            digest.update(np.rint(array / RESOLUTION).astype("<i8").tobytes())
        return digest.hexdigest()

    def get(self, key: str) -> list[Atoms] | None:
        """The frames of a calculation, or None; a file whose content is damaged counts as absent.

        Nothing is removed here: by then another process may have written a good file in its place, as `put` does.
        Raises: OSError where the file cannot be read, which says nothing about the label in it
        """
        path = self._path(key)
        try:
            frames = parse_structures(path.read_bytes().decode(), path)
        except (FileNotFoundError, UnicodeDecodeError, StructureError):
            return None
        if not frames or frames[-1].info.get("n_frames") != len(frames):
            return None
        if self.max_gb is not None:
            with suppress(FileNotFoundError):
                os.utime(path)
        return frames

    def put(self, key: str, frames: Sequence[Atoms]) -> None:
        """Store the frames of a calculation and note in `computed.log` that it was done."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "cache.json").exists():
            write_json(self.folder / "cache.json", {"format": FORMAT})
        frames[-1].info["n_frames"] = len(frames)
        write_structures(path, frames)
        with open(self.folder / "computed.log", "a") as log:
            log.write(f"{key}\n")
            log.flush()
            os.fsync(log.fileno())

        self._shrink()

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def calculations(self) -> Iterator[list[Atoms]]:
        """The frames of every calculation, in the order of their keys; damaged ones are left out."""
        for path in sorted(self.folder.glob("??/*.extxyz")):
            frames = self.get(path.stem)
            if frames:
                yield frames

    def _shrink(self) -> None:
        """Remove the labels not used for longest until the rest is within `max_gb`; others may do the same at once."""
        if self.max_gb is None:
            return
        files = []
        for path in self.folder.glob("??/*.extxyz"):
            with suppress(FileNotFoundError):
                status = path.stat()
                files.append((status.st_mtime_ns, path, status.st_size))
        excess = sum(size for _, _, size in files) - self.max_gb * 1e9
        for _, path, size in sorted(files):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.extxyz"
