"""A motif as a small drawing: atoms as discs, bonds as lines, seen from where its atoms hide one another least."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.data.colors import jmol_colors

LINE = "#7B8794"
"""Bonds and outlines: seen on white as well as on black."""
SIZE = 160
"""Pixels, of the longer side; the drawing scales without loss."""
MARGIN = 8.0
N_DIRECTIONS = 400
MOST_COMPARED = 60
"""Atoms among which the closest two are looked for."""
FAR_ENOUGH = 1.2
"""A; atoms that are farther apart do not hide one another."""
MOST_ATOMS = 24
"""Of a repeated chain, sheet or network; a larger unit is drawn once."""

Bond = tuple[int, int, tuple[int, ...]]


def motif_svg(atoms: Atoms, bonds: Sequence[Bond], title: str) -> str:
    """Inline SVG; a piece of a chain, sheet or network has stubs where it goes on.

    bonds: atoms i and j, and the shift of j in terms of the cell
    """
    atoms, inner, stubs = repeated(atoms, bonds)
    positions = atoms.positions - atoms.positions.mean(axis=0)
    ends = [(i, positions[i] + 0.6 * vector) for i, vector in stubs]
    axes = best_axes(positions)
    flat, depth = positions @ axes[:2].T, positions @ axes[2]
    flat_ends = np.array([end @ axes[:2].T for _, end in ends]).reshape(-1, 2)
    radii = 0.55 * covalent_radii[atoms.numbers]
    low = np.vstack([flat - radii[:, None], flat_ends]).min(axis=0)
    high = np.vstack([flat + radii[:, None], flat_ends]).max(axis=0)
    extent = high - low
    # A single atom would fill the picture: 4 A are the least that it shows.
    scale = (SIZE - 2 * MARGIN) / max(extent.max(), 4.0)
    width, height = scale * np.maximum(extent, 1.6) + 2 * MARGIN
    middle = (low + high) / 2

    def place(point: np.ndarray) -> tuple[float, float]:
        x, y = scale * (point - middle)
        return x + width / 2, height / 2 - y

    lines = [_line(*place(flat[i]), *place(flat[j])) for i, j in inner]
    lines += [
        _line(*place(flat[i]), *place(end), ' stroke-dasharray="3 3"')
        for (i, _), end in zip(ends, flat_ends, strict=True)
    ]
    symbols = atoms.get_chemical_symbols()
    discs = [_disc(*place(flat[k]), scale * radii[k], symbols[k], atoms.numbers[k]) for k in np.argsort(depth)]
    name = html.escape(title, quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
        f' height="{height:.0f}" aria-label="{name}"><title>{name}</title>'
        f'<g stroke="{LINE}" stroke-width="{max(1.5, 0.16 * scale):.1f}" stroke-linecap="round">{"".join(lines)}</g>'
        f'<g stroke="{LINE}" text-anchor="middle" font-family="sans-serif" font-weight="600">{"".join(discs)}</g></svg>'
    )


def repeated(atoms: Atoms, bonds: Sequence[Bond]) -> tuple[Atoms, list[tuple[int, int]], list[tuple[int, np.ndarray]]]:
    """Two units along each period as far as there is room, the bonds inside, and those that lead out of it.

    Returns: the atoms without cell, pairs of them, and atoms with the vector (A) to a neighbour that is not drawn
    """
    repeats = np.ones(3, dtype=int)
    for axis in np.flatnonzero(atoms.pbc):
        if 2 * repeats.prod() * len(atoms) <= MOST_ATOMS:
            repeats[axis] = 2
    cells = [np.array(cell) for cell in np.ndindex(*repeats)]
    number = {tuple(cell): k * len(atoms) for k, cell in enumerate(cells)}
    shifts = np.array(cells) @ atoms.cell.array
    positions = np.vstack([atoms.positions + shift for shift in shifts])
    inner: set[tuple[int, int]] = set()
    stubs: list[tuple[int, np.ndarray]] = []
    for i, j, shift in bonds:
        vector = atoms.positions[j] + np.array(shift) @ atoms.cell.array - atoms.positions[i]
        for cell in cells:
            there, back = tuple(cell + shift), tuple(cell - shift)
            if there in number:
                inner.add((number[tuple(cell)] + i, number[there] + j))
            else:
                stubs.append((number[tuple(cell)] + i, vector))
            if back not in number:
                stubs.append((number[tuple(cell)] + j, -vector))
    drawn = Atoms(np.tile(atoms.numbers, len(cells)), positions)
    return drawn, sorted(inner), stubs


def best_axes(positions: np.ndarray) -> np.ndarray:
    """(3, 3) rows: right, up and towards the viewer, for the view in which the closest two atoms are farthest apart.

    The longest extent in that view lies from left to right.
    positions: (n, 3) A, around the origin
    """
    views = directions(positions)
    towards = views[int(np.argmax(scores(positions, views)))]
    flat = positions - np.outer(positions @ towards, towards)
    right = np.linalg.svd(flat, full_matrices=False)[2][0] if len(positions) > 1 else np.array([1.0, 0.0, 0.0])
    right = right - (right @ towards) * towards
    if np.linalg.norm(right) < 1e-6:
        right = np.cross(towards, np.eye(3)[int(np.argmin(np.abs(towards)))])
    right /= np.linalg.norm(right)
    return np.array([right, np.cross(towards, right), towards])


def directions(positions: np.ndarray) -> np.ndarray:
    """(n, 3) unit vectors: the principal axes of the atoms, and a spiral over half a sphere."""
    k = np.arange(N_DIRECTIONS) + 0.5
    z, angle = k / N_DIRECTIONS, np.pi * (1 + np.sqrt(5)) * k
    spiral = np.column_stack([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z])
    axes = np.linalg.svd(positions, full_matrices=True)[2] if len(positions) > 1 else np.eye(3)
    return np.vstack([axes, spiral])


def scores(positions: np.ndarray, views: np.ndarray) -> np.ndarray:
    """(n_views,) A: distance of the closest two atoms in each view, and a little for how much of the motif it shows."""
    sample = positions[:MOST_COMPARED]
    first, second = np.triu_indices(len(sample), 1)
    vectors = sample[first] - sample[second]
    squares = (vectors**2).sum(axis=1) - (views @ vectors.T) ** 2
    closest = np.sqrt(np.maximum(squares, 0).min(axis=1, initial=FAR_ENOUGH**2))
    extent = (positions**2).sum(axis=1) - (views @ positions.T) ** 2
    return closest + 0.25 * np.sqrt(np.maximum(extent, 0).mean(axis=1))


def _line(x1: float, y1: float, x2: float, y2: float, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{more}/>'


def _disc(x: float, y: float, radius: float, symbol: str, number: int) -> str:
    red, green, blue = (round(255 * channel) for channel in jmol_colors[number])
    disc = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="#{red:02x}{green:02x}{blue:02x}"/>'
    if radius < 5:
        return disc
    ink = "#000" if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else "#fff"
    size = 1.05 * radius
    place = f'x="{x:.1f}" y="{y + 0.35 * size:.1f}" font-size="{size:.0f}"'
    return f'{disc}<text {place} stroke="none" fill="{ink}">{symbol}</text>'
