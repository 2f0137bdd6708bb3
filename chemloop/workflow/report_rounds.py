"""For the report: the finished stages of each iteration, and their structures, read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ase import Atoms

from chemloop.loop import finished_iterations
from chemloop.physics.structures import read_structures
from chemloop.runtime.campaign import Campaign
from chemloop.stages.label import RELAXED
from chemloop.stages.relax import converged
from chemloop.stages.screen import flag_labelled
from chemloop.stages.stage import Stage

if TYPE_CHECKING:
    from chemloop.config import Settings


@dataclass
class Round:
    """One iteration; stages: its finished ones by name."""

    number: int
    stages: dict[str, Stage]

    @cached_property
    def references(self) -> list[Atoms]:
        """Known structures that the labeler relaxed to the end; of iteration 0."""
        return converged(self.stages["seed"].folder / RELAXED) if "seed" in self.stages else []

    @cached_property
    def relaxed(self) -> list[Atoms]:
        """Everything that the force field relaxed."""
        return self.stages["relax"].output() if "relax" in self.stages else []

    @cached_property
    def screened(self) -> list[Atoms]:
        """Candidates with E_hull and flags."""
        return self.stages["screen"].output() if "screen" in self.stages else []

    @property
    def candidates(self) -> list[Atoms]:
        """The screened ones that were relaxed to the end."""
        return [atoms for atoms in self.screened if atoms.info["converged"]]


def read_rounds(campaign: Campaign, settings: Settings) -> list[Round]:
    """All iterations that have finished stages."""
    found = enumerate(finished_iterations(campaign, settings))
    return [Round(number, {stage.name: stage for stage in stages}) for number, stages in found]


def having(rounds: Sequence[Round], *names: str) -> Iterator[Round]:
    """The iterations in which these stages are finished."""
    return (each for each in rounds if all(name in each.stages for name in names))


def labelled(rounds: Sequence[Round]) -> list[Atoms]:
    """Every converged structure as the labeler relaxed it, with E_hull and flags by the labels (newest curate)."""
    curated = list(having(rounds, "curate"))
    if not curated:
        return []
    stage = curated[-1].stages["curate"]
    structures = read_structures(stage.folder / RELAXED)
    if any("-g" in atoms.info["id"] and "is_novel" not in atoms.info for atoms in structures):
        # an earlier version of ChemLoop did not judge labelled structures
        flag_labelled(structures, stage.settings.loop.screen)
    return [atoms for atoms in structures if atoms.info["converged"]]
