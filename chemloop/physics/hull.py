"""Energies above the convex hull, in one energy frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

from chemloop.runtime.errors import EnergyFrameError, StructureError

if TYPE_CHECKING:
    from pymatgen.analysis.phase_diagram import PDEntry


def one_energy_frame(structures: Sequence[Atoms]) -> str:
    """The level of theory that the energies of all structures share.

    Raises: EnergyFrameError where there is none, or more than one
    """
    if len(structures) == 0:
        raise EnergyFrameError("no structures, so no energy frame; at least one structure with energies is needed")
    frames: dict[str, str] = {}
    for number, atoms in enumerate(structures):
        name = str(atoms.info.get("id", f"structure {number}"))
        if "energy_frame" not in atoms.info:
            raise EnergyFrameError(
                f"{name} has no info['energy_frame'], so its energy compares with none; compute it again"
            )
        frames.setdefault(atoms.info["energy_frame"], name)
    if len(frames) > 1:
        found = ", ".join(f"{frame} ({name})" for frame, name in frames.items())
        raise EnergyFrameError(
            f"energies of {len(frames)} levels of theory met: {found}; compute all of them with the same one"
        )
    return next(iter(frames))


def hull_entries(structures: Sequence[Atoms], who: str = "mlff") -> list[PDEntry]:
    """pymatgen's entries, in the order given, with uncorrected `<who>_energy` in eV per cell.

    Raises: StructureError where the energy is missing
    """
    from pymatgen.analysis.phase_diagram import PDEntry
    from pymatgen.core import Composition

    entries = []
    for number, atoms in enumerate(structures):
        name = str(atoms.info.get("id", f"structure {number}"))
        if f"{who}_energy" not in atoms.info:
            raise StructureError(f"{name} has no info['{who}_energy'], so no place on the hull; compute it first")
        composition = Composition(atoms.symbols.formula.count())
        entries.append(PDEntry(composition, float(atoms.info[f"{who}_energy"]), name=name))
    return entries


def energies_above_hull(structures: Sequence[Atoms], references: Sequence[Atoms], who: str = "mlff") -> np.ndarray:
    """(n_structures,) eV/atom above the convex hull of the references; negative below it.

    The hull is that of the references inside the chemical space of the structures; others play no part.

    Raises: EnergyFrameError; StructureError where an element has no elementary reference, or an energy is missing
    """
    from pymatgen.analysis.phase_diagram import PhaseDiagram

    if len(structures) == 0:
        return np.zeros(0)
    one_energy_frame([*structures, *references])
    elements = {symbol for atoms in structures for symbol in atoms.symbols}
    inside = [atoms for atoms in references if elements.issuperset(atoms.symbols)]
    elementary = {symbol for atoms in inside for symbol in set(atoms.symbols) if len(set(atoms.symbols)) == 1}
    missing = sorted(elements - elementary)
    if missing:
        raise StructureError(
            f"the references hold no structure of the element {', '.join(missing)} alone, so there is no hull;"
            f" they have {', '.join(sorted(elementary)) or 'none'}; add one for each element"
        )
    diagram = PhaseDiagram(hull_entries(inside, who))
    return np.array(
        [
            diagram.get_e_above_hull(entry, allow_negative=True, check_stable=False)
            for entry in hull_entries(structures, who)
        ],
        dtype=float,
    )
