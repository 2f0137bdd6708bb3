"""What a page carries comes out of it as it went in, crystals within a ten-thousandth, and stays small."""

from __future__ import annotations

import base64
import gzip
import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.geometry import find_mic

from chemloop.report.demonstration import demonstration
from chemloop.report.packing import CELL_BYTES, STEPS, crystal_bytes, figures_pack, pack_json
from chemloop.report.page import write_report
from chemloop.report.panel import Panel
from chemloop.report.typeset import signed, typeset, typeset_group


def unpacked(text: str) -> bytes:
    return gzip.decompress(base64.b64decode(text))


def planes(content: bytes, n_rows: int, n_columns: int, n_bytes: int) -> np.ndarray:
    split = np.frombuffer(content, "u1").reshape(n_columns, n_bytes, n_rows).astype(int)
    return (split * 256 ** np.arange(n_bytes)[:, None]).sum(axis=1).T / STEPS


def read_crystals(content: bytes) -> list[Atoms]:
    """What crystal.js does."""
    line, _, rest = content.partition(b"\n")
    header, blocks = json.loads(line), []
    for size in header["bytes"]:
        blocks.append(rest[:size])
        rest = rest[size:]
    assert rest == b""
    counts = np.frombuffer(blocks[0], "<u2").astype(int)
    symbols = [header["elements"][number] for number in blocks[1]]
    cells = planes(blocks[2], len(counts), 6, CELL_BYTES)
    fractional = planes(blocks[3], counts.sum(), 3, 2)
    ends = np.cumsum(counts)
    return [
        Atoms(symbols[end - n : end], scaled_positions=fractional[end - n : end], cell=cell, pbc=True)
        for end, n, cell in zip(ends, counts, cells, strict=True)
    ]


def crystals() -> list[Atoms]:
    rng = np.random.default_rng(0)
    skewed = Atoms("Li3PS4", cell=[[5.1, 0.2, 0.1], [-2.0, 6.3, 0.4], [1.0, -1.5, 27.9]], pbc=True)
    skewed.set_scaled_positions(rng.random((8, 3)) * 3 - 1)
    edge = Atoms("LiS", scaled_positions=[[0.99999, 1e-6, -1e-6], [1 / 3, 2 / 3, 0.5]], cell=[4, 4, 300], pbc=True)
    return [skewed, bulk("Li", "bcc", a=3.4), edge]


def test_crystals_come_out_as_they_went_in():
    originals = crystals()
    for original, found in zip(originals, read_crystals(crystal_bytes(originals)), strict=True):
        assert found.get_chemical_symbols() == original.get_chemical_symbols()
        np.testing.assert_allclose(found.cell.cellpar(), original.cell.cellpar(), atol=0.6 / STEPS)
        apart = found.get_scaled_positions() - original.get_scaled_positions()
        assert np.abs(apart - np.rint(apart)).max() < 0.6 / STEPS


def handedness(atoms: Atoms) -> float:
    """Volume spanned by the shortest vectors from the first atom to the three others, its sign included."""
    vectors, _ = find_mic(atoms.positions[1:4] - atoms.positions[0], atoms.cell)
    return float(np.linalg.det(vectors))


def test_a_left_handed_cell_does_not_mirror_the_crystal():
    places = [[0.1, 0.1, 0.1], [0.3, 0.1, 0.1], [0.1, 0.4, 0.1], [0.1, 0.15, 0.3]]
    atoms = Atoms("LiPSCl", scaled_positions=places, cell=[[0, 5, 0], [6, 0, 0], [0, 0, 7]], pbc=True)
    assert atoms.cell.handedness == -1
    (found,) = read_crystals(crystal_bytes([atoms]))
    assert handedness(found) == pytest.approx(handedness(atoms), rel=1e-2)


def test_no_crystal_is_no_bytes():
    assert read_crystals(crystal_bytes([])) == []


def test_figures_and_text_come_out_as_they_went_in():
    content = {"Li₃PS₄": [None, 1.5, "</script>"]}
    assert json.loads(unpacked(pack_json(content))) == content
    assert "<" not in pack_json(content)
    panels = [Panel("a", "A", "", '{"data":[1]}'), Panel("none", "N", ""), Panel("b", "B", "", '{"data":[2]}')]
    assert json.loads(unpacked(figures_pack(panels))) == {"a": {"data": [1]}, "b": {"data": [2]}}


def test_ten_thousand_structures_stay_below_five_megabytes(tmp_path):
    data = demonstration(10_000)
    assert len(data.structures) > 10_000
    assert np.mean([len(card.atoms) for card in data.structures.values()]) > 12
    write_report(data, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 5e6


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("P2S7^4-", "P₂S₇⁴⁻"),
        ("(PS3)_n^n- chain", "(PS₃)ₙⁿ⁻ chain"),
        ("(P10)_n^2n- network", "(P₁₀)ₙ²ⁿ⁻ network"),
        ("1,3-P2S8^2- ring, isomer 2", "1,3-P₂S₈²⁻ ring, isomer 2"),
        ("P_n sheet", "Pₙ sheet"),
        ("S^2-", "S²⁻"),
        ("Li3PS4", "Li₃PS₄"),
    ],
)
def test_names_are_typeset(name, shown):
    assert typeset(name) == shown
    assert typeset(shown) == shown


def test_space_groups_and_signs():
    assert [typeset_group(name) for name in ("P2_1/c", "P6_3/mmc", "P1")] == ["P2₁/c", "P6₃/mmc", "P1"]
    assert [signed(number) for number in (-2.4, 0.4, 31)] == ["−2", "0", "+31"]
