"""For the report: the hulls of a campaign, and what labels and force fields say of the same structures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from chemloop.physics.hull import energies_above_hull
from chemloop.report.data import Find, HullParity, ReportData
from chemloop.stages.relax import is_sun
from chemloop.workflow.report_rounds import Round, having


def is_find(structure_id: str) -> bool:
    """Whether the structure was generated, not known from the start."""
    return "-g" in structure_id


def as_find(atoms: Atoms) -> Find:
    from chemloop.physics.matching import space_group

    iteration = int(atoms.info["id"].partition("-")[0].removeprefix("i"))
    return Find(atoms, iteration, atoms.info.get("spacegroup") or space_group(atoms))


def add_hulls(data: ReportData, rounds: Sequence[Round], structures: Sequence[Atoms]) -> None:
    """References and finds by the labels, and by the newest force field that has relaxed all of them.

    structures: all that are labelled, new ones with the flags that they have as the labeler relaxed them
    """
    data.references = [atoms for atoms in structures if not is_find(atoms.info["id"])]
    data.finds = [as_find(atoms) for atoms in structures if is_find(atoms.info["id"]) and is_sun(atoms)]
    screened = list(having(rounds, "relax", "screen"))
    if screened:
        newest = screened[-1]
        data.model_iteration = newest.number
        relaxed = usable(newest.relaxed)
        data.model_references = [atoms for atoms in relaxed if atoms.info["role"] == "reference"]
        finds = [atoms for atoms in relaxed if atoms.info["role"] == "find"]
        data.model_finds = [as_find(atoms) for atoms in [*finds, *filter(is_sun, newest.screened)]]
    data.hull_parity = hull_parity(data, rounds, structures)


def hull_parity(data: ReportData, rounds: Sequence[Round], structures: Sequence[Atoms]) -> HullParity | None:
    """E_hull of all labelled new structures by the labels, by the force field that found them, and by the newest one.

    Each hull is that of the references alone, at its own level of theory. None where nothing new is labelled.
    """
    finds = [atoms for atoms in structures if is_find(atoms.info["id"])]
    if not finds:
        return None
    ids = [atoms.info["id"] for atoms in finds]
    label = energies_above_hull(finds, [atoms for atoms in structures if not is_find(atoms.info["id"])], "label")
    found, again = dict[str, float](), dict[str, float]()
    wanted = set(ids)
    again_iteration = None
    for each in having(rounds, "relax"):
        relaxed = usable(each.relaxed)
        found |= above_references(relaxed, "candidate", wanted, data.elements)
        newest = above_references(relaxed, "find", wanted, data.elements)
        if newest:
            again, again_iteration = newest, each.number
    before, after = (np.array([values.get(id, np.nan) for id in ids]) for values in (found, again))
    return HullParity(ids, label, before, after, again_iteration)


def usable(relaxed: Sequence[Atoms]) -> list[Atoms]:
    """Relaxed to the end and not sorted out."""
    return [atoms for atoms in relaxed if "dropped" not in atoms.info and atoms.info["converged"]]


def above_references(relaxed: Sequence[Atoms], role: str, ids: set[str], elements: Sequence[str]) -> dict[str, float]:
    """eV/atom above the hull of the references, by the force field that relaxed all of them, by id.

    Nothing where an element has no reference that this force field relaxed to the end.
    """
    references = [atoms for atoms in relaxed if atoms.info["role"] == "reference"]
    structures = [atoms for atoms in relaxed if atoms.info["role"] == role and atoms.info["id"] in ids]
    if not structures or not all(any(set(atoms.symbols) == {e} for atoms in references) for e in elements):
        return {}
    above = energies_above_hull(structures, references, "mlff")
    return {atoms.info["id"]: float(energy) for atoms, energy in zip(structures, above, strict=True)}
