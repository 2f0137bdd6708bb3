"""What generator=random learns: which compositions a campaign has tried, with what success, and which have phases."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from chemloop.runtime.disk import write_json
from chemloop.runtime.errors import ConfigError

COMPOSITIONS = "compositions.json"
NEAR_HULL = 0.1
"""eV/atom; what lies below is a phase that the hull has, or nearly has."""


def write_compositions(pool: Sequence[Atoms], path: Path) -> None:
    """`phases`: the compositions on or near the hull, once per phase; `tried`: those of all candidates, with the energy
    above the hull (eV/atom) that they reached, null for those that were lost.

    pool: structures with `id`, `role`, `e_above_hull` and, where they are candidates, `is_unique` and `is_novel`
    """
    candidates = [atoms for atoms in pool if atoms.info["role"] == "candidate"]
    lost = [atoms for atoms in pool if atoms.info["role"] == "lost"]
    known = [atoms for atoms in pool if atoms.info["role"] == "label"]
    labelled = {atoms.info["id"] for atoms in known}
    new = [
        atoms
        for atoms in candidates
        if atoms.info["is_unique"] and atoms.info["is_novel"] and atoms.info["id"] not in labelled
    ]
    near = [atoms for atoms in (*known, *new) if atoms.info["e_above_hull"] < NEAR_HULL]
    record = {
        "phases": [atoms.symbols.formula.count() for atoms in near],
        "tried": [
            *([atoms.symbols.formula.count(), float(atoms.info["e_above_hull"])] for atoms in candidates),
            *([atoms.symbols.formula.count(), None] for atoms in lost),
        ],
    }
    write_json(path, record)


def read_compositions(path: str, elements: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(m, n_elements) atoms of each phase, (k, n_elements) of each proposal, (k,) eV/atom above the hull it reached,
    infinite where it was lost.

    Raises: ConfigError for a file that is not there, is of something else, or of another system
    """
    try:
        record = json.loads(Path(path).read_text())
        phases = [atoms_of_each(counts, elements) for counts in record["phases"]]
        tried = [atoms_of_each(counts, elements) for counts, _ in record["tried"]]
        energies = [math.inf if energy is None else float(energy) for _, energy in record["tried"]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"generator.checkpoint = {path}: no compositions of {'-'.join(elements)} ({type(error).__name__}: {error});"
            f" give a {COMPOSITIONS} that the learn stage of a campaign of this system wrote, or null"
        ) from error
    n = len(elements)
    return np.array(phases, int).reshape(-1, n), np.array(tried, int).reshape(-1, n), np.array(energies)


def atoms_of_each(counts: Mapping[str, int], elements: Sequence[str]) -> list[int]:
    """Atoms of each element.

    Raises: ValueError for other elements, or none
    """
    if not counts or not set(counts) <= set(elements):
        raise ValueError(f"it holds {dict(counts)}")
    return [int(counts.get(element, 0)) for element in elements]
