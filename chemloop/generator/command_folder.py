"""The folder in which ChemLoop and an external generator meet: a request in, structures out. docs/generators.md."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import yaml
from ase import Atoms

from chemloop.physics.structures import PROVENANCE, is_partial
from chemloop.runtime.disk import write_whole
from chemloop.runtime.errors import ConfigError, ItemFailed

REQUEST = "request.yaml"
LOG = "output.log"
UNREADABLE, EMPTY, PARTIAL = "unreadable file", "file without structures", "partially occupied sites"


def placeholders(text: str, key: str) -> set[str]:
    """The names in braces of a template; {{ and }} stand for braces.

    Raises: ConfigError where braces do not fit
    """
    try:
        return {name for _, name, _, _ in Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise ConfigError(f"{key} has {text!r}: {error}; write {{{{ and }}}} for braces of the command") from error


def check_placeholders(texts: Sequence[str], allowed: Sequence[str], key: str) -> None:
    """Raises: ConfigError for a placeholder that has no meaning."""
    for text in texts:
        for name in sorted(placeholders(text, key) - set(allowed)):
            raise ConfigError(
                f"{key} has {{{name}}}: allowed are {', '.join(f'{{{name}}}' for name in allowed)}; write {{{{ and }}}}"
                " for braces of the command"
            )


def fill(text: str, values: Mapping[str, Any], key: str) -> str:
    """The template with its placeholders replaced.

    Raises: ConfigError for one that has no value
    """
    for name in sorted(placeholders(text, key)):
        if values[name] is None:
            raise ConfigError(f"{key} has {{{name}}}, which has no value here; set generator.{name}, or leave it out")
    return text.format_map(values)


def prepare(folder: Path, request: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    """An empty folder with the request and the input files; what an earlier attempt left there is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_whole(folder / REQUEST, yaml.safe_dump(dict(request), sort_keys=False).encode())
    for name, text in inputs.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def read_outputs(folder: Path, pattern: str, kind: str | None) -> tuple[list[Atoms], Counter[str]]:
    """The structures of all files that match, in natural order, and how many files or structures are unusable.

    Positions, cell and where a structure comes from are kept, nothing else.
    pattern: as of `Path.glob`; kind: one of ASE's formats, None: told by name and content

    Raises: ItemFailed where no file matches, or none has a structure that can be read
    """
    from ase.io import read

    own = {folder / REQUEST, folder / LOG}
    files = sorted((path for path in folder.glob(pattern) if path.is_file() and path not in own), key=natural_order)
    if not files:
        raise ItemFailed(f"the command ended well but wrote no file {pattern} (generator.outputs) in {folder}")
    found: list[Atoms] = []
    faults: list[str] = []
    unusable: Counter[str] = Counter()
    for file in files:
        try:
            structures = read(file, index=":", format=kind)
        except Exception as error:
            faults.append(f"{file}: ASE cannot read it ({type(error).__name__}: {error})")
            print(faults[-1])
            unusable[UNREADABLE] += 1
            continue
        if not structures:
            faults.append(f"{file} holds no structure")
            print(faults[-1])
            unusable[EMPTY] += 1
        for atoms in structures:
            if is_partial(atoms):
                print(f"{file} has partially occupied sites")
                unusable[PARTIAL] += 1
            else:
                found.append(newborn(atoms))
    if len(faults) == len(files):
        more = f"; so it is with all {len(files)} files" if len(files) > 1 else ""
        raise ItemFailed(f"{faults[0]}{more}; see whether generator.format fits")
    return found, unusable


def natural_order(path: Path) -> list[tuple[bool, int, str]]:
    """A key that puts x2 before x10."""
    return [
        (part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.findall(r"\d+|\D+", str(path)) if part
    ]


def newborn(atoms: Atoms) -> Atoms:
    """Species, positions and cell, and what is told of the structure's birth."""
    copy = Atoms(atoms.numbers, positions=np.array(atoms.positions), cell=atoms.cell, pbc=atoms.pbc)
    copy.info |= {key: str(atoms.info[key]) for key in PROVENANCE if key in atoms.info and key != "generator"}
    return copy
