"""What generator=evolution learns: a folder of parents and of how often each operator paid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms

from chemloop.physics.structures import bare, read_structures, write_structures
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import CheckpointError, StructureError

PARENTS = "parents.extxyz"
SUCCESS = "operators.json"
ADVICE = "give what a learn stage left, a file of parents of your own, or null for the known structures"


def write_checkpoint(folder: Path, parents: Sequence[Atoms], success: Mapping[str, Any]) -> None:
    """parents: with `id` and `e_above_hull`; success: as `physics.parents.operator_success` has it"""
    folder.mkdir(exist_ok=True)
    chosen = [bare(atoms) for atoms in parents]
    for atoms, parent in zip(chosen, parents, strict=True):
        atoms.info.update({key: parent.info[key] for key in ("id", "e_above_hull")})
    write_structures(folder / PARENTS, chosen)
    write_json(folder / SUCCESS, success)


def read_parents(checkpoint: str, elements: Sequence[str]) -> list[Atoms]:
    """The parents of a folder that `write_checkpoint` left, or of a file of one's own.

    Raises: CheckpointError
    """
    path = Path(checkpoint)
    try:
        parents = read_structures(path / PARENTS if path.is_dir() else path)
    except StructureError as error:
        raise CheckpointError(f"generator.checkpoint = {checkpoint}: {error}; {ADVICE}") from error
    for number, atoms in enumerate(parents):
        outside = sorted(set(atoms.symbols) - set(elements))
        lacking = [key for key in ("id", "e_above_hull") if key not in atoms.info]
        if outside or lacking:
            flaw = f"contains {', '.join(outside)}" if outside else f"has no {' and no '.join(lacking)}"
            raise CheckpointError(
                f"generator.checkpoint = {checkpoint}: structure {number}, {atoms.symbols}, {flaw}; parents are"
                f" crystals of {'-'.join(elements)} with an id and e_above_hull (eV/atom)"
            )
    if not parents:
        raise CheckpointError(f"generator.checkpoint = {checkpoint} holds no structure; {ADVICE}")
    return parents


def read_factors(checkpoint: str) -> dict[str, float]:
    """How much more often than average each operator paid; nothing for a file of one's own.

    Raises: CheckpointError
    """
    path = Path(checkpoint)
    if not path.is_dir():
        return {}
    try:
        return {name: float(row["factor"]) for name, row in read_json(path / SUCCESS).items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"generator.checkpoint = {checkpoint}: {SUCCESS} is missing or damaged ({type(error).__name__}: {error});"
            f" {ADVICE}"
        ) from error
