"""`workflow=train_generator`: a generator that learns, trained on structures outside of any campaign."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import Atoms

from chemloop.physics.hull import energies_above_hull
from chemloop.physics.structures import SOURCES, read_structures, write_structures
from chemloop.runtime.campaign import Campaign, explain_os_error
from chemloop.runtime.disk import file_hash, read_json
from chemloop.runtime.errors import CampaignError, ConfigError, StageFailed, StructureError
from chemloop.runtime.item import Item
from chemloop.runtime.sharing import held, shared
from chemloop.stages.curve_pool import refuse_changes
from chemloop.stages.lesson import INPUT, Lesson
from chemloop.stages.stage import FIT

if TYPE_CHECKING:
    from chemloop.config import Settings

LOCK = ".plan"
ADVICE = "give another workflow.folder"


@dataclass
class TrainGenerator:
    """One command is one item: a worker trains, and the same command goes on with a training that was interrupted.

    structures: extxyz files
    folder: of the item, and so of the checkpoint
    max_e_above_hull: eV/atom, others are left out
    """

    structures: list[str] = field(default_factory=list)
    folder: str = "outputs/generator"
    max_e_above_hull: float = 0.3

    def __post_init__(self) -> None:
        if not self.structures:
            raise ConfigError("workflow.structures is empty: give extxyz files, workflow.structures=[FILE,...]")
        if not self.max_e_above_hull > 0:
            raise ConfigError(f"workflow.max_e_above_hull = {self.max_e_above_hull:g}: must be above 0 eV/atom")

    def run(self, campaign: Campaign, settings: Settings, config: dict[str, Any]) -> None:
        """Raises: ConfigError where the generator does not learn; StructureError; CampaignError where the folder is not
        this training's, or has its checkpoint; StageFailed
        """
        if not settings.generator.can_learn:
            raise ConfigError(
                f"generator={settings.options['generator']} cannot be trained; choose one that learns, e.g. mattergen"
            )
        node = {key: value for key, value in config["generator"].items() if key != "python"}
        item = Item(Path(self.folder).expanduser().resolve())
        try:
            plan(item, {"generator": node, "seed": settings.seed, **self.record()}, self.chosen())
            python = settings.pythons.get("generator")
            with shared([item], item.folder, "gpu", settings.compute, "train generator", python):
                pass
        except OSError as error:
            raise explain_os_error(error, item.folder) from error
        if item.failure is not None:
            raise StageFailed(f"{item.failure['reason']} (log: {item.folder / 'log.out'})")
        print(f"generator.checkpoint={checkpoint_of(item)}")

    def record(self) -> dict[str, Any]:
        """What tells whether two commands learn from the same.

        Raises: ConfigError for a file that is not there
        """
        for path in self.structures:
            if not Path(path).is_file():
                raise ConfigError(f"workflow.structures has {path}: there is no such file; give extxyz files")
        hashes = {path: file_hash(Path(path)) for path in self.structures}
        return {"structures": hashes, "max_e_above_hull": self.max_e_above_hull}

    def chosen(self) -> list[Atoms]:
        """The structures to learn from, each with `id`, `role` and `e_above_hull`.

        Raises: StructureError
        """
        given = [atoms for path in self.structures for atoms in read_structures(path)]
        for number, atoms in enumerate(given):
            atoms.info.setdefault("id", f"structure-{number:05d}")
        known = with_energies_above_hull(given)
        kept = [atoms for atoms in known if atoms.info["e_above_hull"] <= self.max_e_above_hull]
        for atoms in kept:
            atoms.info["role"] = "label"
        if not kept:
            lowest = min((atoms.info["e_above_hull"] for atoms in known), default=None)
            found = "none of them has converged" if lowest is None else f"the lowest lies at {lowest:.3f} eV/atom"
            raise StructureError(
                f"workflow.max_e_above_hull = {self.max_e_above_hull:g} leaves none of the {len(given)} structures of"
                f" {', '.join(self.structures)}: {found}; raise that limit, or give other structures"
            )
        print(f"{len(kept)} of {len(known)} structures within {self.max_e_above_hull:g} eV/atom of the hull")
        return kept


def plan(item: Item, task: dict[str, Any], structures: Sequence[Atoms]) -> None:
    """Write what is to be learned, or check that the unfinished training in this folder is this one.

    Raises: CampaignError
    """
    task = {"stage": f"{Lesson.__module__}.{Lesson.__qualname__}", **task}
    if item.is_done:
        raise CampaignError(f"{item.folder} has a finished checkpoint, {checkpoint_of(item)}; {ADVICE}")
    if item.folder.exists() and not (item.folder / LOCK).exists() and any(item.folder.iterdir()):
        raise CampaignError(f"{item.folder} has files of something else; {ADVICE}")
    item.folder.mkdir(parents=True, exist_ok=True)
    with held(item.folder / LOCK):
        if item.is_planned:
            refuse_changes(item.task, task, item.folder, ADVICE)
        else:
            write_structures(item.folder / INPUT, structures)
            item.plan(task)


def checkpoint_of(item: Item) -> Path:
    """Of a finished training."""
    return item.folder / read_json(item.folder / FIT)["checkpoint"]


def with_energies_above_hull(structures: Sequence[Atoms]) -> list[Atoms]:
    """Those that carry `e_above_hull`, and for which it is computed, by energy frame, against all of that frame.

    Those that carry it are part of the hull, too, where they have an energy. Unconverged ones are not, and
    without it they are left out.

    Raises: StructureError where there are no energies, or no elements for the hull
    """
    frames: dict[tuple[str, str], list[Atoms]] = defaultdict(list)
    for number, atoms in enumerate(structures):
        if not atoms.info.get("converged", True):
            continue
        who = next((who for who in SOURCES if f"{who}_energy" in atoms.info), None)
        if who is not None and "energy_frame" in atoms.info:
            frames[who, atoms.info["energy_frame"]].append(atoms)
        elif "e_above_hull" not in atoms.info:
            raise StructureError(
                f"structure {number} carries neither e_above_hull nor an energy with its energy_frame; compute one"
            )
    for (who, _), members in frames.items():
        lacking = [atoms for atoms in members if "e_above_hull" not in atoms.info]
        for atoms, energy in zip(lacking, energies_above_hull(lacking, members, who), strict=True):
            atoms.info["e_above_hull"] = float(energy)
    return [atoms for atoms in structures if "e_above_hull" in atoms.info]
