"""Energies above the hull against an independent linear programme, and every way in which there is no hull."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from scipy.optimize import linprog

from chemloop.physics.hull import energies_above_hull, one_energy_frame
from chemloop.runtime.errors import EnergyFrameError, StructureError


def crystal(formula: str, energy_per_atom: float | None, frame: str | None = "mlff-a", name: str = "x") -> Atoms:
    atoms = Atoms(formula, cell=[8, 8, 8], pbc=True, info={"id": name})
    if energy_per_atom is not None:
        atoms.info["mlff_energy"] = energy_per_atom * len(atoms)
    if frame is not None:
        atoms.info["energy_frame"] = frame
    return atoms


def expected_above_hull(atoms: Atoms, references: list[Atoms]) -> float:
    """The cheapest mixture of references with the composition of the structure, per atom."""
    symbols = sorted({symbol for other in [atoms, *references] for symbol in other.symbols})

    def fractions(other: Atoms) -> list[float]:
        return [float(np.mean([s == symbol for s in other.symbols])) for symbol in symbols]

    mixture = linprog(
        [other.info["mlff_energy"] / len(other) for other in references],
        A_eq=np.array([fractions(other) for other in references]).T,
        b_eq=fractions(atoms),
    )
    return atoms.info["mlff_energy"] / len(atoms) - mixture.fun


@pytest.mark.parametrize("elements", [["Li"], ["Li", "S"], ["Li", "P", "S"], ["Li", "P", "S", "Cl"], list("HCNOF")])
def test_equals_linear_programme(elements):
    rng = np.random.default_rng(len(elements))

    def random_crystal() -> Atoms:
        counts = rng.integers(0, 4, len(elements))
        counts[rng.integers(len(elements))] += 1
        return crystal("".join(f"{e}{n}" for e, n in zip(elements, counts, strict=True) if n), rng.uniform(-4, -2))

    references = [crystal(e, rng.uniform(-2, -1)) for e in elements] + [random_crystal() for _ in range(20)]
    structures = [random_crystal() for _ in range(30)]
    found = energies_above_hull(structures, references)
    assert found.shape == (30,)
    np.testing.assert_allclose(found, [expected_above_hull(s, references) for s in structures], atol=1e-7)


def test_numbers_by_hand():
    references = [crystal("Li", -1.0), crystal("S", -3.0), crystal("Li2S", -4.0), crystal("S2", -2.5)]
    structures = [crystal("Li4S2", -4.0), crystal("Li2S", -4.2), crystal("LiS", -3.0), crystal("S4", -2.9)]
    # LiS lies between Li2S (x_S = 1/3) and S: at x_S = 1/2 the line is at -4 + (1/6) / (2/3) = -3.75
    np.testing.assert_allclose(energies_above_hull(structures, references), [0.0, -0.2, 0.75, 0.1], atol=1e-9)


def test_only_the_space_of_the_structures_needs_references():
    references = [crystal("Li", -1.0), crystal("S", -3.0), crystal("Li3PS4", -4.0)]
    assert energies_above_hull([crystal("LiS", -2.5)], references) == pytest.approx([-0.5])


def test_labels_and_model_are_told_apart():
    atoms = crystal("Li", -1.0)
    atoms.info["label_energy"] = -1.5
    reference = crystal("Li", -1.0)
    reference.info["label_energy"] = -2.0
    assert energies_above_hull([atoms], [reference], "label") == pytest.approx([0.5])
    assert energies_above_hull([atoms], [reference]) == pytest.approx([0.0])


def test_nothing_in_nothing_out():
    assert energies_above_hull([], []).shape == (0,)


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ([("Li", -1.0), ("Li2S", -4.0)], "no structure of the element P, S alone.*they have Li;"),
        ([], "no structure of the element Li, P, S alone.*they have none"),
        ([("Li", -1.0), ("P", -5.0), ("S", None)], "ref2 has no info.'mlff_energy'"),
    ],
)
def test_incomplete_references(references, message):
    references = [crystal(f, e, name=f"ref{n}") for n, (f, e) in enumerate(references)]
    with pytest.raises(StructureError, match=message):
        energies_above_hull([crystal("Li3PS4", -4.0)], references)


def test_one_energy_frame():
    assert one_energy_frame([crystal("Li", -1.0), crystal("S", -1.0)]) == "mlff-a"
    mixed = [crystal("Li", -1.0, "mlff-a", "one"), crystal("S", -1.0, "mlff-b", "two")]
    with pytest.raises(EnergyFrameError, match=r"2 levels of theory met: mlff-a \(one\), mlff-b \(two\)"):
        one_energy_frame(mixed)
    with pytest.raises(EnergyFrameError, match="2 levels of theory"):
        energies_above_hull(mixed[:1], mixed[1:])
    with pytest.raises(EnergyFrameError, match="bare has no info.'energy_frame'"):
        one_energy_frame([crystal("Li", -1.0), crystal("Li", -1.0, None, "bare")])
    with pytest.raises(EnergyFrameError, match="no structures"):
        one_energy_frame([])
