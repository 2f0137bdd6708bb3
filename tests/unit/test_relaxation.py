from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE

from chemloop.physics.batching import Batching
from chemloop.physics.calculator import PotentialCalculator, evaluate
from chemloop.physics.limits import Limits, residual_force
from chemloop.physics.relaxation import relax, relax_trajectory
from chemloop.physics.stepping import rfo
from chemloop.runtime.errors import ConfigError, ItemFailed
from tests.morse import MorseForceField


@pytest.fixture
def potential():
    return MorseForceField().load(dtype="float64")


@pytest.fixture
def crystals():
    crystals = []
    for k, size in enumerate([(1, 1, 1), (2, 1, 1), (2, 2, 1)]):
        atoms = bulk("LiS", "rocksalt", a=5.0).repeat(size)
        atoms.rattle(0.15, seed=k)
        atoms.set_cell(atoms.cell.array @ [[1.05, 0.02, 0], [0, 1, 0], [0, 0, 0.96]], scale_atoms=True)
        atoms.info["id"] = f"i00-g000-{k:04d}"
        crystals.append(atoms)
    return crystals


@pytest.mark.parametrize("engine", ["ase", "torchsim"])
def test_relax_finds_the_minimum(potential, crystals, engine):
    left_handed = crystals[1].copy()
    left_handed.set_cell(left_handed.cell.array[[1, 0, 2]])
    crystals.append(left_handed)
    originals = [atoms.copy() for atoms in crystals]
    relaxed = relax(crystals, potential, fmax=0.01, max_steps=300, energy_frame="morse", engine=engine)
    energies = []
    for result, atoms, original in zip(relaxed, crystals, originals, strict=True):
        assert atoms == original, "the input was changed"
        assert result.rejection is None and result.atoms.info["converged"] is True
        assert 0 < result.n_steps <= 300
        assert result.atoms.info["id"] == atoms.info["id"]
        assert result.atoms.cell.handedness == atoms.cell.handedness
        assert result.atoms.info["energy_frame"] == "morse"
        (again,) = evaluate([result.atoms], potential)
        assert result.atoms.info["mlff_energy"] == pytest.approx(again.energy, abs=1e-9)
        assert residual_force(again.forces, again.stress, result.atoms.cell.volume) <= 0.01
        energies.append(again.energy / len(atoms))
    assert np.ptp(energies) < 1e-3, "the same crystal in cells of three sizes has one energy per atom"


@pytest.mark.parametrize("engine", ["ase", "torchsim"])
def test_step_limit_is_not_convergence(potential, crystals, engine):
    for result in relax(crystals, potential, 1e-6, 3, "morse", engine=engine):
        assert result.n_steps == 3 and result.rejection is None
        assert result.atoms.info["converged"] is False


def test_batches_change_nothing(potential, crystals):
    alone = [relax([atoms], potential, 0.01, 100, "morse")[0] for atoms in crystals]
    together = relax(crystals, potential, 0.01, 100, "morse", batching=3)
    for one, other in zip(alone, together, strict=True):
        assert one.n_steps == other.n_steps
        np.testing.assert_allclose(one.atoms.positions, other.atoms.positions, atol=1e-6)


def test_the_same_call_gives_the_same_numbers(crystals):
    potential = MorseForceField().load(dtype="float32")
    first, second = (relax(crystals, potential, 0.01, 50, "morse") for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one.n_steps == other.n_steps
        np.testing.assert_array_equal(one.atoms.positions, other.atoms.positions)


@pytest.mark.parametrize("engine", ["ase", "torchsim"])
def test_one_bad_structure_does_not_stop_the_others(potential, crystals, engine):
    close, nan, gas = (crystals[1].copy() for _ in range(3))
    close.positions[1] = close.positions[0] + [0.2, 0, 0]
    nan.positions[0] = np.nan
    gas.set_cell(gas.cell.array * 8, scale_atoms=True)
    results = relax([close, crystals[0], nan, gas], potential, 0.01, 300, "morse", engine=engine)
    rejections = [result.rejection for result in results]
    assert rejections[0].startswith("collapsed: ") and "0.20 A" in rejections[0]
    assert rejections[1] is None and results[1].atoms.info["converged"]
    assert rejections[2] == "not finite: positions or cell"
    assert rejections[3] == "evaporated: 4 of 4 atoms have no neighbour within 5 A"
    assert not any(results[k].atoms.info["converged"] for k in (0, 2, 3))


class Biased(PotentialCalculator):
    """Morse plus a pressure (eV/A^3) and, beyond a number of calls, an error or nonsense."""

    def __init__(self, potential, pressure=0.0, calls=10**9, failure=None):
        super().__init__(potential)
        self.pressure, self.calls, self.failure, self.n = pressure, calls, failure, 0

    def calculate(self, *arguments, **keywords):
        super().calculate(*arguments, **keywords)
        self.n += 1
        if self.n > self.calls:
            if isinstance(self.failure, Exception):
                raise self.failure
            self.results["energy"] = self.failure
        self.results["stress"] += self.pressure * np.array([1, 1, 1, 0, 0, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pressure": -2.0}, "evaporated: volume grew"),
        ({"pressure": 50.0}, "collapsed: "),
        ({"calls": 2, "failure": np.nan}, "not finite: energy, forces or stress"),
        ({"calls": 2, "failure": 1e4}, "exploded: energy rose by"),
        ({"calls": 2, "failure": RuntimeError("no more memory")}, "failed: no more memory"),
    ],
)
def test_each_rejection_has_its_reason(potential, crystals, options, message):
    with pytest.raises(ItemFailed, match=message):
        relax_trajectory(crystals[1], Biased(potential, **options), 1e-9, 300, limits=Limits(max_energy_rise=1000.0))


class Fussy:
    """A potential whose batches fail as soon as one structure in them holds phosphorus."""

    training = False

    def __init__(self, potential):
        self.potential, self.cutoff = potential, potential.cutoff

    def collate(self, structures):
        if any(15 in atoms.numbers for atoms in structures):
            raise RuntimeError("no phosphorus")
        return self.potential.collate(structures)

    def __getattr__(self, name):
        return getattr(self.potential, name)

    def __call__(self, batch):
        return self.potential(batch)


class Small(Fussy):
    """A potential on a device that holds so many atoms."""

    def __init__(self, potential, n_atoms):
        super().__init__(potential)
        self.n_atoms = n_atoms

    def collate(self, structures):
        n_atoms = sum(map(len, structures))
        if n_atoms > self.n_atoms:
            raise RuntimeError(f"CUDA out of memory. Tried to allocate {n_atoms} GiB")
        return self.potential.collate(structures)


@pytest.mark.parametrize("engine", ["ase", "torchsim"])
def test_out_of_memory_splits_and_is_remembered(potential, crystals, engine):
    small = Small(potential, 12)
    small.eval = lambda: small
    batching = Batching(3)
    expected = relax(crystals, potential, 0.01, 300, "morse", engine=engine)
    results = relax(crystals, small, 0.01, 300, "morse", engine=engine, batching=batching)
    for result, alone in zip(results, expected, strict=True):
        assert result.rejection is None and result.atoms.info["converged"] and result.n_steps <= alone.n_steps + 1
    assert batching.n_out_of_memory == 1, "the second batch of that size should not have been tried"
    assert batching.max_atoms == 7 and batching.metrics()["n_out_of_memory"] == 1


@pytest.mark.parametrize("engine", ["ase", "torchsim"])
def test_a_structure_too_large_for_the_memory_is_told_apart(potential, crystals, engine):
    small = Small(potential, 6)
    small.eval = lambda: small
    results = relax(crystals, small, 0.01, 300, "morse", engine=engine)
    assert [result.atoms.info["converged"] for result in results] == [True, True, False]
    assert results[2].rejection.startswith("out of memory: a structure of 8 atoms does not fit alone (CUDA out of")


@pytest.mark.parametrize("engine", ["ase", "torchsim"])
def test_a_failing_batch_is_taken_apart(potential, crystals, engine):
    culprit = crystals[1].copy()
    culprit.numbers[0] = 15
    fussy = Fussy(potential)
    fussy.eval = lambda: fussy
    results = relax([*crystals, culprit], fussy, 0.01, 300, "morse", engine=engine, batching=4)
    assert [result.rejection for result in results] == [None, None, None, "failed: no phosphorus"]
    assert [result.atoms.info["converged"] for result in results] == [True, True, True, False]
    assert "mlff_energy" not in results[3].atoms.info


@pytest.mark.parametrize("engine", ["ase", "torchsim"])
def test_a_potential_that_fails_for_all_alike_fails_the_item(potential, crystals, engine):
    for atoms in crystals:
        atoms.numbers[0] = 15
    fussy = Fussy(potential)
    fussy.eval = lambda: fussy
    with pytest.raises(ItemFailed, match="failed for all of 3 structures: failed: no phosphorus") as caught:
        relax(crystals, fussy, 0.01, 300, "morse", engine=engine)
    assert caught.value.retryable
    (alone,) = relax(crystals[:1], fussy, 0.01, 300, "morse", engine=engine)
    assert alone.rejection == "failed: no phosphorus", "of one structure nobody can tell"


class Faulty(Fussy):
    """A potential on a GPU that breaks in the middle of the relaxation, and stays so."""

    n_calls = 0

    def collate(self, structures):
        self.n_calls += 1
        if self.n_calls > 5:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return self.potential.collate(structures)


@pytest.mark.parametrize("engine", ["ase", "torchsim"])
def test_a_fault_of_the_gpu_is_no_fault_of_the_structures(potential, crystals, engine):
    faulty = Faulty(potential)
    faulty.eval = lambda: faulty
    with pytest.raises(ItemFailed, match="the GPU failed: CUDA error: an illegal memory access") as caught:
        relax(crystals, faulty, 1e-9, 300, "morse", engine=engine)
    assert caught.value.retryable


def test_trajectory_keeps_first_and_last(potential, crystals):
    calculator = PotentialCalculator(potential)
    every = relax_trajectory(crystals[2], calculator, 0.01, 300)
    some = relax_trajectory(crystals[2], calculator, 0.01, 300, interval=4)
    np.testing.assert_array_equal(every[0].positions, crystals[2].positions)
    assert len(some) == len(range(0, len(every) - 1, 4)) + 1
    assert some[0] == every[0] and some[-1] == every[-1] and some[1] == every[4]
    assert [frame.info.get("converged") for frame in some] == [None] * (len(some) - 1) + [True]
    energies = [frame.get_potential_energy() for frame in every]
    assert energies[-1] < energies[0]
    for frame in some:
        (expected,) = evaluate([frame], potential)
        np.testing.assert_allclose(frame.get_forces(), expected.forces, atol=1e-10)
        np.testing.assert_allclose(frame.get_stress(voigt=False), expected.stress, atol=1e-10)


def test_residual_force_weighs_stress_by_volume_per_atom():
    forces = np.array([[0.03, 0.0, 0.04], [0.0, 0.0, 0.0]])
    assert residual_force(forces, np.zeros((3, 3)), 40.0) == pytest.approx(0.05)
    assert residual_force(forces, np.diag([0.01, 0.0, 0.0]), 40.0) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fmax": 0.0}, "fmax = 0.0"),
        ({"max_steps": 0}, "max_steps = 0"),
        ({"batching": -1}, "batch_size = -1: must be a number of structures, 1 or above, or auto"),
        ({"batching": "many"}, "batch_size = many: must be"),
        ({"displacement": -0.1}, "displacement = -0.1"),
        ({"engine": "vasp"}, "engine = vasp: allowed are ase, torchsim"),
    ],
)
def test_bad_arguments_are_named(potential, crystals, arguments, message):
    with pytest.raises(ConfigError, match=message):
        relax(crystals, potential, **({"fmax": 0.05, "max_steps": 10, "energy_frame": "morse"} | arguments))


@pytest.mark.parametrize(
    ("values", "message"),
    [({"max_force": -1.0}, "max_force = -1.0: must be above 0"), ({"min_volume_ratio": 2.0}, "first must be below 1")],
)
def test_bad_limits_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        Limits(**values)


def test_an_atom_far_from_all_others_is_evaporated(potential):
    atoms = Atoms("Li", cell=np.eye(3) * 9, pbc=True)
    (result,) = relax([atoms], potential, 0.05, 10, "morse")
    assert result.rejection == "evaporated: 1 of 1 atoms have no neighbour within 5 A"


def test_the_minima_are_those_of_ase(potential):
    """One by one with ASE's FIRE, BFGS and our own optimiser in ASE's loop, to the same residual force."""
    base = bulk("LiS", "rocksalt", a=4.7).repeat((2, 1, 1))
    rng = np.random.default_rng(0)
    crystals = []
    for seed in range(5):
        atoms = base.copy()
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=True)
        atoms.rattle(0.1, seed=seed)
        crystals.append(atoms)
    found = [result.atoms for result in relax(crystals, potential, 0.01, 500, "morse", batching="auto")]
    ways = {
        "fire": lambda a: FIRE(FrechetCellFilter(a), logfile=None),
        "bfgs": lambda a: BFGS(FrechetCellFilter(a), logfile=None),
        "rfo": rfo,
    }
    for optimizer_of in ways.values():
        for atoms, ours in zip(crystals, found, strict=True):
            copy = atoms.copy()
            copy.calc = PotentialCalculator(potential)
            assert optimizer_of(copy).run(0.01, 500) and ours.info["converged"]
            assert ours.info["mlff_energy"] == pytest.approx(copy.get_potential_energy(), abs=1e-3 * len(atoms))


def test_displacements_break_symmetry_the_same_way_every_time(potential):
    """Atoms on a saddle point stay there without them; rounding errors would have to move them."""
    chain = Atoms("Li2S", [[0, 0, 0], [0, 0, 4.5], [0, 0, 2.25]], cell=[3.0, 3.0, 9.0], pbc=True)
    before = chain.copy()
    (stays,) = relax([chain], potential, 0.01, 300, "morse")
    first, second = (relax([chain], potential, 0.01, 300, "morse", displacement=0.02)[0] for _ in range(2))
    assert chain == before
    np.testing.assert_array_equal(first.atoms.positions, second.atoms.positions)
    assert np.ptp(stays.atoms.positions[:, 0]) < 1e-6 < 1e-3 < np.ptp(first.atoms.positions[:, 0])
