"""Relaxation in two parts: a coarse one for all, and a fine one for those that may still be worth it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms

from chemloop.physics.crystal_key import CrystalKey
from chemloop.physics.hull import energies_above_hull
from chemloop.physics.matching import Matcher
from chemloop.physics.relaxation import Relaxed

HOPELESS = "hopeless"
EARLY = "known early"


def relax_in_two_parts(
    structures: Sequence[Atoms],
    coarse: Callable[[Sequence[Atoms]], list[Relaxed]],
    give_up: Callable[[Sequence[Atoms]], list[str | None]],
    fine: Callable[[Sequence[Atoms]], list[Relaxed]],
) -> list[Relaxed]:
    """Relax all coarsely, then finely those that are not given up; steps are those of both parts.

    give_up: why each structure is relaxed no further, None where it is; it is then rejected for that reason
    """
    ends = coarse(structures)
    for end in ends:
        end.n_coarse_steps = end.n_steps
    running = [number for number, end in enumerate(ends) if end.rejection is None]
    reasons = give_up([ends[number].atoms for number in running])
    for number, reason in zip(running, reasons, strict=True):
        if reason is not None:
            ends[number].rejection = reason
            ends[number].atoms.info["converged"] = False
    last = [number for number in running if ends[number].rejection is None]
    for number, end in zip(last, fine([ends[number].atoms for number in last]), strict=True):
        end.n_coarse_steps = ends[number].n_steps
        end.n_steps += end.n_coarse_steps
        ends[number] = end
    return ends


def find_hopeless(structures: Sequence[Atoms], hull: Sequence[Atoms], stop_above: float) -> list[str | None]:
    """For each structure None, or its energy above the hull, in words, where that is above stop_above (eV/atom)."""
    return [
        None if energy <= stop_above else f"{HOPELESS}: {energy:.3f} eV/atom above the hull after the coarse part"
        for energy in energies_above_hull(structures, hull)
    ]


def find_known(structures: Sequence[Atoms], known: Sequence[Atoms | CrystalKey], matcher: Matcher) -> list[str | None]:
    """For each structure None, or in words that it equals a known one, or a lower one among those that do not.

    Lower by `mlff_energy`, because equal ones may differ in volume; without energies the first one counts.
    structures: all with energies or all without, and none that is given up: nobody would be left of it and its twin
    """
    compositions = set(map(_composition, structures))
    # what matching needs to know of a crystal costs as much as some steps, so only for those that can be equal
    close = [crystal for crystal in known if _composition(crystal) in compositions]
    keys = matcher.keys(structures)
    reasons = [f"{EARLY}: equals a known structure" if is_old else None for is_old in matcher.is_known(keys, close)]
    new = sorted(
        (number for number, reason in enumerate(reasons) if reason is None),
        key=lambda number: structures[number].info.get("mlff_energy", 0.0) / len(structures[number]),
    )
    for place, first in enumerate(matcher.duplicates([keys[number] for number in new])):
        if first != place:
            name = structures[new[first]].info.get("id", f"structure {new[first]}")
            reasons[new[place]] = f"{EARLY}: equals {name}"
    return reasons


def _composition(crystal: Atoms | CrystalKey) -> tuple[tuple[int, int], ...]:
    """Each element and its number of atoms, in lowest terms."""
    elements, counts = np.unique(crystal.numbers, return_counts=True)
    return tuple(zip(elements.tolist(), (counts // np.gcd.reduce(counts)).tolist(), strict=True))
