"""Which frames are held out: all that come from one structure together, for they resemble each other."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from chemloop.runtime.errors import StructureError


def origin(atoms: Atoms) -> str:
    """Id of the structure that a frame comes from, through perturbations and ionic steps."""
    return str(atoms.info.get("parent", atoms.info.get("id", ""))).partition("/")[0]


def held_out_origins(frames: Sequence[Atoms], fraction: float, salt: str = "") -> set[str]:
    """Structures whose frames are held out; at least one, and not all.

    They are drawn in the order of a hash of their ids, until that brings the number of frames no nearer to the
    fraction. While a set grows, structures come and go: for sets that stay as they are.
    salt: another one draws others
    Raises: StructureError when the frames come from fewer than two structures
    """
    sizes = _sizes(frames)
    *names, _ = sorted(sizes, key=lambda name: _hash(f"{salt}{name}"))
    counts = np.cumsum([sizes[name] for name in names])
    return set(names[: 1 + int(np.argmin(np.abs(counts - fraction * len(frames))))])


def held_out_for_good(frames: Sequence[Atoms], fraction: float) -> set[str]:
    """Structures that are held out while a set grows at its end; at least one, and not all.

    A hash of its id decides about each, with odds that bring the number of those before it to the fraction, so no later
    one changes what was decided. Where none is held out yet the first one stands in, where all are the last one trains.
    Raises: StructureError when the frames come from fewer than two structures
    """
    names = list(_sizes(frames))
    held: list[str] = []
    for number, name in enumerate(names):
        if hash_fraction(name) < fraction * (number + 1) - len(held):
            held.append(name)
    return set(held[: len(names) - 1]) or {names[0]}


def hash_fraction(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(_hash(name)[:8], "big") / 2**64


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _sizes(frames: Sequence[Atoms]) -> Counter[str]:
    """Frames by the structure that they come from.

    Raises: StructureError for fewer than two structures
    """
    sizes = Counter(origin(atoms) for atoms in frames)
    if len(sizes) < 2:
        raise StructureError(
            f"the {len(frames)} frames come from {len(sizes)} structure ({', '.join(sizes)}), and what is held out must"
            " come from another than what trains: label more, or name in info['parent'] where each frame comes from"
        )
    return sizes
