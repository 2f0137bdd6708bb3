"""The table of the most stable new structures."""

from __future__ import annotations

import base64
import io
from typing import Any

from ase.io import write

from chemloop.physics.hull import energies_above_hull
from chemloop.report.data import Find, ReportData, formula, plain_formula
from chemloop.report.typeset import typeset_group

N_BEST = 30
"""Rows of the table."""


def best_rows(data: ReportData) -> list[dict[str, Any]]:
    """The finds that lie lowest with respect to the known structures, for the table."""
    if not data.finds:
        return []
    atoms = [find.atoms for find in data.finds]
    known = energies_above_hull(atoms, data.references, data.hull_energies)
    everything = energies_above_hull(atoms, [*data.references, *atoms], data.hull_energies)
    order = sorted(range(len(atoms)), key=lambda index: known[index])[:N_BEST]
    return [row(data.finds[index], float(known[index]), float(everything[index])) for index in order]


def row(find: Find, above_known: float, above_all: float) -> dict[str, Any]:
    """One row of the table; energies in meV/atom, the CIF as a data URI."""
    identifier = str(find.atoms.info["id"])
    return {
        "id": identifier,
        "formula": formula(find.atoms),
        "spacegroup": typeset_group(find.spacegroup),
        "n_atoms": len(find.atoms),
        "iteration": find.iteration,
        "above_known": f"{round(1000 * above_known, 1) + 0.0:+.1f}".replace("-", "−"),
        "above_all": f"{max(0.0, 1000 * above_all):.1f}",
        "cif": "data:chemical/x-cif;base64," + base64.b64encode(cif(find)).decode(),
        "filename": f"{plain_formula(find.atoms)}_{identifier.replace('/', '-')}.cif",
    }


def cif(find: Find) -> bytes:
    """The structure as it is, without symmetry (P 1)."""
    text = io.BytesIO()
    write(text, find.atoms, format="cif")
    return text.getvalue()
