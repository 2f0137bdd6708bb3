from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.build import bulk

from chemloop.physics import throughput
from chemloop.physics.batching import Batching, OutOfMemory, out_of_memory
from chemloop.physics.calculator import evaluate
from chemloop.physics.dynamics import simulate
from chemloop.physics.relaxation import relax
from chemloop.physics.throughput import measure
from chemloop.runtime.errors import ConfigError
from tests.morse import MorseForceField


@pytest.fixture
def crystals():
    sizes = [(2, 2, 1), (1, 1, 1), (2, 1, 1), (3, 1, 1)] * 4
    crystals = [bulk("LiS", "rocksalt", a=5.2).repeat(size) for size in sizes]
    for k, atoms in enumerate(crystals):
        atoms.rattle(0.1, seed=k)
    return crystals


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """What the measurement takes for time, so that it depends on nothing else that the machine does."""
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: Timed.now))


class Timed(torch.nn.Module):
    """Morse that takes as long as it is told, and holds as many atoms as it is told."""

    now = 0.0

    def __init__(self, seconds=lambda n_structures: 0.0, n_atoms=10**9):
        super().__init__()
        self.morse = MorseForceField().load(dtype="float64")
        self.cutoff = self.morse.cutoff
        self.seconds, self.n_atoms = seconds, n_atoms
        self.batches = []

    def collate(self, structures):
        self.batches.append([len(atoms) for atoms in structures])
        Timed.now += self.seconds(len(structures))
        if sum(self.batches[-1]) > self.n_atoms:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.morse.collate(structures)

    def forward(self, batch):
        return self.morse(batch)


def test_batches_hold_similar_sizes_within_both_limits():
    sizes = [9, 2, 30, 4, 2, 11]
    assert list(Batching(2).cut(sizes)) == [[1, 4], [3, 0], [5, 2]]
    assert list(Batching(10, max_atoms=12).cut(sizes)) == [[1, 4, 3], [0], [5], [2]]
    assert list(Batching(3).cut([])) == []


def test_a_lowered_limit_holds_for_the_batches_that_follow():
    batching = Batching(4)
    batches = batching.cut([5] * 8)
    assert next(batches) == [0, 1, 2, 3]
    batching.lower(4, 20, "no memory")
    assert list(batches) == [[4, 5], [6, 7]]


def test_out_of_memory_batches_are_taken_apart_and_not_tried_again(crystals, caplog):
    potential, batching = Timed(n_atoms=40), Batching(16)
    expected = evaluate(crystals, potential.morse)
    for _ in range(2):
        for result, alone in zip(evaluate(crystals, potential, batching), expected, strict=True):
            np.testing.assert_allclose(result.forces, alone.forces, atol=1e-12)
    assert [sum(batch) > 40 for batch in potential.batches].count(True) == batching.n_out_of_memory == 2
    assert batching.max_atoms <= 40 and "ran out of memory" in caplog.text


def test_a_structure_that_does_not_fit_alone_is_an_error_that_says_so(crystals):
    with pytest.raises(OutOfMemory, match="a structure of 8 atoms does not fit alone"):
        evaluate(crystals[:3], Timed(n_atoms=7))


def test_other_errors_are_not_taken_for_lack_of_memory(crystals):
    potential = Timed(lambda n: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(crystals, potential)
    assert len(potential.batches) == 1


def test_each_library_s_lack_of_memory_is_recognised():
    with pytest.raises(RuntimeError) as cpu:
        torch.empty(10**15)
    with pytest.raises(MemoryError) as array:
        np.empty(10**15)
    script = RuntimeError("The following operation failed\n  in TorchScript\nRuntimeError: CUDA out of memory. Tried")
    for error in (cpu.value, array.value, MemoryError(), script, torch.OutOfMemoryError("CUDA out of memory.")):
        assert out_of_memory(error)
    assert out_of_memory(script) == "RuntimeError: CUDA out of memory. Tried"
    assert out_of_memory(RuntimeError("shape mismatch")) is None
    assert out_of_memory(ValueError("out of memory")) is None


def test_the_fastest_size_is_found(crystals):
    overhead, alone = Timed(lambda n: 0.02 + 0.0005 * n), Timed(lambda n: 0.01 * n**1.5)
    chosen = {}
    for potential in (overhead, alone):
        batching = Batching()
        measure(batching, crystals, potential)
        chosen[potential] = batching
    assert chosen[overhead].size == 16 and list(chosen[overhead].ms_per_structure) == [1, 2, 4, 8, 16]
    assert chosen[alone].size == 1 and list(chosen[alone].ms_per_structure) == [1, 2, 4]
    metrics = chosen[overhead].metrics()
    assert metrics["batch_size"] == 16 and metrics["ms_per_structure"] == chosen[overhead].ms_per_structure[16]


def test_the_measurement_is_short_and_done_once(crystals):
    potential, batching = Timed(lambda n: 0.05 + 0.001 * n), Batching()
    begin = Timed.now
    measure(batching, crystals, potential, time_limit_s=0.2)
    assert Timed.now - begin < 0.6 and batching.size == 4
    n_calls = len(potential.batches)
    measure(batching, crystals, potential)
    assert len(potential.batches) == n_calls


def test_a_cold_call_leaves_time_to_measure(crystals):
    calls = itertools.count()
    potential, batching = Timed(lambda n: 5.0 if next(calls) == 0 else 0.01), Batching()
    measure(batching, crystals, potential)
    assert batching.size == 16


def test_a_slow_potential_is_not_left_to_single_structures(crystals):
    batching = Batching()
    measure(batching, crystals, Timed(lambda n: 3.0))
    assert batching.size == 4


def test_the_measurement_stays_within_memory(crystals):
    potential, batching = Timed(lambda n: 0.02, n_atoms=20), Batching()
    measure(batching, crystals, potential)
    assert batching.size == 4


def test_on_a_gpu_free_memory_limits_the_atoms(crystals, monkeypatch):
    """1000 bytes per atom, of which 30 fit into 70 % of what is free."""
    potential = Timed(lambda n: 0.005)
    monkeypatch.setattr(throughput, "reset_peak_memory", lambda potential: 5000)
    monkeypatch.setattr(throughput, "peak_memory", lambda potential: 5000 + 1000 * sum(potential.batches[-1]))
    monkeypatch.setattr(throughput, "free_memory", lambda potential: 30 * 1000 / throughput.MEMORY_SHARE + 1)
    batching = Batching()
    measure(batching, crystals, potential)
    assert batching.max_atoms == 30
    assert max(map(sum, potential.batches)) <= 30
    evaluate(crystals, potential, batching)
    assert max(map(sum, potential.batches)) <= 30


def test_relaxation_and_dynamics_measure_for_themselves(crystals):
    potential = MorseForceField().load(dtype="float64")
    batching = Batching("auto")
    results = relax(crystals, potential, 0.05, 200, "morse", batching=batching)
    assert all(result.atoms.info["converged"] for result in results)
    assert batching.is_measured and len(batching.ms_per_structure) > 1
    again = Batching.of("auto")
    assert len([*simulate(crystals[:4], potential, 2, 1.0, 300, 0, batching=again)]) == 3
    assert again.is_measured
    with pytest.raises(ValueError, match="not been measured"):
        evaluate(crystals, potential, Batching())


@pytest.mark.parametrize("size", [0, -3, 2.5, True, "large"])
def test_bad_sizes_are_named(size):
    with pytest.raises(ConfigError, match=f"batch_size = {size}: must be a number of structures, 1 or above, or auto"):
        Batching(size)


def test_bad_limit_is_named():
    with pytest.raises(ConfigError, match="max_atoms = 0: must be 1 or above, or null"):
        Batching(max_atoms=0)
