"""Calculations that fail: what they cost, what they do not cost, and when they are given up."""

import itertools
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from ase import Atoms
from ase.build import bulk

from chemloop.labeler.ase import AseLabeler
from chemloop.labeler.gpaw import GpawLabeler
from chemloop.labeler.vasp import VaspLabeler
from chemloop.runtime.errors import ItemFailed
from chemloop.runtime.label_cache import LabelCache
from chemloop.stages import labelling
from chemloop.stages.labelling import Labelled, LabelSettings, Protocol
from tests import vasp_standin
from tests.unit.test_labels import SpringLabeler, crystal

FATAL = ItemFailed("SCF diverged")
TIMEOUT = ItemFailed("stopped after labeler.timeout_min = 1 min", retryable=True)


@dataclass
class TroubledLabeler(SpringLabeler):
    """What becomes of the runs of each calculation, numbered as they are first begun; those not named succeed.

    n_steps: ionic steps on disk after each run; None: none ever
    """

    troubles: dict[int, list[ItemFailed]] = field(default_factory=dict)
    n_steps: list[int] | None = None
    runs: Counter[str] = field(default_factory=Counter)

    def run(self, workdir: Path) -> None:
        self.runs[workdir.name] += 1
        number = list(self.runs).index(workdir.name)
        if len(self.troubles.get(number, [])) >= self.runs[workdir.name]:
            raise self.troubles[number][self.runs[workdir.name] - 1]
        super().run(workdir)

    def n_ionic_steps(self, workdir: Path) -> int:
        n_runs = self.runs[workdir.name]
        return self.n_steps[n_runs - 1] if self.n_steps and n_runs else 0


def attempts(protocol: Protocol) -> tuple[Labelled, int]:
    """The result, and the attempts of the item that it took."""
    for n in range(1, 20):
        try:
            return protocol.label(crystal(), seed=1, is_reference=False), n
        except ItemFailed as error:
            if not error.retryable:
                raise
    raise AssertionError("it is tried for ever")


def protocol(tmp_path: Path, labeler: SpringLabeler, **settings: int) -> Protocol:
    return Protocol(labeler, LabelSettings(**settings), LabelCache(tmp_path / "cache"), tmp_path / "calculations")


def test_what_failed_for_good_is_not_computed_again(tmp_path):
    labeler = TroubledLabeler(troubles={0: [FATAL, FATAL], 2: [TIMEOUT]})
    result, n = attempts(protocol(tmp_path, labeler))
    assert n == 2 and result.reasons == ["SCF diverged"]
    assert list(labeler.runs.values())[:3] == [1, 1, 2]
    assert (result.n_computed, result.n_from_cache) == (2 + 5, 1)


@pytest.mark.parametrize("number", [0, 2, 4])
def test_calculation_that_never_comes_to_its_end_costs_no_other_one(tmp_path, number):
    labeler = TroubledLabeler(troubles={number: [TIMEOUT] * 9})
    result, n = attempts(protocol(tmp_path, labeler))
    assert n == 3 and list(labeler.runs.values()) == [3 if k == number else 1 for k in range(8)]
    assert result.reasons == [f"{TIMEOUT.reason}; given up after 3 attempts that came no further"]
    assert [frame.info["kind"] for frame in result.frames].count("static") == (5 if number < 3 else 4)


def test_relaxation_that_advances_is_not_given_up(tmp_path):
    seen = []
    labeler = TroubledLabeler(troubles={0: [TIMEOUT] * 6}, n_steps=[4, 9, 12, 12, 14, 20, 21])
    slow = protocol(tmp_path, labeler, n_perturbations=1, n_static=0)
    slow.on_progress = lambda *where: seen.append(where)
    result, n = attempts(slow)
    assert n == 7 and result.reasons == [] and len(result.frames) == 3
    assert seen == sorted(seen) and [steps for _, _, steps in seen[1::2]] == [4, 9, 12, 12, 14, 20, 0]


def test_labelers_count_the_ionic_steps_that_an_attempt_left(tmp_path):
    ase = AseLabeler(0.01, 100, {"_target_": "ase.calculators.emt.EMT"})
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    ase.write(atoms, "relax", tmp_path)
    assert ase.n_ionic_steps(tmp_path) == 0
    ase.run(tmp_path)
    assert ase.n_ionic_steps(tmp_path) == GpawLabeler().n_ionic_steps(tmp_path) == len(ase.read(tmp_path)) > 2


def test_vasp_step_with_which_an_attempt_begins_is_no_progress(tmp_path):
    vasp = VaspLabeler()
    whole = vasp_standin.recorded("relax")
    first = whole[: whole.index("</calculation>") + 20]
    counts = [vasp.n_ionic_steps(tmp_path)]
    for name, text in (
        ("vasprun.0.xml", whole),
        ("vasprun.1.xml", first),
        ("vasprun.xml", first),
        ("vasprun.xml", whole),
    ):
        (tmp_path / name).write_text(text, encoding="latin-1")
        counts.append(vasp.n_ionic_steps(tmp_path))
    assert counts == [0, 3, 3, 3, 5]


def test_item_without_a_result_is_tried_in_full_when_its_marker_is_removed(tmp_path):
    labeler = TroubledLabeler(troubles={k: [FATAL] for k in range(3)})
    item = protocol(tmp_path, labeler)
    with pytest.raises(ItemFailed, match="no relaxation.*SCF diverged"):
        attempts(item)
    result, _ = attempts(item)
    assert result.reasons == [] and set(labeler.runs.values()) == {1, 2}


def test_cost_is_that_of_all_attempts(tmp_path, monkeypatch):
    monkeypatch.setattr(labelling, "time", SimpleNamespace(monotonic=itertools.count().__next__))
    labeler = TroubledLabeler(troubles={0: [TIMEOUT] * 2, 1: [FATAL]})
    result, _ = attempts(protocol(tmp_path, labeler, n_perturbations=2, n_static=0))
    # a second on two cores each time
    assert result.timings == [("relax", 4, 6.0), ("relax", 4, 2.0)]


def test_static_shot_that_cannot_be_perturbed_costs_no_label(tmp_path, monkeypatch):
    perturb = labelling.perturb

    def unlucky(atoms: Atoms, *rest: object) -> Atoms:
        if "label_energy" in atoms.info and next(draws) == 1:
            raise ItemFailed("100 random perturbations in a row brought atoms closer")
        return perturb(atoms, *rest)

    draws = itertools.count()
    monkeypatch.setattr(labelling, "perturb", unlucky)
    result, _ = attempts(protocol(tmp_path, SpringLabeler()))
    assert [frame.info["kind"] for frame in result.frames].count("static") == 4
    assert result.reasons == ["100 random perturbations in a row brought atoms closer"]
