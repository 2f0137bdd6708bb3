"""`workflow=train_generator`: a generator that learns, trained on structures outside of any campaign."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from chemloop.physics.hull import energies_above_hull
from chemloop.physics.structures import SOURCES, read_structures
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.errors import ConfigError, StructureError

if TYPE_CHECKING:
    from chemloop.config import Settings


@dataclass
class TrainGenerator:
    """structures: extxyz files; folder: where the checkpoint goes; max_e_above_hull: eV/atom, others are left out."""

    structures: list[str] = field(default_factory=list)
    folder: str = "outputs/generator"
    max_e_above_hull: float = 0.3

    def __post_init__(self) -> None:
        if not self.structures:
            raise ConfigError("workflow.structures is empty: give extxyz files, workflow.structures=[FILE,...]")
        if not self.max_e_above_hull > 0:
            raise ConfigError(f"workflow.max_e_above_hull = {self.max_e_above_hull:g}: must be above 0 eV/atom")

    def run(self, campaign: Campaign, settings: Settings, config: dict[str, Any]) -> None:
        """Raises: ConfigError where the generator does not learn; StructureError"""
        generator = settings.generator
        if not generator.can_learn:
            raise ConfigError(
                f"generator={settings.options['generator']} cannot be trained; choose one that learns, e.g. mattergen"
            )
        structures = [atoms for path in self.structures for atoms in with_energies_above_hull(read_structures(path))]
        kept = [atoms for atoms in structures if atoms.info["e_above_hull"] <= self.max_e_above_hull]
        for atoms in kept:
            atoms.info["role"] = "label"
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{len(kept)} of {len(structures)} structures within {self.max_e_above_hull:g} eV/atom of the hull")
        checkpoint = generator.finetune(kept, folder, settings.seed)
        print(f"generator.checkpoint={checkpoint}")


def with_energies_above_hull(structures: Sequence[Atoms]) -> list[Atoms]:
    """Those that carry `e_above_hull`; for the others it is computed, by energy frame, against all of that frame.

    Raises: StructureError where there are no energies, or no elements for the hull
    """
    known = [atoms for atoms in structures if "e_above_hull" in atoms.info]
    frames: dict[tuple[str, str], list[Atoms]] = defaultdict(list)
    for number, atoms in enumerate(structures):
        if "e_above_hull" in atoms.info or not atoms.info.get("converged", True):
            continue
        who = next((who for who in SOURCES if f"{who}_energy" in atoms.info), None)
        if who is None or "energy_frame" not in atoms.info:
            raise StructureError(
                f"structure {number} carries neither e_above_hull nor an energy with its energy_frame; compute one"
            )
        frames[who, atoms.info["energy_frame"]].append(atoms)
    for (who, _), group in frames.items():
        energies: np.ndarray = energies_above_hull(group, group, who)
        for atoms, energy in zip(group, energies, strict=True):
            atoms.info["e_above_hull"] = float(energy)
    return known + [atoms for group in frames.values() for atoms in group]
