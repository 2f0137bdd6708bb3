"""Labels in the files of others: extxyz, deepmd/npy and deepmd/npy/mixed through dpdata, and VASP's vasprun.xml."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from chemloop.physics.corrections import THEORY
from chemloop.physics.structures import read_structures, set_results, write_structures
from chemloop.runtime.errors import ItemFailed, StructureError

UNNAMED = "unnamed"
VASPRUN = re.compile(r"vasprun\.xml(\.relax\d+)?(\.gz)?")


def read_extxyz(path: Path) -> list[Atoms]:
    """Frames with our keys, or with energy, forces and stress as ASE writes them.

    Raises: StructureError for what is no such file, and for a frame without one of them
    """
    from ase.io import read

    if not path.is_file():
        raise StructureError(f"{path} is a folder; workflow.format=extxyz reads one file, deepmd and vasp read folders")
    try:
        found = list(read(path, index=":", format="extxyz"))
    except Exception as error:
        raise StructureError(f"{path} is not a readable extxyz file: {error}") from error
    if any("label_energy" in atoms.info for atoms in found):
        return read_structures(path)
    frames = []
    for number, atoms in enumerate(found):
        try:
            results = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)
        except Exception as error:
            raise StructureError(
                f"{path}, structure {number} has no energy, forces or stress; all three make a label"
            ) from error
        frames.append(_label(atoms, *results))
    return frames


def read_vasp(path: Path) -> list[Atoms]:
    """The electronically converged ionic steps of every vasprun.xml in the folder and below, finished runs only; also
    of those that custodian compressed, and of the parts of a relaxation that it numbered.

    Raises: StructureError for a run that cannot be read or is truncated
    """
    from chemloop.labeler.vasp_output import read_steps

    frames = []
    runs = sorted(file for file in path.rglob("vasprun.xml*") if VASPRUN.fullmatch(file.name))
    for file in runs if path.is_dir() else [path]:
        try:
            steps = read_steps(file)
        except ItemFailed as error:
            raise StructureError(f"{file}: {error.reason}") from error
        if not steps.is_whole:
            raise StructureError(f"{file} is truncated after {steps.n_ionic} ionic steps; move it away, or finish it")
        for step in steps.frames:
            results = step.get_potential_energy(), step.get_forces(), step.get_stress(voigt=False)
            label = _label(step, *results)
            label.info[THEORY] = step.info[THEORY]
            frames.append(label)
    return frames


def read_deepmd(path: Path) -> list[Atoms]:
    """All systems of a deepmd/npy or deepmd/npy/mixed folder, and below.

    Raises: StructureError for a system that cannot be read, is not periodic, or lacks species, energies, forces or
        virials
    """
    return [frame for marker in sorted(path.rglob("type.raw")) for frame in _read_system(marker.parent)]


def _read_system(folder: Path) -> list[Atoms]:
    import dpdata

    if not (folder / "type_map.raw").exists():
        raise StructureError(
            f"{folder} has no type_map.raw, so its species are not known; write it: one chemical symbol per line, in"
            " the order of the numbers in type.raw"
        )
    if strange := set((folder / "type_map.raw").read_text().split()) - set(chemical_symbols[1:]):
        raise StructureError(f"{folder / 'type_map.raw'}: {', '.join(sorted(strange))}: not chemical symbols")
    if (folder / "nopbc").exists():
        raise StructureError(f"{folder} is not periodic (nopbc); labels are of crystals, periodic in three directions")
    is_mixed = any(folder.glob("set.*/real_atom_types.npy"))
    try:
        if is_mixed:
            systems = list(dpdata.MultiSystems().load_systems_from_file(str(folder), fmt="deepmd/npy/mixed"))
        else:
            systems = [dpdata.LabeledSystem(str(folder), fmt="deepmd/npy")]
    except Exception as error:
        raise StructureError(f"{folder} is not a readable deepmd/npy system: {type(error).__name__} {error}") from error
    return [frame for system in systems for frame in _frames(system.data, folder)]


def _frames(data: dict[str, Any], folder: Path) -> list[Atoms]:
    if "energies" not in data or "forces" not in data:
        raise StructureError(f"{folder} has no energies or no forces; a label needs both")
    if "virials" not in data:
        raise StructureError(f"{folder} has no virials, so no stress; a label needs it")
    symbols = np.array(data["atom_names"])[data["atom_types"]]
    frames = []
    for k in range(len(data["coords"])):
        atoms = Atoms(symbols, positions=data["coords"][k], cell=data["cells"][k], pbc=True)
        stress = -data["virials"][k] / atoms.cell.volume
        frames.append(_label(atoms, data["energies"][k], data["forces"][k], stress))
    return frames


def write_deepmd(path: Path, frames: Sequence[Atoms]) -> None:
    """One folder per composition; virial = -volume times stress, eV."""
    import dpdata

    groups: dict[str, list[Atoms]] = defaultdict(list)
    for frame in frames:
        groups[frame.symbols.formula.format("hill")].append(frame[np.argsort(frame.numbers, kind="stable")])
    systems = dpdata.MultiSystems()
    for group in groups.values():
        names = sorted(set(group[0].symbols), key=lambda symbol: Atoms(symbol).numbers[0])
        types = np.array([names.index(symbol) for symbol in group[0].symbols])
        data = {
            "atom_names": names,
            "atom_numbs": [int((types == k).sum()) for k in range(len(names))],
            "atom_types": types,
            "orig": np.zeros(3),
            "cells": np.array([frame.cell.array for frame in group]),
            "coords": np.array([frame.positions for frame in group]),
            "energies": np.array([frame.info["label_energy"] for frame in group]),
            "forces": np.array([frame.arrays["label_forces"] for frame in group]),
            "virials": np.array([-frame.cell.volume * frame.info["label_stress"] for frame in group]),
        }
        systems.append(dpdata.LabeledSystem(data=data))
    systems.to("deepmd/npy", str(path))


def write_extxyz(path: Path, frames: Sequence[Atoms]) -> None:
    """Our keys; see `chemloop.physics.structures`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_structures(path, frames)


def _label(atoms: Atoms, energy: float, forces: np.ndarray, stress: np.ndarray) -> Atoms:
    """Atoms and results, without the energy frame, which is for the caller to name."""
    label = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    set_results(label, "label", energy, forces, stress, UNNAMED)
    del label.info["energy_frame"]
    return label


READERS: dict[str, Callable[[Path], list[Atoms]]] = {
    "extxyz": read_extxyz,
    "vasp": read_vasp,
    "deepmd": read_deepmd,
}
WRITERS: dict[str, Callable[[Path, Sequence[Atoms]], None]] = {"extxyz": write_extxyz, "deepmd": write_deepmd}
