"""What a page carries, small: gzip in base64, which every browser unpacks; crystals as whole numbers."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from ase.data.colors import jmol_colors

from chemloop.report.data import MotifCard, ReportData, StructureCard
from chemloop.report.panel import Panel
from chemloop.report.typeset import typeset, typeset_group

STEPS = 10_000
"""Steps of a fractional coordinate, and of one A and one degree of the cell."""
CELL_BYTES = 3
"""Of each of its six numbers: lengths up to 1677 A."""


def pack(content: bytes) -> str:
    """Base64 of gzip; the same content gives the same text."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


@lru_cache(maxsize=1)
def plotly_pack() -> str:
    """plotly.js."""
    from plotly.offline import get_plotlyjs

    return pack(get_plotlyjs().encode())


def figures_pack(panels: Iterable[Panel]) -> str:
    """The figures of all panels that have one, by name."""
    return pack(("{" + ",".join(f"{json.dumps(p.name)}:{p.figure}" for p in panels if p.figure) + "}").encode())


def table_pack(structures: Mapping[str, StructureCard]) -> str:
    """What the table shows of each structure, column by column; E_hull in 0.1 meV/atom."""
    cards = list(structures.values())
    motifs = sorted({title for card in cards for title in card.motifs})
    number = {title: index for index, title in enumerate(motifs)}
    frames = sorted({card.energy_frame for card in cards})
    return pack_json(
        {
            "ids": list(structures),
            "formulas": [card.formula for card in cards],
            "spacegroups": [typeset_group(card.spacegroup) for card in cards],
            "eAboveHull": [None if card.e_above_hull is None else round(1e4 * card.e_above_hull) for card in cards],
            "iterations": [card.iteration for card in cards],
            "isSun": [int(card.is_sun) for card in cards],
            "motifTitles": motifs,
            "motifNames": [typeset(title) for title in motifs],
            "motifs": [[number[title] for title in card.motifs] for card in cards],
            "frameNames": frames,
            "frames": [frames.index(card.energy_frame) for card in cards],
        }
    )


def crystals_pack(structures: Mapping[str, StructureCard]) -> str:
    """Geometry of all structures, see `crystal_bytes`."""
    return pack(crystal_bytes([card.atoms for card in structures.values()]))


def crystal_bytes(crystals: Sequence[Atoms]) -> bytes:
    """Crystals as bytes, whole numbers are little-endian.

    A line of JSON with the elements and the number of bytes of each block, then the blocks: numbers of atoms (uint16);
    elements (uint8); cells a, b, c, alpha, beta, gamma (24 bit), column by column, the lowest bytes of a column first;
    fractional coordinates (uint16) in the same way. Like bytes side by side are what gzip needs.
    """
    elements = sorted({symbol for atoms in crystals for symbol in atoms.get_chemical_symbols()})
    number = {symbol: index for index, symbol in enumerate(elements)}
    counts = np.array([len(atoms) for atoms in crystals], dtype="<u2")
    species = np.array([number[symbol] for atoms in crystals for symbol in atoms.get_chemical_symbols()], dtype="u1")
    cells = np.array([atoms.cell.cellpar() for atoms in crystals]).reshape(-1, 6)
    fractional = np.concatenate([np.zeros((0, 3)), *map(right_handed_coordinates, crystals)])
    blocks = [
        counts.tobytes(),
        species.tobytes(),
        _planes(np.rint(cells * STEPS), CELL_BYTES),
        _planes(np.rint(fractional * STEPS) % STEPS, 2),
    ]
    header = {"elements": elements, "bytes": [len(block) for block in blocks]}
    return json.dumps(header).encode() + b"\n" + b"".join(blocks)


def right_handed_coordinates(atoms: Atoms) -> np.ndarray:
    """(n_atoms, 3) fractional coordinates for a right-handed cell of the same parameters: the same hand, too."""
    fractional = atoms.get_scaled_positions()
    return fractional if atoms.cell.handedness == 1 else -fractional


def _planes(values: np.ndarray, n_bytes: int) -> bytes:
    """Columns one after the other, each as its lowest bytes, then the next ones."""
    split = values.T.astype("<u4").reshape(-1).view("u1").reshape(*values.T.shape, 4)
    return np.moveaxis(split, 2, 1)[:, :n_bytes].tobytes()


def motifs_pack(gallery: Sequence[MotifCard]) -> str:
    """Pictures and geometry of all motifs by file name; cell vectors only of the periodic directions."""
    return pack_json(
        {
            card.file_stem: {
                "title": card.title,
                "name": typeset(card.title),
                "svg": card.svg,
                "symbols": card.atoms.get_chemical_symbols(),
                "positions": card.atoms.positions.round(4).tolist(),
                "periods": card.atoms.cell.array[card.atoms.pbc].round(4).tolist(),
            }
            for card in gallery
        }
    )


def looks(data: ReportData) -> dict[str, Any]:
    """Colours and radii (A) of the elements, and the longest bonds (A)."""
    crystals = [card.atoms for card in data.structures.values()] + [card.atoms for card in data.gallery]
    symbols = sorted({symbol for atoms in crystals for symbol in atoms.get_chemical_symbols()})
    elements = {
        symbol: {
            "color": [round(255 * channel) for channel in jmol_colors[atomic_numbers[symbol]]],
            "radius": round(float(covalent_radii[atomic_numbers[symbol]]), 3),
        }
        for symbol in symbols
    }
    return {"looks": elements, "cutoffs": dict(data.bond_cutoffs)}


def pack_json(content: Any) -> str:
    """Packed JSON; letters stay as they are, which packs better than escapes."""
    return pack(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode())
