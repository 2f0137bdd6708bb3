"""The learn stage: what a generator learns from, what it is told of its achievements, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pytest
from ase import Atoms

from chemloop.config import load
from chemloop.loop import stages_of
from chemloop.physics.structures import read_structures, write_structures
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import CheckpointError
from chemloop.stages.generate import Generate
from chemloop.stages.learn import Learn
from chemloop.stages.proposals import Proposals
from chemloop.stages.stage import current_generator, stage_folder
from tests.unit import explored


@dataclass
class Pupil:
    """Its checkpoint is a file that counts its lessons."""

    can_learn: ClassVar[bool] = True
    checkpoint: str | None = None
    place: str = "lessons"
    pools: list[list[Atoms]] = field(default_factory=list)
    achieved: list[list[dict]] = field(default_factory=list)

    def finetune(self, structures, workdir: Path, seed: int) -> str:
        self.pools.append(structures)
        self.achieved.append(read_json(workdir / "achieved.json"))
        before = int(Path(self.checkpoint).read_text()) if self.checkpoint else 0
        (workdir / self.place).write_text(str(before + 1))
        write_json(workdir / "metrics.json", {"loss": 0.5})
        return str(workdir / self.place)


@pytest.fixture
def campaign(compose_config, tmp_path):
    return explored.begin(tmp_path / "campaign", compose_config())


def curated(campaign, iteration: int) -> None:
    """relaxed.extxyz of the curate stage, the newest structure not converged."""
    folders = [stage_folder(campaign, 0, "seed"), *(stage_folder(campaign, k + 1, "label") for k in range(iteration))]
    structures = [atoms for folder in folders for atoms in read_structures(folder / "relaxed.extxyz")]
    for number, atoms in enumerate(structures):
        atoms.info.update(e_above_hull=0.1 * number, converged=number < len(structures) - 1)
    folder = stage_folder(campaign, iteration, "curate")
    folder.mkdir(parents=True)
    write_structures(folder / "relaxed.extxyz", structures)


def proposed(campaign, iteration: int, structures) -> None:
    """generate and relax as those stages leave them: two generators, one item each."""
    names = ["a" if k % 2 == 0 else "b" for k in range(len(structures))]
    proposals = Proposals()
    folders = [stage_folder(campaign, iteration, name) for name in ("generate", "relax")]
    for number, name in enumerate(("a", "b")):
        own = [atoms for atoms, maker in zip(structures, names, strict=True) if maker == name]
        for atoms in own:
            atoms.info.update(generator=name, operator="o", parents="i00-r0000", role="candidate", n_relax_steps=3)
            atoms.info["converged"] = True
            proposals.count(atoms, None)
        items = [folder / f"items/{number:04d}" for folder in folders]
        for item in items:
            item.mkdir(parents=True)
            write_json(item / "DONE", {"wall_s": 8.0, "outputs": {}})
        write_json(
            items[0] / "yield.json", {"by_generator": {name: {"attempts": 2, "rejected": {}, "cpu_seconds": 1.5}}}
        )
        known = own[0].copy()
        known.info["role"] = "reference"
        write_structures(items[1] / "output.extxyz", [*own, known])
    hopeless, unfinished = (structures[0].copy() for _ in range(2))
    hopeless.info.update(id="hopeless", dropped="hopeless: 0.3 eV/atom", converged=False, e_above_hull=0.3)
    unfinished.info.update(id="unfinished", converged=False)
    write_structures(folders[1] / "output.extxyz", [*structures, hopeless, unfinished, known])
    proposals.count(structures[0], "too close")
    write_json(folders[0] / "proposals.json", proposals.to_json())


def learn(campaign, pupil: Pupil, iteration: int) -> tuple[Learn, dict[str, float]]:
    stage = Learn(campaign, replace(load(campaign.config()), generator=pupil), iteration)
    metrics = explored.run(stage)
    write_json(stage.folder / "metrics.json", metrics)
    write_json(stage.folder / "DONE", {"outputs": {}})
    return stage, metrics


def test_lessons_follow_each_other(campaign):
    curated(campaign, 0)
    pupil = Pupil()
    stage, metrics = learn(campaign, pupil, 0)
    assert metrics == {"n_labels": 5, "n_candidates": 0, "n_lost": 0, "loss": 0.5}
    assert pupil.achieved == [[]]
    assert read_json(stage.folder / "fit.json") == {"checkpoint": "items/0000/lessons"}
    assert [path.name for path in stage.final_files()] == ["metrics.json", "fit.json", "lessons"]
    assert stage.item(0).is_intact

    found = explored.crystals(explored.FOUND)
    for number, atoms in enumerate(found):
        atoms.info = {"id": f"i01-g000-{number:04d}"}
    proposed(campaign, 1, found)
    explored.screened(campaign, 1, found)
    curated(campaign, 1)
    settings = replace(load(campaign.config()), generator=pupil)
    assert current_generator(Generate(campaign, settings, 0)).checkpoint is None
    newest = current_generator(Generate(campaign, settings, 1)).checkpoint
    assert newest == str((stage.folder / "items/0000/lessons").resolve())

    stage, metrics = learn(campaign, pupil, 1)
    assert metrics["n_candidates"] == 3 and metrics["n_labels"] == 8
    assert Path(current_generator(Generate(campaign, settings, 2)).checkpoint).read_text() == "2"
    labels = [atoms for atoms in pupil.pools[1] if atoms.info["role"] == "label"]
    candidates = [atoms for atoms in pupil.pools[1] if atoms.info["role"] == "candidate"]
    assert all("label_energy" in atoms.info for atoms in labels)
    assert {atoms.info["generator"] for atoms in candidates} == {"a", "b"}
    for atoms in candidates:
        assert atoms.info["is_stable"] and atoms.info["parents"] == "i00-r0000" and atoms.info["operator"] == "o"
    lost = [atoms for atoms in pupil.pools[1] if atoms.info["role"] == "lost"]
    assert [atoms.info["id"] for atoms in lost] == ["hopeless", "unfinished"] and metrics["n_lost"] == 2
    assert all(("e_above_hull" in atoms.info) == (atoms.info["role"] != "lost") for atoms in pupil.pools[1])


def test_achievements_have_their_time(campaign):
    found = explored.crystals(explored.FOUND)
    for number, atoms in enumerate(found):
        atoms.info = {"id": f"i01-g000-{number:04d}"}
    proposed(campaign, 1, found)
    explored.screened(campaign, 1, found)
    curated(campaign, 0)
    curated(campaign, 1)
    pupil = Pupil()
    learn(campaign, pupil, 1)
    (rows,) = pupil.achieved
    sizes = [len(atoms) for atoms in found]
    share = (sizes[0] + sizes[2]) / (2 * sizes[0] + sizes[2])
    assert rows == [
        {"iteration": 1, "generator": "a", "n_proposed": 3, "n_valid": 2, "n_sun": 2,
         "cpu_seconds": pytest.approx(1.5 + 8 * share, abs=1e-3)},
        {"iteration": 1, "generator": "b", "n_proposed": 1, "n_valid": 1, "n_sun": 1,
         "cpu_seconds": pytest.approx(1.5 + 4.0, abs=1e-3)},
    ]  # fmt: skip


def test_a_checkpoint_elsewhere_is_refused(campaign, tmp_path):
    curated(campaign, 0)
    with pytest.raises(CheckpointError, match=f"{tmp_path}/astray: it must be a file or folder below"):
        learn(campaign, Pupil(place=str(tmp_path / "astray")), 0)


def test_only_generators_that_learn_have_the_stage(campaign):
    settings = load(campaign.config())
    settings = replace(settings, generator=replace(settings.generator, hull_bias=1.0))
    pupils = replace(settings, generator=Pupil())
    for iteration in (0, 1):
        assert [stage.name for stage in stages_of(campaign, settings, iteration)][-1] == "finetune"
        assert [stage.name for stage in stages_of(campaign, pupils, iteration)][-1] == "learn"
    assert stages_of(campaign, pupils, 0)[-1].folder.name == "9-learn"
