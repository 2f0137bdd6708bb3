from __future__ import annotations

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet

from chemloop.physics.calculator import PotentialCalculator
from chemloop.physics.dynamics import simulate
from chemloop.runtime.errors import ConfigError
from tests.morse import MorseForceField


@pytest.fixture(scope="module")
def potential():
    return MorseForceField().load(dtype="float64")


@pytest.fixture
def crystals():
    return [bulk("LiS", "rocksalt", a=4.8).repeat(size) for size in [(2, 2, 1), (2, 2, 2)]]


def total_energy(frame):
    return frame.get_potential_energy() + frame.get_kinetic_energy()


def test_energy_is_conserved_and_better_so_in_smaller_steps(potential, crystals):
    spreads = []
    for timestep_fs in (2.0, 1.0):
        path = [*simulate(crystals, potential, int(200 / timestep_fs), timestep_fs, 600, 1, friction_per_ps=0)]
        energies = np.array([[total_energy(frames[k]) / len(frames[k]) for k in (0, 1)] for frames in path])
        potentials = np.array([frames[1].get_potential_energy() / len(frames[1]) for frames in path])
        assert np.ptp(potentials) > 0.01, "energy should flow between kinetic and potential"
        spreads.append(np.ptp(energies, axis=0).max())
    assert spreads[1] < 1e-3
    assert spreads[0] / spreads[1] == pytest.approx(4, rel=0.3), "velocity Verlet is of second order"


def test_without_a_bath_it_is_velocity_verlet_of_ase(potential, crystals):
    *_, last = simulate(crystals, potential, 20, 1.0, 500, 3, friction_per_ps=0)
    first = next(simulate(crystals, potential, 0, 1.0, 500, 3))[1]
    first.calc = PotentialCalculator(potential)
    VelocityVerlet(first, 1.0 * units.fs).run(20)
    np.testing.assert_allclose(last[1].positions, first.positions, atol=1e-9)
    np.testing.assert_allclose(last[1].get_momenta(), first.get_momenta(), atol=1e-8)


def test_bath_holds_the_temperature(potential, crystals):
    """Mean and spread of the kinetic energy are those of a canonical ensemble without motion of the whole."""
    large = bulk("LiS", "rocksalt", a=4.8).repeat(3)
    path = simulate([large], potential, 800, 2.0, 400, 5, friction_per_ps=50)
    n_free = 3 * len(large) - 3
    kinetic = np.array([frames[0].get_kinetic_energy() for frames in path][100:])
    temperatures = 2 * kinetic / (n_free * units.kB)
    assert temperatures.mean() == pytest.approx(400, rel=0.05)
    assert temperatures.std() == pytest.approx(400 * np.sqrt(2 / n_free), rel=0.25)


def test_the_whole_does_not_move(potential, crystals):
    *_, last = simulate(crystals, potential, 30, 2.0, 800, 2)
    for number, frame in last.items():
        assert np.abs(frame.get_momenta().sum(axis=0)).max() < 1e-9
        shift = frame.get_center_of_mass() - crystals[number].get_center_of_mass()
        np.testing.assert_allclose(shift, 0, atol=1e-9)


def test_seed_decides_and_batches_do_not(potential, crystals):
    def end(structures, seed=4, batching=8):
        *_, last = simulate(structures, potential, 15, 2.0, 500, seed, batching=batching)
        return last

    together = end(crystals)
    np.testing.assert_array_equal(together[1].positions, end(crystals)[1].positions)
    np.testing.assert_allclose(together[0].positions, end(crystals[:1])[0].positions, atol=1e-9)
    np.testing.assert_allclose(together[1].positions, end(crystals, batching=1)[1].positions, atol=1e-9)
    assert np.abs(together[1].positions - end(crystals, seed=5)[1].positions).max() > 1e-2
    twins = end([crystals[0], crystals[0]])
    assert np.abs(twins[0].positions - twins[1].positions).max() > 1e-2, "equal structures need other random numbers"


def test_a_path_goes_on_where_it_stopped(potential, crystals):
    whole = [*simulate(crystals, potential, 20, 2.0, 500, 6, interval=10)]
    assert len(whole) == 3
    *_, rest = simulate([whole[1][k] for k in (0, 1)], potential, 10, 2.0, 500, 6, first_step=10)
    np.testing.assert_allclose(rest[1].positions, whole[2][1].positions, atol=1e-9)
    np.testing.assert_allclose(rest[1].get_momenta(), whole[2][1].get_momenta(), atol=1e-9)


def test_an_exploding_structure_leaves_the_others_alone(potential, crystals, caplog):
    bad = crystals[0].copy()
    bad.positions[1] = bad.positions[0] + [0.01, 0, 0]
    bad.positions[2] = np.nan
    before = crystals[1].copy()
    path = [*simulate([bad, crystals[1]], potential, 3, 1.0, 300, 1)]
    assert [sorted(frames) for frames in path] == [[1]] * 4
    assert crystals[1] == before and "structure 0" in caplog.text


@pytest.mark.parametrize("values", [{"timestep_fs": 0.0}, {"temperature": -1.0}, {"interval": 0}, {"n_steps": -1}])
def test_bad_arguments_are_named(potential, crystals, values):
    arguments = {"n_steps": 1, "timestep_fs": 1.0, "temperature": 300.0, "seed": 0} | values
    (key,) = values
    with pytest.raises(ConfigError, match=f"{key} = {values[key]}"):
        next(simulate(crystals, potential, **arguments))
