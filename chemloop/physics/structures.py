"""Structures on disk and the keys that they carry.

A structure is an `ase.Atoms`. Reserved keys, checked for shape, length and finiteness at every read and write
(`<who>` says who computed it: `label` or `mlff`):

    info["id"], info["parent"]   provenance id fixed at birth, e.g. `i03-g012-0457`; frames add `/f07`
    info["generator"], info["operator"], info["parents"]
                                 what proposed it, e.g. `evolution`, how, e.g. `heredity`, and the ids of those that it
                                 was made from, a space between them
    info["<who>_energy"]         eV per cell, uncorrected
    arrays["<who>_forces"]       (n_atoms, 3) eV/A
    info["<who>_stress"]         (3, 3) eV/A^3, ASE sign: tension positive
    info["converged"]            bool, required after any relaxation; unconverged never counts as stable
    info["e_above_hull"]         eV/atom; may be negative against a fixed reference hull
    info["is_stable"], ["is_unique"], ["is_novel"]    bool
    info["energy_frame"]         the level of theory: DFT settings, or model + checkpoint
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from chemloop.runtime.disk import write_whole
from chemloop.runtime.errors import StructureError

SOURCES = ("label", "mlff")
ENERGIES = (*(f"{who}_energy" for who in SOURCES), "e_above_hull")
STRESSES = tuple(f"{who}_stress" for who in SOURCES)
FORCES = tuple(f"{who}_forces" for who in SOURCES)
FLAGS = ("converged", "is_stable", "is_unique", "is_novel")
PROVENANCE = ("generator", "operator", "parents")
IDS = ("id", "parent", "energy_frame", *PROVENANCE)
FIELD = re.compile(r'([^\s="]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|(\S+))')
"""A key and its value, in quotes or not, in the second line of an extxyz structure."""


def check_structure(atoms: Atoms, name: str = "structure") -> None:
    """Check geometry and reserved keys of one structure.

    Raises: StructureError, naming the key, what was found and what is allowed
    """
    name = str(atoms.info.get("id", name))
    if len(atoms) == 0:
        raise StructureError(f"{name} has no atoms")
    if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
        raise StructureError(f"{name} has positions or cell vectors that are not finite numbers")
    if not atoms.pbc.all() or atoms.cell.volume < 1e-3 * len(atoms):
        raise StructureError(
            f"{name} has a cell of {atoms.cell.volume:g} A^3 with periodicity {atoms.pbc.tolist()};"
            " only crystals, periodic in three directions with a volume above zero, are allowed"
        )
    for key in IDS:
        if key in atoms.info and not isinstance(atoms.info[key], str):
            raise StructureError(f"{name}: info[{key!r}] is {atoms.info[key]!r}, it must be a string")
    for key in ENERGIES:
        if key in atoms.info and not np.isfinite(_number(atoms.info[key])):
            raise StructureError(f"{name}: info[{key!r}] is {atoms.info[key]!r}, it must be a finite number")
    for key in FLAGS:
        if key in atoms.info and not isinstance(atoms.info[key], (bool, np.bool_)):
            raise StructureError(f"{name}: info[{key!r}] is {atoms.info[key]!r}, it must be true or false")
    for key in STRESSES:
        if key in atoms.info:
            _check_array(np.asarray(atoms.info[key]), (3, 3), f"{name}: info[{key!r}]")
    for key in FORCES:
        if key in atoms.arrays:
            _check_array(atoms.arrays[key], (len(atoms), 3), f"{name}: arrays[{key!r}]")


def is_partial(atoms: Atoms) -> bool:
    """Whether ASE read in a file, such as a CIF, that a site is shared, or not always occupied.

    Its readers leave {site: {species: fraction}} as `info["occupancy"]`; what else has that name says nothing of sites.
    """
    occupancy = atoms.info.get("occupancy")
    sites = occupancy.values() if isinstance(occupancy, dict) else ()
    return any(
        len(site) > 1 or any(isinstance(fraction, (int, float)) and fraction < 1 for fraction in site.values())
        for site in sites
        if isinstance(site, dict)
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float, np.number)) else float("nan")


def _check_array(array: np.ndarray, shape: tuple[int, ...], what: str) -> None:
    if array.shape != shape or not np.isfinite(array).all():
        raise StructureError(f"{what} has shape {array.shape}; finite numbers of shape {shape} are required")


def read_structures(path: Path | str) -> list[Atoms]:
    """All structures of an extxyz file, checked.

    Raises: StructureError when the file is missing, truncated or breaks the conventions
    """
    path = Path(path)
    if not path.is_file():
        raise StructureError(f"no structure file {path}")
    try:
        content = path.read_text()
    except Exception as error:
        raise StructureError(f"{path} is not a readable extxyz file: {error}") from error
    return parse_structures(content, path)


def parse_structures(content: str, path: Path) -> list[Atoms]:
    """All structures of an extxyz text, checked; path: where it was, for messages.

    Raises: StructureError where it is truncated or breaks the conventions
    """
    # half of the time that the driver takes to start, and workflow=status would spend it for nothing
    from ase.io import read

    if not content:
        return []
    try:
        structures = list(read(io.StringIO(content), index=":", format="extxyz"))
    except MemoryError:
        raise  # it says nothing about the text
    except Exception as error:
        raise StructureError(f"{path} is not a readable extxyz file: {error}") from error
    _restore_ids(structures, content)
    for number, atoms in enumerate(structures):
        atoms.calc = None
        for key in ENERGIES:
            if isinstance(atoms.info.get(key), (int, np.integer)):
                atoms.info[key] = float(atoms.info[key])
        check_structure(atoms, f"{path}, structure {number}")
    return structures


def _restore_ids(structures: Sequence[Atoms], content: str) -> None:
    """Ids as they stand in the text: ASE takes `0012` for a number, `1e5 2e5` for two, and `F` for false."""
    if all(isinstance(atoms.info.get(key, ""), str) for atoms in structures for key in IDS):
        return
    lines, first = content.split("\n"), 0
    for atoms in structures:
        found = {key: quoted or plain for key, quoted, plain in FIELD.findall("".join(lines[first + 1 : first + 2]))}
        atoms.info |= {key: found[key] for key in IDS if key in found and not isinstance(atoms.info.get(key), str)}
        first += len(atoms) + 2


def write_structures(path: Path | str, structures: Iterable[Atoms]) -> None:
    """Write an extxyz file that appears whole or not at all; an empty set is an empty file.

    Raises: StructureError
    """
    from ase.io import write

    structures = list(structures)
    for number, atoms in enumerate(structures):
        check_structure(atoms, f"structure {number} for {path}")
    text = io.StringIO()
    if structures:
        write(text, structures, format="extxyz", write_results=False)
    write_whole(Path(path), text.getvalue().encode())


def bare(atoms: Atoms) -> Atoms:
    """A crystal's elements, positions and cell, periodic in three directions, and nothing else."""
    return Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)


def without(atoms: Atoms, who: str) -> Atoms:
    """A copy that has lost everything computed by `who`, its flags and its energy frame."""
    copy = atoms.copy()
    copy.calc = None
    for key in (f"{who}_energy", f"{who}_stress", "energy_frame", "e_above_hull", *FLAGS):
        copy.info.pop(key, None)
    copy.arrays.pop(f"{who}_forces", None)
    return copy


def set_results(
    atoms: Atoms, who: str, energy: float, forces: np.ndarray, stress: np.ndarray, energy_frame: str
) -> Atoms:
    """Attach energy (eV), forces (n_atoms, 3) eV/A, stress (3, 3) eV/A^3 and their level of theory, in place."""
    atoms.info[f"{who}_energy"] = float(energy)
    atoms.arrays[f"{who}_forces"] = np.asarray(forces, dtype=float)
    atoms.info[f"{who}_stress"] = np.asarray(stress, dtype=float)
    atoms.info["energy_frame"] = energy_frame
    return atoms


def energies_per_atom(structures: Sequence[Atoms], who: str) -> np.ndarray:
    """(n_structures,) eV/atom of `<who>_energy`."""
    return np.array([atoms.info[f"{who}_energy"] / len(atoms) for atoms in structures])
