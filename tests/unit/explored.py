"""A campaign folder as the first stages leave it: known structures, screened candidates, all labelled by a formula."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read

import chemloop
from chemloop.config import load
from chemloop.physics.structures import set_results, write_structures
from chemloop.runtime.campaign import Campaign
from chemloop.stages.curate import Curate
from chemloop.stages.describe import Describe
from chemloop.stages.stage import Stage, stage_folder

KNOWN = ("mp-51", "mp-157", "mp-77", "mp-1153", "mp-736", "mp-985583")
FOUND = ("mp-641703", "mp-28336", "mp-1180520")


def crystals(names: Sequence[str]) -> list[Atoms]:
    path = Path(chemloop.__file__).parent / "data/li-p-s/reference.extxyz"
    by_name = {atoms.info["name"]: atoms for atoms in read(path, ":")}
    return [by_name[name].copy() for name in names]


def labelled(atoms: Atoms, id: str, energy: float) -> Atoms:
    atoms.info.update(id=id, parent=id, converged=True)
    return set_results(atoms, "label", energy, np.zeros((len(atoms), 3)), np.zeros((3, 3)), "formula-1")


def begin(folder: Path, config: dict[str, Any], seed: int = 0) -> Campaign:
    """Iteration 0 as the seed stage leaves it."""
    campaign = Campaign(folder)
    campaign.begin(config)
    known = [labelled(atoms, f"i00-r{n:04d}", -3.0 * len(atoms)) for n, atoms in enumerate(crystals(KNOWN))]
    write(stage_folder(campaign, 0, "seed"), known)
    return campaign


def write(folder: Path, structures: Sequence[Atoms]) -> None:
    """relaxed.extxyz, and as frames the same and two others of each, moved by 0.1 A."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    frames = []
    for atoms in structures:
        for number in range(3):
            frame = atoms.copy()
            frame.positions += rng.normal(scale=0.1 * (number > 0), size=frame.positions.shape)
            frame.info["id"] += f"/f{number:02d}"
            frames.append(frame)
    write_structures(folder / "relaxed.extxyz", structures)
    write_structures(folder / "output.extxyz", frames)


def screened(campaign: Campaign, iteration: int, structures: Sequence[Atoms], **flags: bool) -> None:
    """An iteration as the screen and label stages leave it."""
    flags = {"converged": True, "is_stable": True, "is_unique": True, "is_novel": True, **flags}
    found = [atoms.copy() for atoms in structures]
    for number, atoms in enumerate(found):
        atoms.info.update(id=f"i{iteration:02d}-g000-{number:04d}", e_above_hull=0.01 * number, **flags)
    for name in ("screen", "label"):
        stage_folder(campaign, iteration, name).mkdir(parents=True, exist_ok=True)
    write_structures(stage_folder(campaign, iteration, "screen") / "output.extxyz", found)
    kept = [atoms for atoms in found if all(flags.values())]
    write(
        stage_folder(campaign, iteration, "label"),
        [labelled(atoms.copy(), atoms.info["id"], -3.1 * len(atoms)) for atoms in kept],
    )


def run(stage: Stage) -> dict[str, float]:
    """All items of a stage in this process, and its end; returns its metrics without the stage's name."""
    stage.folder.mkdir(parents=True, exist_ok=True)
    items = stage.plan()
    for item in items:
        item.finish(stage.run(item), 0.0)
    return stage.collect(items)


def explore(campaign: Campaign, iteration: int) -> dict[str, float]:
    """Describe and curate an iteration; returns the metrics of curate."""
    settings = load(campaign.config())
    run(Describe(campaign, settings, iteration))
    return run(Curate(campaign, settings, iteration))
