"""What the hull is made of: references and earlier finds, all relaxed by the current force field."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ase import Atoms

from chemloop.physics.structures import read_structures, without
from chemloop.runtime.campaign import Campaign
from chemloop.stages.label import RELAXED
from chemloop.stages.stage import OUTPUT, Stage, current_model, stage_folder

SCREENED = ("e_above_hull", "is_stable", "is_unique", "is_novel", "spacegroup")
"""What a screen stage says of a structure, in that iteration."""


def known_folder(campaign: Campaign, iteration: int) -> Path:
    """Where the part of the relax stage that comes first leaves them, where they come first."""
    return campaign.iteration(iteration) / "known"


def known_structures(stage: Stage) -> tuple[list[Atoms], list[Atoms]]:
    """References and earlier finds, told apart by info["role"]: those that are to be relaxed now, and those that this
    same force field relaxed in the iteration before.
    """
    before = _relaxed_before(stage)
    bare, carried = [], []
    for role, structures in (("reference", _references(stage)), ("find", _finds(stage))):
        for atoms in structures:
            if atoms.info["id"] in before:
                carried.append(before[atoms.info["id"]])
            else:
                bare.append(without(without(atoms, "label"), "mlff"))
            (carried if atoms.info["id"] in before else bare)[-1].info["role"] = role
    return bare, carried


def _references(stage: Stage) -> list[Atoms]:
    """As the labeler relaxed them; a campaign without labels has them as they were published."""
    seeds = stage.earlier("seed")
    if not seeds:
        return stage.settings.system.references(stage.settings.loop.seed.max_atoms)
    return [atoms for path in seeds for atoms in converged(path / RELAXED)]


def _finds(stage: Stage) -> list[Atoms]:
    return [atoms for path in stage.earlier("screen") for atoms in read_structures(path / OUTPUT) if is_sun(atoms)]


def _relaxed_before(stage: Stage) -> dict[str, Atoms]:
    """By id what the iteration before left, where its energies are in the present frame."""
    last = stage.iteration - 1
    screened = stage_folder(stage.campaign, last, "screen")
    folders = known_folder(stage.campaign, last), stage_folder(stage.campaign, last, "relax"), screened
    _, frame = current_model(stage)
    found = {}
    for path in (folder / OUTPUT for folder in folders if last >= 0):
        # candidates of a relax stage have not been judged yet
        for atoms in read_structures(path) if path.exists() else []:
            is_judged = atoms.info["role"] != "candidate" or path.parent == screened
            if is_judged and atoms.info.get("energy_frame") == frame:
                found[atoms.info["id"]] = _unscreened(atoms)
    return found


def _unscreened(atoms: Atoms) -> Atoms:
    for key in SCREENED:
        atoms.info.pop(key, None)
    return atoms


def converged(path: Path) -> list[Atoms]:
    """The converged ones of a file of relaxed structures."""
    return [atoms for atoms in read_structures(path) if atoms.info["converged"]]


def settled(known: Sequence[Atoms]) -> list[Atoms]:
    """What a new structure may be compared with, of what the current force field relaxed again: all references, which
    are known however that went, and the converged ones of the finds.
    """
    return [atoms for atoms in known if atoms.info["role"] == "reference" or atoms.info["converged"]]


def is_sun(atoms: Atoms) -> bool:
    """Stable, unique and novel."""
    return all(atoms.info.get(flag, False) for flag in ("is_stable", "is_unique", "is_novel"))
