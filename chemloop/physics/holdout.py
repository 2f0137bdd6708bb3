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
    fraction. So, while a set grows, what was held out stays held out.
    salt: another one draws others
    Raises: StructureError when the frames come from fewer than two structures
    """
    sizes = Counter(origin(atoms) for atoms in frames)
    if len(sizes) < 2:
        raise StructureError(
            f"the {len(frames)} frames come from {len(sizes)} structure ({', '.join(sizes)}), and what is held out must"
            " come from another than what trains: label more, or name in info['parent'] where each frame comes from"
        )
    *names, _ = sorted(sizes, key=lambda name: hashlib.sha256(f"{salt}{name}".encode()).digest())
    counts = np.cumsum([sizes[name] for name in names])
    return set(names[: 1 + int(np.argmin(np.abs(counts - fraction * len(frames))))])
