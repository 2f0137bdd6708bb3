"""The three selectors: what they choose, that a seed repeats it, and what they refuse."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from omegaconf import OmegaConf

from chemloop.physics.descriptors import environments
from chemloop.physics.entropy import entropy
from chemloop.runtime.errors import ConfigError, StructureError
from chemloop.selector.entropy import EntropySelector
from chemloop.selector.hull_quota import HullQuotaSelector
from chemloop.selector.random import RandomSelector

CONF = Path(__file__).parents[2] / "conf" / "selector"
PAPER = {"upper_edges": [0.0, 0.03, 0.10], "quotas": [100, 200, 300]}


def cell(seed: int, symbols: str = "Li2PS3") -> Atoms:
    rng = np.random.default_rng(seed)
    while True:
        atoms = Atoms(symbols, cell=np.eye(3) * 5.0, pbc=True)
        atoms.set_scaled_positions(rng.random((len(atoms), 3)))
        if np.min(atoms.get_all_distances(mic=True) + 9 * np.eye(len(atoms))) > 1.3:
            return atoms


def screened(energies) -> list[Atoms]:
    structures = []
    for energy in energies:
        structures.append(Atoms("Li", cell=np.eye(3) * 3, pbc=True))
        structures[-1].info["e_above_hull"] = float(energy)
    return structures


@pytest.mark.parametrize("selector", [RandomSelector(), EntropySelector(), HullQuotaSelector(**PAPER)])
def test_contract(selector):
    candidates = [cell(seed) for seed in range(8)]
    for number, atoms in enumerate(candidates):
        atoms.info["e_above_hull"] = 0.01 * number
    for reference in ([], [cell(100)]):
        selection = selector.select(candidates, reference, 5, seed=1)
        assert len(selection.indices) == len(selection.scores) == len(set(selection.indices.tolist())) == 5
        again = selector.select(candidates, reference, 5, seed=1)
        assert np.array_equal(selection.indices, again.indices) and np.array_equal(selection.scores, again.scores)
        assert len(selector.select(candidates, reference, 100, seed=1).indices) == 8
        assert len(selector.select([], reference, 5, seed=1).indices) == 0
    for n in (0, -3):
        with pytest.raises(ConfigError, match=f"number of structures to select is {n}: it must be above 0"):
            selector.select(candidates, [], n, seed=1)


def test_random_depends_on_the_seed_and_grows_with_n():
    candidates = [Atoms("Li")] * 50
    few, many = (RandomSelector().select(candidates, [], n, seed=0).indices for n in (10, 30))
    assert many[:10].tolist() == few.tolist()
    assert RandomSelector().select(candidates, [], 10, seed=1).indices.tolist() != few.tolist()


def test_hull_quota_of_the_paper():
    rng = np.random.default_rng(0)
    energies = np.concatenate([rng.uniform(-0.2, 0, 50), rng.uniform(0, 0.03, 500), rng.uniform(0.03, 0.3, 2000)])
    candidates = screened(rng.permutation(energies))
    indices, scores = HullQuotaSelector(**PAPER).select(candidates, [], 600, seed=0)
    counts = np.histogram(scores, [-1, 0, 0.03, 0.1])[0]
    assert counts.tolist() == [50, 200, 300]
    assert (np.diff(scores) >= 0).all() and scores.max() < 0.1
    assert scores.tolist() == [candidates[i].info["e_above_hull"] for i in indices]
    # Random inside a window: with 500 candidates for 200 places, the lowest 200 alone would end at about 0.012.
    assert scores[50:250].max() > 0.025
    other = HullQuotaSelector(**PAPER).select(candidates, [], 600, seed=1).indices
    assert set(other[:50]) == set(indices[:50]) and set(other) != set(indices)
    assert len(HullQuotaSelector(**PAPER).select(candidates, [], 60, seed=0).indices) == 60


def test_hull_quota_edges_belong_to_the_window_above():
    selector = HullQuotaSelector([0.0, 0.03, 0.10], [1, 1, 1])
    assert selector.select(screened([0.0, 0.03, 0.10]), [], 9, seed=0).indices.tolist() == [0, 1]
    assert selector.select(screened([0.10, 0.5]), [], 9, seed=0).indices.tolist() == []


def test_hull_quota_needs_screened_structures():
    candidates = screened([0.0])
    candidates[0].info = {"id": "i00-g000-0003"}
    with pytest.raises(StructureError, match="i00-g000-0003 has no e_above_hull; only screened structures"):
        HullQuotaSelector(**PAPER).select(candidates, [], 1, seed=0)


def test_entropy_prefers_what_the_reference_lacks():
    known, unlike = cell(0), cell(0)
    unlike.numbers = [{3: 16, 15: 3, 16: 15}[z] for z in unlike.numbers]
    nearly = known.copy()
    nearly.rattle(0.005, seed=1)
    for mode in ("greedy", "top"):
        assert EntropySelector(mode=mode).select([nearly, unlike], [known], 1, seed=0).indices.tolist() == [1]


def test_entropy_greedy_leaves_copies_for_last_and_top_does_not():
    novel, other = cell(1, "PS3Li2"), cell(2)
    candidates = [other, novel, novel.copy(), novel.copy()]
    reference = [other.copy()]
    reference[0].rattle(0.1, seed=0)
    assert EntropySelector(mode="top").select(candidates, reference, 3, seed=0).indices.tolist() == [1, 2, 3]
    assert EntropySelector().select(candidates, reference, 2, seed=0).indices.tolist() == [1, 0]


def test_entropy_selection_holds_more_than_a_random_one():
    parents = [cell(seed) for seed in range(10)]
    shares = np.repeat(np.arange(10), [30, 20, 10, 5, 4, 3, 2, 2, 2, 2])
    candidates = []
    for number, parent in enumerate(shares):
        candidates.append(parents[parent].copy())
        candidates[-1].rattle(0.005, seed=number)

    def held(indices) -> float:
        return entropy(np.vstack(environments([candidates[i] for i in indices], ["Li", "P", "S"])))

    chosen = EntropySelector().select(candidates, [], 10, seed=0).indices
    drawn = RandomSelector().select(candidates, [], 10, seed=0).indices
    assert {int(shares[i]) for i in chosen} == set(range(10))
    assert held(chosen) > held(drawn) + 0.3


def test_elements_come_from_candidates_and_reference_together():
    selection = EntropySelector().select([cell(0), cell(1, "Na2PS3")], [cell(2)], 2, seed=0)
    assert selection.indices[0] == 1 and np.isfinite(selection.scores).all()


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: EntropySelector(pooling="median"), "selector.pooling = 'median': must be one of mean, max, sum"),
        (lambda: EntropySelector(mode="best"), "selector.mode = 'best': must be one of greedy, top"),
        (lambda: EntropySelector(n_neighbors=0), "selector.n_neighbors = 0: must be a finite number above 1"),
        (lambda: EntropySelector(cutoff=-5.0), "selector.cutoff = -5.0: must be a finite number above 0"),
        (lambda: EntropySelector(bandwidth=0.0), "selector.bandwidth = 0.0: must be a finite number above 0"),
        (lambda: EntropySelector(bandwidth=float("nan")), "selector.bandwidth = nan: must be a finite number above 0"),
        (lambda: HullQuotaSelector([0.03, 0.0], [1, 1]), r"selector.upper_edges = \[0.03, 0.0\]: must be increasing"),
        (lambda: HullQuotaSelector([0.0, 0.0], [1, 1]), r"selector.upper_edges = \[0.0, 0.0\]: must be increasing"),
        (lambda: HullQuotaSelector([], []), r"selector.upper_edges = \[\]: must be increasing numbers"),
        (lambda: HullQuotaSelector([0.0, 0.03], [10]), r"selector.quotas = \[10\] has 1 entries .* has 2"),
        (lambda: HullQuotaSelector([0.0, 0.03], [10, 0]), r"selector.quotas = \[10, 0\]: each must be above 0"),
        (lambda: HullQuotaSelector([0.0, 0.03], [-1, 3]), r"selector.quotas = \[-1, 3\]: each must be above 0"),
    ],
)
def test_bad_values_are_named(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.parametrize(
    "option, kind", [("random", RandomSelector), ("entropy", EntropySelector), ("hull_quota", HullQuotaSelector)]
)
def test_yaml_is_the_signature(option, kind):
    node = OmegaConf.create({"loop": {"hull_edges": PAPER["upper_edges"], "hull_quotas": PAPER["quotas"]}})
    node["selector"] = OmegaConf.load(CONF / f"{option}.yaml")
    values = dict(OmegaConf.to_container(node, resolve=True)["selector"])
    assert values.pop("_target_") == f"{kind.__module__}.{kind.__name__}"
    assert set(values) == {field.name for field in dataclasses.fields(kind)}
    if option == "entropy":
        assert kind(**values) == kind()
