"""The convex hull of known and new structures, for one to four elements.

pymatgen computes it; its own plotter does not tell known structures from new ones, hence the drawing here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

from chemloop.physics.hull import energies_above_hull, hull_entries
from chemloop.report.data import ReportData, formula

if TYPE_CHECKING:
    from pymatgen.analysis.phase_diagram import PhaseDiagram

MOST_ELEMENTS = 4
NAMED = 4
"""Structures of one composition that the hover text lists."""
ON_HULL = 1e-6
"""eV/atom, below which a structure counts as lying on the hull."""


@dataclass
class Marker:
    """All known, or all new structures of one composition that lie below the limit drawn; with one element just one.

    id: of the lowest one
    position: (1,), (2,) or (3,) coordinates of the composition in the drawing; with one element (1,) A^3/atom
    e_above_hull: eV/atom of the lowest one, against the hull of everything
    formation_energy: eV/atom of the lowest one
    """

    id: str
    formula: str
    is_new: bool
    position: np.ndarray
    e_above_hull: float
    formation_energy: float
    text: str

    @property
    def is_on_hull(self) -> bool:
        return self.e_above_hull < ON_HULL


@dataclass
class HullView:
    """What a drawing of the hull needs.

    corners: (n_elements, n_elements - 1) positions of the pure elements
    lines: pairs of positions, the edges of the hull
    n_hidden: structures above the limit, which are not drawn
    """

    elements: list[str]
    corners: np.ndarray
    markers: list[Marker]
    lines: list[tuple[np.ndarray, np.ndarray]]
    n_hidden: int

    def select(self, is_new: bool, is_on_hull: bool) -> list[Marker]:
        """Markers of one kind, the least stable first, so that the most stable one is drawn on top."""
        found = [marker for marker in self.markers if (marker.is_new, marker.is_on_hull) == (is_new, is_on_hull)]
        return sorted(found, key=lambda marker: -marker.e_above_hull)


def corner_positions(n_elements: int) -> np.ndarray:
    """(n, n - 1) corners of a line, triangle or tetrahedron with sides of length 1; (1, 1) for one element."""
    height = np.sqrt(3) / 2
    if n_elements == 3:
        return np.array([[0.0, 0.0], [0.5, height], [1.0, 0.0]])
    if n_elements == 4:
        return np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, height, 0.0], [0.5, height / 3, np.sqrt(2 / 3)]])
    return np.arange(n_elements, dtype=float).reshape(n_elements, 1)[:, : max(1, n_elements - 1)]


def hull_view(data: ReportData) -> HullView:
    """The hull of references and finds together, and every structure less than `stable_below` above it.

    Raises: EnergyFrameError where energies of different frames meet; StructureError where an energy or a pure element
        is missing
    """
    from pymatgen.analysis.phase_diagram import PhaseDiagram

    structures = [*data.references, *(find.atoms for find in data.finds)]
    is_new = [False] * len(data.references) + [True] * len(data.finds)
    above = energies_above_hull(structures, structures, data.hull_energies)
    diagram = PhaseDiagram(hull_entries(structures, data.hull_energies))
    elements = list(data.elements)
    corners = corner_positions(len(elements))
    groups: dict[tuple[str, bool], list[int]] = {}
    for index in np.argsort(above, kind="stable"):
        if above[index] <= data.stable_below:
            # With one element all structures share the composition: each is a marker of its own.
            name = formula(structures[index]) if len(elements) > 1 else str(index)
            groups.setdefault((name, is_new[index]), []).append(int(index))
    markers = []
    for (_, new), members in groups.items():
        lowest = structures[members[0]]
        listed = [(str(structures[index].info.get("id", "-")), float(above[index])) for index in members]
        markers.append(
            Marker(
                str(lowest.info.get("id", "")),
                formula(lowest),
                new,
                place(lowest, elements, corners),
                max(0.0, float(above[members[0]])),
                float(diagram.get_form_energy_per_atom(hull_entries([lowest], data.hull_energies)[0])),
                hover_text(formula(lowest), new, listed),
            )
        )
    lines = hull_lines(diagram, elements, corners)
    return HullView(elements, corners, markers, lines, int((above > data.stable_below).sum()))


def place(atoms: Atoms, elements: Sequence[str], corners: np.ndarray) -> np.ndarray:
    """Where a structure is drawn: its composition between the corners; for one element its volume in A^3/atom."""
    if len(elements) == 1:
        return np.array([atoms.cell.volume / len(atoms)])
    return fractions(atoms, elements) @ corners


def fractions(atoms: Atoms, elements: Sequence[str]) -> np.ndarray:
    """(n_elements,) atomic fractions."""
    symbols = np.array(atoms.get_chemical_symbols())
    return np.array([(symbols == element).mean() for element in elements])


def hull_lines(
    diagram: PhaseDiagram, elements: Sequence[str], corners: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The edges of all facets, each once."""
    if len(elements) == 1:
        return []
    edges = {tuple(sorted(edge)) for facet in diagram.facets for edge in combinations(map(int, facet), 2)}
    places = [
        np.array([entry.composition.get_atomic_fraction(element) for element in elements]) @ corners
        for entry in diagram.qhull_entries
    ]
    return [(places[a], places[b]) for a, b in sorted(edges)]


def hover_text(name: str, is_new: bool, members: Sequence[tuple[str, float]]) -> str:
    """Formula, whether known or new, and the lowest structures with their id and E_hull."""
    lines = [f"<b>{name}</b>, {len(members)} {'new' if is_new else 'known'}"]
    lines += [f"{id}: {1000 * max(0.0, energy):.0f} meV/atom" for id, energy in members[:NAMED]]
    return "<br>".join([*lines, "..."] if len(members) > NAMED else lines)
