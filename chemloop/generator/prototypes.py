"""Prototypes for substitution: pymatgen's AFLOW library, files, related chemistries of the Materials Project."""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from chemloop.physics.decoration import Prototype
from chemloop.physics.structures import bare, check_structure, is_partial, read_structures, write_structures
from chemloop.reference import MATERIALS_PROJECT, open_rester
from chemloop.runtime.errors import ConfigError, StructureError

AFLOW = "aflow"
OXIDATION_STATES = "oxidation_states"
"""Per-atom array that a prototype file may have; without it the states are guessed."""
MAX_E_ABOVE_HULL = 0.1  # eV/atom; prototypes are to be crystals that exist
KEY = "generator.prototypes"


def read_prototypes(sources: Sequence[str], related: Sequence[str], max_atoms: int, downloads: str) -> list[Prototype]:
    """The prototypes of all sources whose ions can be told and whose primitive cell is small enough.

    related: chemical systems that the Materials Project is asked for
    downloads: folder that keeps what it answered

    Raises: ConfigError, StructureError, naming the source
    """
    prototypes: list[Prototype] = []
    for source in sources:
        if source == AFLOW:
            prototypes += aflow_prototypes(max_atoms)
        elif source == MATERIALS_PROJECT:
            prototypes += with_charges(materials_project(related, Path(downloads)), max_atoms)
        else:
            prototypes += with_charges(files(Path(source).expanduser()), max_atoms)
    return prototypes


def with_charges(crystals: Sequence[tuple[str, Atoms]], max_atoms: int) -> list[Prototype]:
    """Those whose oxidation states can be told and whose primitive cell is small enough."""
    prototypes = []
    for name, atoms in crystals:
        charges = oxidation_states(atoms)
        if charges is not None:
            prototype = Prototype.of(name, atoms, charges)
            if len(prototype.atoms) <= max_atoms:
                prototypes.append(prototype)
    return prototypes


@functools.lru_cache(maxsize=4)
def aflow_prototypes(max_atoms: int) -> list[Prototype]:
    """Those of the AFLOW library; kept, because telling their oxidation states takes seconds."""
    return with_charges([entry for entry in aflow_library() if len(entry[1]) <= max_atoms], max_atoms)


def aflow_library() -> list[tuple[str, Atoms]]:
    """Names and crystals, of at least two elements, in pymatgen's copy of the AFLOW library of prototypes.

    The file is read as it is: pymatgen's own module takes 4 s to import, mostly for packages that are of no use here.
    Source: doi:10.1016/j.commatsci.2017.01.017
    """
    spec = importlib.util.find_spec("pymatgen.analysis")
    folders = spec.submodule_search_locations if spec is not None else None
    found = [path for folder in folders or [] for path in sorted(Path(folder).rglob("aflow_prototypes.json*"))]
    if not found:
        raise ConfigError(
            f"{KEY} = [{AFLOW}]: this pymatgen has no aflow_prototypes.json; install the version in"
            " requirements/constraints.txt, or give files of prototypes"
        )
    content = found[0].read_bytes()
    entries = json.loads(gzip.decompress(content) if found[0].suffix == ".gz" else content)
    crystals = []
    for entry in entries:
        sites = entry["snl"]["sites"]
        atoms = Atoms(
            [site["species"][0]["element"] for site in sites],
            cell=entry["snl"]["lattice"]["matrix"],
            scaled_positions=[site["abc"] for site in sites],
            pbc=True,
        )
        if len(set(atoms.symbols)) > 1:
            formula = atoms.get_chemical_formula("metal", empirical=True)
            crystals.append((f"{AFLOW}/{formula}-{entry['tags']['aflow']}", atoms))
    return crystals


def files(path: Path) -> list[tuple[str, Atoms]]:
    """Names, without spaces, and crystals of a file, or of all files in a folder, in any format that ASE reads.

    Raises: ConfigError, StructureError
    """
    from ase.io import read

    if not path.exists():
        raise ConfigError(
            f"{KEY} has {path}: there is no such file or folder; allowed are {AFLOW}, {MATERIALS_PROJECT}, and files or"
            " folders of crystals that ASE reads"
        )
    crystals: list[tuple[str, Atoms]] = []
    for file in [path] if path.is_file() else sorted(child for child in path.rglob("*") if child.is_file()):
        try:
            found = read(file, index=":")
        except Exception as error:
            raise StructureError(
                f"{KEY} has {file}, which ASE cannot read ({type(error).__name__}: {error}); take it out, or convert it"
                " to CIF, POSCAR or extxyz"
            ) from error
        for number, atoms in enumerate(found):
            where = f"{file}, structure {number}"
            check_structure(atoms, where)
            if is_partial(atoms):
                raise StructureError(f"{where} has partially occupied sites; give an ordered prototype instead")
            name = str(atoms.info.get("name", f"{file.stem}-{number}"))
            crystals.append(("_".join(name.split()), atoms))
    if not crystals:
        raise StructureError(f"{KEY} has {path}, which holds no structure")
    return crystals


def materials_project(systems: Sequence[str], downloads: Path) -> list[tuple[str, Atoms]]:
    """Crystals of the Materials Project in exactly those systems, within 0.1 eV/atom of the hull, sorted by id.

    Entries of GNoME are left out: their licence excludes commercial use. What was answered is kept in `downloads`.

    Raises: ConfigError without a key; StructureError where it does not answer, or has nothing
    """
    from pymatgen.io.ase import AseAtomsAdaptor

    digest = hashlib.sha256("|".join(sorted(systems)).encode()).hexdigest()[:12]
    path = downloads / f"{MATERIALS_PROJECT}-prototypes-{digest}.extxyz"
    if not path.is_file():
        rester = open_rester(KEY)
        try:
            with rester:
                documents = rester.materials.summary.search(
                    chemsys=list(systems),
                    energy_above_hull=(0.0, MAX_E_ABOVE_HULL),
                    include_gnome=False,
                    fields=["material_id", "structure"],
                )
        except Exception as error:
            raise StructureError(
                f"the Materials Project gave no structures of {', '.join(systems)} ({type(error).__name__}: {error});"
                f" check the key and the network, or give a file as {KEY}"
            ) from error
        crystals = []
        for document in sorted(documents, key=lambda document: str(document.material_id)):
            crystals.append(bare(AseAtomsAdaptor.get_atoms(document.structure)))
            crystals[-1].info["name"] = str(document.material_id)
        if not crystals:
            raise StructureError(f"the Materials Project has no structures of {', '.join(systems)}; name other systems")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_structures(path, crystals)
    return [(str(atoms.info["name"]), atoms) for atoms in read_structures(path)]


def oxidation_states(atoms: Atoms) -> np.ndarray | None:
    """(n_atoms,) whole oxidation states, none of them 0; None where no such states can be told.

    They are those of the file, or the most frequent ones that make the formula neutral, or, where atoms of one element
    differ, those of pymatgen's bond valence analysis.
    """
    if OXIDATION_STATES in atoms.arrays:
        states = np.asarray(atoms.arrays[OXIDATION_STATES], dtype=float)
    else:
        states = _guessed(atoms)
        if not _is_whole(states):
            states = _from_bond_valences(atoms)
    return np.rint(states).astype(int) if _is_whole(states) else None


def _guessed(atoms: Atoms) -> np.ndarray:
    from chemloop.physics.oxidation import guess_oxidation_states

    symbols, counts = np.unique(atoms.symbols, return_counts=True)
    counts //= np.gcd.reduce(counts)
    states = guess_oxidation_states(tuple((str(s), int(n)) for s, n in zip(symbols, counts, strict=True)))
    return np.array([states[symbol] for symbol in atoms.symbols])


def _from_bond_valences(atoms: Atoms) -> np.ndarray:
    from pymatgen.core.bond_valence import BVAnalyzer
    from pymatgen.io.ase import AseAtomsAdaptor

    try:
        return np.array(BVAnalyzer().get_valences(AseAtomsAdaptor.get_structure(bare(atoms))), dtype=float)
    except ValueError:
        return np.zeros(len(atoms))  # pymatgen's way to say that it cannot tell


def _is_whole(states: np.ndarray) -> bool:
    return bool(np.all(np.abs(states - np.rint(states)) < 1e-6) and np.all(np.rint(states) != 0))
