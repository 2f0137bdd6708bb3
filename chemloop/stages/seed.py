"""Iteration 0: the known structures of the system at the campaign's own level of theory; they define the hull."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ase import Atoms

from chemloop.physics.structures import read_structures
from chemloop.runtime.errors import ConfigError, StructureError
from chemloop.runtime.item import Item
from chemloop.stages.exploration import check_sample_size
from chemloop.stages.label import Label


@dataclass
class SeedSettings:
    """max_atoms: references with larger cells are left out, except the smallest of an element; null = none."""

    max_atoms: int | None = None

    def __post_init__(self) -> None:
        if self.max_atoms is not None and self.max_atoms < 1:
            raise ConfigError(f"loop.seed.max_atoms = {self.max_atoms}: must be 1 or above, or null for no limit")


class Seed(Label):
    name = "seed"
    is_reference = True

    def plan(self) -> list[Item]:
        """Before any label is computed, what cannot come to anything is refused: only references are explored first."""
        n_atoms = sum(map(len, self.structures()))
        check_sample_size(self.settings.loop.curate.n_environments, n_atoms, "the references")
        return super().plan()

    def structures(self) -> list[Atoms]:
        return self.settings.system.references(self.settings.loop.seed.max_atoms)

    def collect(self, items: Sequence[Item]) -> dict[str, float]:
        metrics = super().collect(items)
        relaxed = read_structures(self.folder / "relaxed.extxyz")
        for element in self.settings.system.elements:
            if not any(atoms.info["converged"] and set(atoms.symbols) == {element} for atoms in relaxed):
                raise StructureError(
                    f"no reference of {element} converged at the campaign's level of theory, so there is no hull;"
                    f" give system.reference another structure of {element}, or the labeler more steps"
                )
        return metrics
