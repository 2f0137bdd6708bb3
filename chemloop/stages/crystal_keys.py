"""Keys of crystals on disk: what matching needs to know of each structure is found once, not in every iteration."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ase import Atoms

from chemloop.physics.matching import Matcher
from chemloop.physics.structures import read_structures
from chemloop.runtime.disk import file_hash, write_whole
from chemloop.runtime.errors import StructureError
from chemloop.stages.known import converged
from chemloop.stages.stage import OUTPUT, FileVersion, Stage, file_version

if TYPE_CHECKING:
    from chemloop.physics.crystal_key import CrystalKey

KEYS = "keys.jsonl"


def write_keys(
    path: Path, keys: Iterable[CrystalKey], bond_cutoffs: Mapping[str, float], source: Path | None = None
) -> None:
    """Write keys as JSON lines, after one with the cut-offs that they depend on; whole or not at all.

    source: the file of structures that they belong to; its hash goes with them
    """
    head = {"bond_cutoffs": dict(sorted(bond_cutoffs.items())), "source": None if source is None else file_hash(source)}
    lines = [head, *(key.as_dict() for key in keys)]
    write_whole(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def read_keys(path: Path, bond_cutoffs: Mapping[str, float], source: Path | None = None) -> list[CrystalKey]:
    """Keys as they were written.

    source: the file of structures that they must belong to; None: whichever

    Raises: StructureError where the file is not one of keys, or has those of other cut-offs or structures
    """
    from chemloop.physics.crystal_key import CrystalKey

    try:
        head, *lines = map(json.loads, path.read_text().splitlines())
        cutoffs, digest = head["bond_cutoffs"], head["source"]
        keys = [CrystalKey.from_dict(line) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StructureError(
            f"{path} is no file of crystal keys ({error}); delete it, they can be found again"
        ) from error
    if cutoffs != dict(bond_cutoffs):
        raise StructureError(
            f"the keys in {path} were found with bond_cutoffs = {cutoffs}, not {dict(bond_cutoffs)}; delete them, they"
            " can be found again"
        )
    if source is not None and digest != file_hash(source):
        raise StructureError(f"the keys in {path} are not those of {source}; delete them, they can be found again")
    return keys


def screened_before(stage: Stage, n_jobs: int = 1) -> list[CrystalKey]:
    """Of the structures that the screen stages before this one left; only converged ones are known.

    n_jobs: processes, for those that have to be found anew
    """
    return _left_before(stage, "screen", converged, n_jobs)


def generated_before(stage: Stage) -> list[CrystalKey]:
    """Of the valid structures that the generate stages before this one left."""
    return _left_before(stage, "generate", read_structures)


Reader = Callable[[Path], Sequence[Atoms]]


def _left_before(stage: Stage, name: str, read: Reader, n_jobs: int = 1) -> list[CrystalKey]:
    """Keys of what the stages of that name before this one left.

    Those of an iteration without a valid file of keys are found anew, which the log of the item says; of a worker's
    items that of the first, because the keys stay in memory for the others.
    read: the structures of an output that have keys
    """
    cutoffs = tuple(sorted(stage.settings.loop.screen.matcher.bond_cutoffs.items()))
    known: list[CrystalKey] = []
    for folder in stage.earlier(name):
        versions = file_version(folder / KEYS), file_version(folder / OUTPUT)
        known += _left_in(folder, versions, cutoffs, read, n_jobs)
    return known


@functools.lru_cache
def _left_in(
    folder: Path,
    versions: tuple[FileVersion, FileVersion],
    bond_cutoffs: tuple[tuple[str, float], ...],
    read: Reader,
    n_jobs: int,
) -> list[CrystalKey]:
    """Of one stage; versions: of its keys and structures."""
    matcher = Matcher(bond_cutoffs=dict(bond_cutoffs))  # its tolerances play no part in a key
    try:
        return read_keys(folder / KEYS, matcher.bond_cutoffs, folder / OUTPUT)
    except StructureError as error:
        print(f"Finding crystal keys anew, because {error}")
        return matcher.keys(read(folder / OUTPUT), n_jobs)
