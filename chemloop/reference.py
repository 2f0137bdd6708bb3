"""Known structures from wherever the user has them: the package, files, folders, the Materials Project."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from chemloop.physics.geometry import closest_contact
from chemloop.physics.structures import check_structure, is_partial, write_structures
from chemloop.runtime.errors import ConfigError, StructureError

PACKAGE = "package:"
PACKAGED = Path(__file__).parent / "data"
MATERIALS_PROJECT = "materials_project"
API_KEYS = ("MP_API_KEY", "PMG_MAPI_KEY")
FORMATS = {
    "extxyz": ("*.extxyz", "*.xyz"),
    "cif": ("*.cif",),
    "vasp": ("POSCAR*", "CONTCAR*", "*.vasp", "*.poscar"),
}
# Entries further above the hull are isolated atoms and molecules in empty cells: they say nothing about the system.
MAX_E_ABOVE_HULL = 0.5


def read_reference(
    reference: str | None, elements: Sequence[str], min_distance_ratio: float, downloads: str
) -> list[Atoms]:
    """The structures that `system.reference` names, in the order of the file, checked; [] for None.

    Positions and cell are kept, and `name`, `formula` and `phase`; whatever else a file says is dropped.
    min_distance_ratio: fraction of the sum of covalent radii below which two atoms lie on top of each other
    downloads: folder that keeps what the Materials Project answered, so that a campaign resumes with the same

    Raises: StructureError, naming file and structure; ConfigError
    """
    if reference is None:
        return []
    if reference == MATERIALS_PROJECT:
        files = [_downloaded(elements, Path(downloads))]
    elif reference.startswith(PACKAGE):
        files = [_packaged(reference.removeprefix(PACKAGE))]
    else:
        files = _files(Path(reference).expanduser())
    return [atoms for path in files for atoms in _read_file(path, elements, min_distance_ratio)]


def _packaged(name: str) -> Path:
    path = PACKAGED / name / "reference.extxyz"
    if not path.is_file():
        names = sorted(folder.parent.name for folder in PACKAGED.glob("*/reference.extxyz"))
        raise ConfigError(f"system.reference = {PACKAGE}{name}: the package has {PACKAGE}{f', {PACKAGE}'.join(names)}")
    return path


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file() and _format(file))
        if not found:
            raise StructureError(f"system.reference = {path}: no file in this folder is called {_allowed()}")
        return found
    if not path.is_file():
        raise StructureError(
            f"system.reference = {path}: there is no such file or folder; give an extxyz file, a folder of CIF or"
            f" POSCAR files, {MATERIALS_PROJECT}, or {PACKAGE}li-p-s"
        )
    if _format(path) is None:
        raise StructureError(f"system.reference = {path}: its name must be {_allowed()}")
    return [path]


def _format(path: Path) -> str | None:
    return next((kind for kind, names in FORMATS.items() if any(fnmatch(path.name, name) for name in names)), None)


def _allowed() -> str:
    return ", ".join(name for names in FORMATS.values() for name in names)


def _read_file(path: Path, elements: Sequence[str], min_distance_ratio: float) -> list[Atoms]:
    from ase.io import read

    kind = _format(path)
    if path.stat().st_size == 0:
        raise StructureError(f"{path} is empty")
    try:
        found = read(path, index=":", format=kind)
    except Exception as error:
        raise StructureError(f"{path} is not a readable {kind} file ({type(error).__name__}: {error})") from error
    if not found:
        raise StructureError(f"{path} holds no structure")
    structures = []
    for number, atoms in enumerate(found):
        label = str(atoms.info.get("name", path.stem if kind == "cif" else path.name))
        where = f"{path}, structure {number}" + (f" ({label})" if label != path.name else "")
        structures.append(_bare(atoms, label, where))
        _check(structures[-1], where, elements, min_distance_ratio)
    return structures


def _bare(atoms: Atoms, name: str, where: str) -> Atoms:
    if is_partial(atoms):
        raise StructureError(f"{where} has partially occupied sites; give an ordered structure instead")
    bare = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    bare.info["name"] = name
    bare.info["formula"] = atoms.get_chemical_formula("metal", empirical=True)
    bare.info["phase"] = str(atoms.info.get("phase", "-"))
    return bare


def _check(atoms: Atoms, where: str, elements: Sequence[str], min_distance_ratio: float) -> None:
    check_structure(atoms, where)
    outside = sorted(set(atoms.symbols) - set(elements))
    if outside:
        raise StructureError(
            f"{where} contains {', '.join(outside)}, outside the system {'-'.join(elements)}; take the structure out of"
            " the file, or set system.elements or system.reference"
        )
    i, j, distance, ratio = closest_contact(atoms)
    if ratio < min_distance_ratio:
        radii = covalent_radii[atoms.numbers]
        raise StructureError(
            f"{where}: atoms {i} ({atoms.symbols[i]}) and {j} ({atoms.symbols[j]}) lie on top of each other,"
            f" {distance:.3f} A apart; at least {min_distance_ratio * (radii[i] + radii[j]):.2f} A is allowed"
            f" (system.min_distance_ratio = {min_distance_ratio})"
        )


def _downloaded(elements: Sequence[str], downloads: Path) -> Path:
    path = downloads / f"{MATERIALS_PROJECT}-{'-'.join(sorted(elements)).lower()}.extxyz"
    if not path.is_file():
        structures = from_materials_project(elements, open_rester())
        path.parent.mkdir(parents=True, exist_ok=True)
        write_structures(path, structures)
    return path


def open_rester(asked_by: str = "system.reference") -> Any:
    """A client of the Materials Project with the user's key.

    asked_by: the configuration key that names the Materials Project
    Raises: ConfigError where the key or the client is missing
    """
    key = next((os.environ[name] for name in API_KEYS if os.environ.get(name)), None)
    if key is None:
        raise ConfigError(
            f"{asked_by} = {MATERIALS_PROJECT} needs a key: set {API_KEYS[0]} to the one shown at"
            " https://next-gen.materialsproject.org/api, or give a file of structures"
        )
    try:
        from mp_api.client import MPRester
    except ImportError as error:
        raise ConfigError(f"{asked_by} = {MATERIALS_PROJECT} needs mp-api: pip install mp-api") from error
    return MPRester(key)


def from_materials_project(elements: Sequence[str], rester: Any) -> list[Atoms]:
    """All structures of a chemical system and its subsystems, within 0.5 eV/atom of the hull, sorted by id.

    Entries of GNoME are left out: their licence excludes commercial use.

    Raises: StructureError where the Materials Project does not answer, or has nothing
    """
    from pymatgen.io.ase import AseAtomsAdaptor

    subsystems = ["-".join(sorted(np.array(elements)[list(chosen)])) for chosen in _subsets(len(elements))]
    try:
        with rester:
            documents = rester.materials.summary.search(
                chemsys=subsystems,
                energy_above_hull=(0.0, MAX_E_ABOVE_HULL),
                include_gnome=False,
                fields=["material_id", "structure"],
            )
    except Exception as error:
        raise StructureError(
            f"the Materials Project gave no structures of {'-'.join(elements)} ({type(error).__name__}: {error}); check"
            " the key and the network, or give a file of structures as system.reference"
        ) from error
    structures = []
    for document in sorted(documents, key=lambda document: str(document.material_id)):
        atoms = AseAtomsAdaptor.get_atoms(document.structure)
        bare = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
        bare.info["name"] = str(document.material_id)
        structures.append(bare)
    if not structures:
        raise StructureError(f"the Materials Project has no structures of {'-'.join(elements)}")
    return structures


def _subsets(n: int) -> list[tuple[int, ...]]:
    return [tuple(k for k in range(n) if mask >> k & 1) for mask in range(1, 2**n)]
