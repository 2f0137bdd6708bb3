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

CELL_RESOLUTION = 1e-6
"""A, to which components of cell vectors are rounded."""
GRID = 10_000_000
"""Places along each cell vector that an atom can be at; 1e-6 A in a cell of 10 A."""

FORMAT = 2
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
        """Hash of the structure, the kind of calculation and the level of theory.

        Two structures are the same calculation where they have the same cell vectors, and the same atoms in it, in any
        order and up to lattice vectors, all as rounded by `canonical`. A rotated crystal, another choice of cell or of
        origin, and a supercell are other calculations: their forces are other arrays, and their energies agree only as
        far as a code's mesh and grid allow. Two that differ by less than the resolution are other calculations as well
        where rounding happens to part them; then the label is computed once more.

        relaxation_id: what decides, beside the level of theory, where a relaxation ends; nothing to single points
        """
        limits = f"{relaxation_id}/" if kind == "relax" and relaxation_id else ""
        digest = hashlib.sha256(f"{settings_id}/{kind}/{limits}".encode())
        cell, rows, _ = canonical(atoms)
        digest.update(cell.tobytes() + rows.tobytes())
        return digest.hexdigest()

    def get(self, key: str, structure: Atoms | None = None) -> list[Atoms] | None:
        """The frames of a calculation, or None; a file whose content is damaged counts as absent.

        structure: whose order of atoms the frames get; None: the canonical one. Which image of the cell an atom lies in
            may differ from there
        Nothing is removed here: by then another process may have written a good file in its place, as `put` does.
        Raises: OSError where the file cannot be read, which says nothing about the label in it
        """
        path = self._path(key)
        try:
            frames = parse_structures(path.read_bytes().decode(), path)
        except (FileNotFoundError, UnicodeDecodeError, StructureError):
            return None
        if not frames or frames[-1].info.pop("n_frames", None) != len(frames):
            return None
        if self.max_gb is not None:
            with suppress(FileNotFoundError):
                os.utime(path)
        return frames if structure is None else [frame[np.argsort(canonical(structure)[2])] for frame in frames]

    def put(self, key: str, frames: Sequence[Atoms], structure: Atoms | None = None) -> None:
        """Store the frames of a calculation and note in `computed.log` that it was done.

        structure: that of the key, with the atoms in the order of the frames; None: the first frame, for single points
        """
        order = canonical(frames[0] if structure is None else structure)[2]
        frames = [frame[order] for frame in frames]
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


def canonical(atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A structure in integers that depend neither on the order of its atoms nor on the images of the cell they lie in.

    Returns: (3, 3) cell vectors in CELL_RESOLUTION; (n_atoms, 4) atomic number and place on the GRID of each atom, in
        ascending order; (n_atoms,) which atoms these are
    """
    cell = np.rint(atoms.cell.array / CELL_RESOLUTION).astype("<i8")
    places = np.rint(atoms.get_scaled_positions(wrap=False) * GRID).astype("<i8") % GRID
    rows = np.column_stack([atoms.numbers, places]).astype("<i8")
    order = np.lexsort(rows.T[::-1])
    return cell, rows[order], order
