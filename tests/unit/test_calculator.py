from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

from chemloop.model.chgnet import CHGNetForceField
from chemloop.model.sevennet import SevenNetForceField
from chemloop.physics.calculator import PotentialCalculator, evaluate
from chemloop.runtime.errors import CheckpointError, ConfigError
from tests.morse import MorseForceField


@pytest.fixture
def crystals():
    sizes = [(2, 2, 1), (1, 1, 1), (2, 1, 1), (3, 1, 1), (1, 1, 1)]
    crystals = [bulk("LiS", "rocksalt", a=5.2).repeat(size) for size in sizes]
    for k, atoms in enumerate(crystals):
        atoms.rattle(0.1, seed=k)
    return crystals


@pytest.mark.parametrize("batch_size", [1, 2, 3, 10])
def test_evaluate_keeps_the_order(crystals, batch_size):
    potential = MorseForceField().load(dtype="float64")
    alone = [evaluate([atoms], potential)[0] for atoms in crystals]
    for result, expected, atoms in zip(evaluate(crystals, potential, batch_size), alone, crystals, strict=True):
        assert result.forces.shape == (len(atoms), 3) and result.stress.shape == (3, 3)
        assert result.energy == pytest.approx(expected.energy, abs=1e-12)
        np.testing.assert_allclose(result.forces, expected.forces, atol=1e-12)


def test_evaluate_of_nothing_is_nothing():
    assert evaluate([], MorseForceField().load()) == []


def test_evaluate_leaves_the_mode_as_it_was(crystals):
    potential = MorseForceField().load().train()
    evaluate(crystals, potential)
    assert potential.training


def test_calculator_agrees_with_finite_differences(crystals):
    atoms = crystals[2]
    atoms.calc = PotentialCalculator(MorseForceField().load(dtype="float64"))
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms), atol=1e-6)
    np.testing.assert_allclose(atoms.get_stress(), calculate_numerical_stress(atoms), atol=1e-6)


def test_calculator_notices_that_the_atoms_moved(crystals):
    atoms = crystals[0]
    atoms.calc = PotentialCalculator(MorseForceField().load(dtype="float64"))
    before = atoms.get_potential_energy()
    atoms.positions[0] += 0.2
    assert atoms.get_potential_energy() != before


@pytest.mark.parametrize("force_field", [CHGNetForceField, SevenNetForceField])
def test_wrong_checkpoints_are_refused(force_field, tmp_path):
    with pytest.raises(ConfigError, match="model.checkpoint is empty"):
        force_field("")
    with pytest.raises(CheckpointError, match="weights that come with"):
        force_field("0.9.9-unknown").load()
    other = {CHGNetForceField: SevenNetForceField, SevenNetForceField: CHGNetForceField}[force_field]
    path = tmp_path / "other.pt"
    other().load().save(path)
    with pytest.raises(CheckpointError, match="another architecture"):
        force_field(str(path)).load()


def test_checkpoint_of_a_newer_version_names_both(tmp_path):
    import sevenn
    import torch

    path = tmp_path / "newer.pth"
    SevenNetForceField().load().save(path)
    content = torch.load(path, weights_only=False)
    content["config"]["version"] = "9.1.0"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=f"9.1.0, newer than the installed {sevenn.__version__}"):
        SevenNetForceField(str(path)).load()


def test_unknown_element_is_named():
    atoms = bulk("Li", "bcc", a=3.4)
    atoms.numbers[:] = 99
    with pytest.raises(CheckpointError, match="does not know Es"):
        evaluate([atoms], CHGNetForceField().load())


def test_module_import_is_cheap():
    import subprocess
    import sys

    code = "import chemloop.model.chgnet, chemloop.model.sevennet, sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
