"""Samples of a generator, judged by the force field and the hull of the iteration."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ase.build import bulk

from chemloop.physics.relaxation import Relaxed
from chemloop.physics.structures import set_results, write_structures
from chemloop.runtime.campaign import Campaign
from chemloop.stages import sample_score
from chemloop.stages.learn import Learn
from chemloop.stages.sample_score import SampleScore, with_scorer
from chemloop.stages.screen import ScreenSettings
from chemloop.stages.stage import stage_folder


def crystal(structure, energy_per_atom, role="candidate", is_converged=True):
    """Lithium in some structure, relaxed."""
    atoms = bulk("Li", structure, a=4.0)
    zeros = np.zeros((len(atoms), 3)), np.zeros((3, 3))
    set_results(atoms, "mlff", energy_per_atom * len(atoms), *zeros, "toy")
    atoms.info.update(role=role, converged=is_converged, id=f"{structure}-{role}")
    return atoms


@dataclass
class Judged:
    scorer: Any = None


@dataclass
class Unjudged:
    checkpoint: str | None = None


@dataclass
class Mixed:
    members: dict[str, Any]


@pytest.fixture
def stage(tmp_path):
    settings: Any = SimpleNamespace(loop=SimpleNamespace(screen=ScreenSettings(stable_below=0.1)))
    made = Learn(Campaign(tmp_path / "campaign"), settings, 1)
    folder = stage_folder(made.campaign, 1, "relax")
    folder.mkdir(parents=True)
    below_the_hull = crystal("diamond", -9.0)
    write_structures(folder / "output.extxyz", [crystal("bcc", -1.0, "reference"), below_the_hull])
    screened = stage_folder(made.campaign, 1, "screen")
    screened.mkdir()
    write_structures(screened / "output.extxyz", [crystal("sc", -0.9), crystal("fcc", -0.9, is_converged=False)])
    return made


def test_scores_are_those_of_screening(stage, monkeypatch):
    samples = [
        crystal("fcc", -0.95, is_converged=False),
        crystal("fcc", -0.95),
        crystal("fcc", -0.95),
        crystal("bcc", -1.0),
        crystal("sc", -0.95),
        crystal("hcp", -0.5),
        crystal("diamond", -0.95, is_converged=False),
    ]
    lost = crystal("diamond", -1.0)
    results = [Relaxed(atoms, 3, None) for atoms in samples] + [Relaxed(lost, 3, "exploded")]
    monkeypatch.setattr(sample_score, "relax_to_end", lambda relaxing, structures: results)
    energies, is_sun = SampleScore(stage)([*samples, lost])
    assert energies[:7] == pytest.approx([0.05, 0.05, 0.05, 0.0, 0.05, 0.5, 0.05]) and np.isnan(energies[7])
    # not converged, and so no twin of the next, as little as the one screened before; equal to the second, to a
    # reference, to one screened before; then too high, not converged, lost
    assert is_sun.tolist() == [False, True, False, False, False, False, False, False]


def test_only_generators_that_ask_are_given_a_scorer(stage, tmp_path):
    assert isinstance(with_scorer(Judged(), stage).scorer, SampleScore)
    assert with_scorer(Unjudged(), stage) == Unjudged()
    mixed = with_scorer(Mixed({"a": Judged(), "b": Unjudged()}), stage).members
    assert isinstance(mixed["a"].scorer, SampleScore) and mixed["b"] == Unjudged()
    nothing_relaxed_yet = Learn(Campaign(tmp_path / "new"), stage.settings, 0)
    assert with_scorer(Judged(), nothing_relaxed_yet).scorer is None
