"""What MatterGen learns from, for how long, and which of its checkpoints is taken."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pytest

from chemloop.generator.mattergen_data import Architecture, Schedule, TrainedOn, learnable
from chemloop.generator.mattergen_training import best
from chemloop.physics.structures import read_structures
from chemloop.runtime.errors import ConfigError


@pytest.fixture
def crystals():
    references = read_structures(str(files("chemloop") / "data/li-p-s/reference.extxyz"))
    small = [atoms for atoms in references if len(atoms) <= 12]
    for atoms in small:
        atoms.info["e_above_hull"] = 0.0
    return small[:: len(small) // 12][:12]


def test_small_data_gets_small_batches_and_few_steps():
    schedule = Schedule(n_steps=400, max_epochs=10, batch_size=24)
    assert schedule.for_data(4) == (20, 2)
    assert schedule.for_data(5) == (20, 2) and schedule.for_data(9) == (40, 2), (
        "an epoch leaves out what fills no batch"
    )
    assert schedule.for_data(40) == (40, 10)
    assert schedule.for_data(1000) == (400, 24)
    assert Schedule(learning_rate=1e-4).rate_for(512) == pytest.approx(1e-4)
    assert Schedule(learning_rate=1e-4).rate_for(64) == pytest.approx(8e-4)


def test_sizes_and_schedules():
    with pytest.raises(ConfigError, match="generator.architecture.hidden = 33: must be even"):
        Architecture(hidden=33)
    with pytest.raises(ConfigError, match="n_steps = 0: must be 1 or above"):
        Schedule(n_steps=0)
    with pytest.raises(ConfigError, match="batch_size = 1: must be 2 or above"):
        Schedule(batch_size=1)
    with pytest.raises(ConfigError, match="learning_rate = 2: must be above 0 and below 1"):
        Schedule(learning_rate=2.0)


def test_cells_are_reduced_and_large_ones_left_out(crystals):
    doubled = crystals[0].repeat((2, 1, 1))
    doubled.info["e_above_hull"] = 0.2
    unconverged, unknown = crystals[1].copy(), crystals[1].copy()
    unconverged.info["converged"] = False
    del unknown.info["e_above_hull"]
    cells, energies = learnable([doubled, unconverged, unknown, crystals[2].repeat((4, 4, 4))], max_atoms=8)
    assert energies[0] == 0.2 and len(cells[0]) <= len(crystals[0])
    assert cells[0].get_volume() / len(cells[0]) == pytest.approx(crystals[0].get_volume() / len(crystals[0]), rel=1e-3)
    assert len(cells) == 2


def test_most_sun_then_lowest_energies_win():
    def score(n_sun, energy):
        return {"n_sun": n_sun, "best_half_ev_per_atom": energy}

    assert best({"before": score(1, 0.0), "step 1": score(2, 0.3), "step 2": score(1, 0.1)}) == "step 1"
    assert best({"before": score(1, 0.2), "step 1": score(1, 0.1), "step 2": score(1, None)}) == "step 1"
    assert best({"before": score(0, None), "step 1": score(0, None)}) == "step 1"


def test_what_was_seen_adds_up(crystals):
    first, second = TrainedOn.of(crystals[:2], [0.0, 0.1]), TrainedOn.of(crystals[2:], [0.05] * 9 + [0.3])
    both = first.joined(second)
    assert both.energy_above_hull == [0.0, 0.3] and sum(both.n_atoms.values()) == 12
    assert both.volume == [min(first.volume[0], second.volume[0]), max(first.volume[1], second.volume[1])]
    assert TrainedOn.from_json(both.to_json()) == both
    assert set(both.draw_sizes(50, np.random.default_rng(0))) <= set(both.n_atoms)
