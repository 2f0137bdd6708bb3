from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal

from chemloop.physics.calculator import evaluate
from chemloop.physics.matching import space_group
from chemloop.physics.relaxation import relax
from chemloop.physics.symmetry import find_symmetry
from chemloop.runtime.errors import ConfigError
from tests.morse import MorseForceField


@pytest.fixture
def potential():
    return MorseForceField().load(dtype="float64")


def trigonal() -> Atoms:
    """A primitive cell with a lattice vector along none of the axes, its atoms at a free coordinate."""
    atoms = crystal(
        ["Li", "S"], [(0, 0, 0.21), (0, 0, 0)], spacegroup=166, cellpar=[4.1, 4.1, 16, 90, 90, 120], primitive_cell=True
    )
    atoms.rotate(33, (1, 2, 3), rotate_cell=True)
    return atoms


def test_what_is_symmetric_is_not_changed(potential):
    atoms, symmetry = find_symmetry(trigonal(), 1e-3)
    (results,) = evaluate([atoms], potential)
    cell = atoms.cell.array
    assert len(symmetry.rotations) == 12 and np.abs(results.forces).max() > 0.01
    np.testing.assert_allclose(symmetry.forces(results.forces, cell), results.forces, atol=1e-9)
    np.testing.assert_allclose(symmetry.stress(results.stress, cell), results.stress, atol=1e-9)


def test_what_breaks_the_symmetry_is_averaged_away(potential):
    atoms, symmetry = find_symmetry(trigonal(), 1e-3)
    (results,) = evaluate([atoms], potential)
    rng, cell = np.random.default_rng(0), atoms.cell.array
    noise = rng.normal(size=results.forces.shape)
    forces = symmetry.forces(results.forces + noise, cell)
    assert np.abs(symmetry.forces(forces, cell) - forces).max() < 1e-12
    axis = cell.sum(axis=0) / np.linalg.norm(cell.sum(axis=0))
    assert np.abs(np.cross(forces, axis)).max() < 1e-9, "atoms on the threefold axis feel forces along it alone"
    strain = rng.normal(size=(3, 3))
    stress = symmetry.stress(strain + strain.T, cell)
    values = np.sort(np.linalg.eigvalsh(stress))
    assert min(np.diff(values)) < 1e-9 < max(np.diff(values)), "a trigonal crystal has two different stresses"


def test_nothing_is_symmetric_in_p1():
    atoms = bulk("LiS", "rocksalt", a=5.0).repeat((2, 1, 1))
    atoms.rattle(0.1, seed=0)
    assert find_symmetry(atoms, 1e-3) is None
    atoms.positions[0] = np.nan
    assert find_symmetry(atoms, 1e-3) is None


def test_a_crystal_within_the_tolerance_is_made_symmetric():
    atoms = trigonal()
    atoms.rattle(1e-3, seed=0)
    refined, symmetry = find_symmetry(atoms, 0.02)
    assert space_group(refined, 1e-6) == "R-3m" and len(symmetry.rotations) == 12
    assert np.abs(refined.positions - atoms.positions).max() < 0.02


def test_relaxation_keeps_the_space_group(potential):
    """One that has more than a shallow minimum with less symmetry next to it leaves it otherwise."""
    atoms = crystal(
        ["Li", "S"], [(0, 0, 0), (0.5, 0.5, 0.5)], spacegroup=221, cellpar=[3.2, 3.2, 3.2, 90, 90, 90]
    ).repeat((2, 1, 1))
    (kept,) = relax([atoms], potential, 0.001, 200, "morse", displacement=0.05, symprec=1e-3)
    (free,) = relax([atoms], potential, 0.001, 200, "morse", displacement=0.05)
    assert kept.atoms.info["converged"] and free.atoms.info["converged"]
    assert space_group(kept.atoms, 1e-5) == "Pm-3m"
    assert kept.n_steps < free.n_steps
    assert free.atoms.info["mlff_energy"] <= kept.atoms.info["mlff_energy"] + 1e-6


def test_crystals_without_symmetry_are_displaced_and_relaxed_as_ever(potential):
    atoms = bulk("LiS", "rocksalt", a=5.0).repeat((2, 1, 1))
    atoms.rattle(0.1, seed=0)
    one, other = (relax([atoms], potential, 0.01, 100, "morse", displacement=0.02, symprec=s)[0] for s in (None, 1e-3))
    assert one.n_steps == other.n_steps
    np.testing.assert_array_equal(one.atoms.positions, other.atoms.positions)


def test_torchsim_keeps_no_symmetry(potential):
    with pytest.raises(ConfigError, match="engine = torchsim keeps no symmetry; choose engine = ase"):
        relax([trigonal()], potential, 0.1, 5, "morse", engine="torchsim", symprec=1e-3)
