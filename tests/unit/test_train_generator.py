"""workflow=train_generator: where energies above the hull come from, and bad input."""

from __future__ import annotations

from importlib.resources import files

import pytest

from chemloop.physics.structures import read_structures
from chemloop.runtime.errors import ConfigError, StructureError
from chemloop.workflow.train_generator import TrainGenerator, with_energies_above_hull


@pytest.fixture
def references():
    return read_structures(str(files("chemloop") / "data/li-p-s/reference.extxyz"))


def test_energies_above_the_hull_are_computed_by_frame(references):
    bare = []
    for frame, shift in (("a", 0.0), ("b", 5.0)):
        for number, atoms in enumerate(references[:3]):
            copy = atoms.copy()
            copy.info = {"mlff_energy": (number * 0.1 + shift) * len(atoms), "energy_frame": frame}
            copy.numbers[:] = 3
            bare.append(copy)
    found = [atoms.info["e_above_hull"] for atoms in with_energies_above_hull(bare)]
    assert found == pytest.approx([0.0, 0.1, 0.2] * 2)


def test_bad_input():
    with pytest.raises(ConfigError, match="workflow.structures is empty"):
        TrainGenerator()
    with pytest.raises(ConfigError, match="must be above 0 eV/atom"):
        TrainGenerator(["x.extxyz"], max_e_above_hull=0.0)


def test_structures_without_energies_are_refused(references):
    with pytest.raises(StructureError, match="structure 0 carries neither e_above_hull nor an energy"):
        with_energies_above_hull(references[:1])
