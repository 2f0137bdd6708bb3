"""report.html: one file that opens from disk, without network, and shows what a campaign found."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase.io import write

from chemloop.physics.hull import energies_above_hull
from chemloop.report import captions, curves, distribution
from chemloop.report.data import SUBSCRIPTS, Find, Parity, ReportData, formula, plain_formula
from chemloop.report.hull_figure import hull_figure
from chemloop.report.parity import parity_figure
from chemloop.report.phase_diagram import MOST_ELEMENTS, hull_view
from chemloop.report.style import embed
from chemloop.report.template import write_page

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

N_BEST = 30
"""Rows of the table of new structures."""


@dataclass
class Panel:
    """A section with a figure and its caption; without a figure the caption says why there is none."""

    name: str
    title: str
    caption: str
    figure: str = ""
    is_wide: bool = False


def write_report(data: ReportData, path: Path) -> None:
    """Write the report.

    Raises: EnergyFrameError, StructureError where references and finds cannot share a hull
    """
    write_page(
        "report.html.j2",
        path,
        data=data,
        summary=captions.summary(data),
        cards=captions.cards(data),
        panels=panels(data),
        best=best_rows(data),
        drops=sorted(data.drops, key=lambda drop: -drop.count),
    )


def panels(data: ReportData) -> list[Panel]:
    """All figures in the order of the page."""

    def curve(
        name: str,
        title: str,
        draw: Callable[[ReportData], Figure | None],
        caption: str,
        absent: str,
        is_wide: bool = False,
    ) -> Panel:
        figure = draw(data)
        return (
            Panel(name, title, absent) if figure is None else Panel(name, title, caption, embed(figure, name), is_wide)
        )

    return [
        curve("e-hull", "Energy above the hull", distribution.e_hull_figure, captions.e_hull(data),
              f"No structure has been screened so far, or all lie above {distribution.WIDEST:g} eV/atom."),
        curve("yield", "Stable, unique, novel", curves.yield_figure, captions.yields(data),
              "No structure has been screened so far."),
        curve("entropy", "Entropy and labels", curves.entropy_figure, captions.entropy(data),
              "No iteration has come as far as the entropy of its environments."),
        curve("growth", "What another frame adds", curves.growth_figure, captions.growth(data),
              "No iteration has come as far as the entropy of its training set."),
        curve("errors", "Errors of the force field", curves.error_figure, captions.errors(data),
              "No fine-tuning is finished, or there were no test frames.", is_wide=True),
        parity_panel(data, data.energy_parity, "energies", "Energy", "eV/atom"),
        parity_panel(data, data.force_parity, "forces", "Force component", "eV/Å"),
        hull_panel(data),
    ]  # fmt: skip


def parity_panel(data: ReportData, parity: Parity | None, name: str, quantity: str, unit: str) -> Panel:
    """Labels against the force field, or that there are none yet."""
    title = f"Parity of {name}"
    if parity is None or len(parity.label) == 0:
        return Panel(f"parity-{name}", title, "No fine-tuning is finished, or there were no test frames.")
    figure = embed(parity_figure(parity, quantity, unit, data.label_source), f"parity-{name}")
    return Panel(f"parity-{name}", title, captions.parity(data, parity), figure, is_wide=True)


def hull_panel(data: ReportData) -> Panel:
    """The phase diagram, or why it is not drawn."""
    title = "Phase diagram"
    if not data.references:
        return Panel("hull", title, "No reference has an energy so far, so there is no hull.")
    if len(data.elements) > MOST_ELEMENTS:
        return Panel(
            "hull",
            title,
            f"A system of {len(data.elements)} elements has no drawing in three dimensions; the energies above the hull"
            " are in the table below and in the database.",
        )
    view = hull_view(data)
    return Panel("hull", title, captions.hull(data, view), embed(hull_figure(view, data.stable_below), "hull"), True)


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
        "spacegroup": re.sub(r"_(\d)", lambda screw: screw.group(1).translate(SUBSCRIPTS), find.spacegroup),
        "n_atoms": len(find.atoms),
        "iteration": find.iteration,
        "above_known": f"{1000 * above_known:+.1f}".replace("-", "−"),
        "above_all": f"{max(0.0, 1000 * above_all):.1f}",
        "cif": "data:chemical/x-cif;base64," + base64.b64encode(cif(find)).decode(),
        "filename": f"{plain_formula(find.atoms)}_{identifier.replace('/', '-')}.cif",
    }


def cif(find: Find) -> bytes:
    """The structure as it is, without symmetry (P 1)."""
    text = io.BytesIO()
    write(text, find.atoms, format="cif")
    return text.getvalue()
