"""Which labelled frames train and which test, how complete the pool is, and the hull by the labels themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ase import Atoms

from chemloop.physics.structures import read_structures, write_structures
from chemloop.runtime.disk import read_json, write_json, write_whole
from chemloop.runtime.errors import ConfigError
from chemloop.runtime.item import Item
from chemloop.runtime.ledger import Ledger
from chemloop.stages.exploration import CATALOGUE, COMPLETENESS, KINDS, SUMS, measure
from chemloop.stages.label import RELAXED
from chemloop.stages.screen import flag_labelled, n_processes
from chemloop.stages.stage import OUTPUT, Stage

if TYPE_CHECKING:
    import numpy as np

SPLIT = "split.json"
STATISTICS = "statistics.json"
COPIED = (SPLIT, COMPLETENESS, CATALOGUE, KINDS, SUMS)
"""What the stage has from its only item as it is."""


@dataclass
class CurateSettings:
    """Growth of the training set, and how the entropy of the pool is measured.

    n_train: frames added to the training set in each iteration that may train
    last_train_iteration: frames of later iterations are test frames
    n_environments: sample size at which entropies of the explored structures are compared; H is capped by log n, so
        only equal sizes compare
    n_repeats: random samples of that size, for the mean and its standard error
    n_neighbors, cutoff (A), bandwidth (1/A): of the environments whose entropy it is
    kind_radius: 1/A; environments closer than that to the first of their kind are of that kind, for counting kinds
    """

    n_train: int = 1000
    last_train_iteration: int = 3
    n_environments: int = 1000
    n_repeats: int = 5
    n_neighbors: int = 32
    cutoff: float = 5.0
    bandwidth: float = 0.015
    kind_radius: float = 0.1

    def __post_init__(self) -> None:
        for key, least in (("n_train", 1), ("n_environments", 1), ("n_repeats", 2), ("n_neighbors", 1)):
            if getattr(self, key) < least:
                raise ConfigError(f"loop.curate.{key} = {getattr(self, key)}: must be {least} or above")
        if self.last_train_iteration < 0:
            raise ConfigError(f"loop.curate.last_train_iteration = {self.last_train_iteration}: must be 0 or above")
        for key in ("cutoff", "bandwidth", "kind_radius"):
            if getattr(self, key) <= 0:
                raise ConfigError(f"loop.curate.{key} = {getattr(self, key):g}: must be above 0")


class Curate(Stage):
    """output.extxyz: the training frames; split.json: ids of train and test frames; relaxed.extxyz: labelled
    structures with their E_hull by the labels. What trains once stays: no model is tested on what it was trained on.

    completeness.json, catalogue.json: how complete the space is, and all motifs so far; kinds.npz: leaders of the kinds
    of environment that this iteration added, and how many structures hold each of all kinds; sums.npz: kernel sums of
    the training frames' environments, to which the next iteration adds its own
    """

    name = "curate"

    def plan(self) -> list[Item]:
        return [self.plan_item(0)]

    def run(self, item: Item) -> Sequence[str]:
        pool = self.pool()
        train = self._grown(pool, item.task["seed"])
        chosen = set(train)
        split = {"train": train, "test": [id for id in pool if id not in chosen]}
        write_structures(item.folder / OUTPUT, [pool[id] for id in train])
        write_json(item.folder / SPLIT, split)
        relaxed = self._label_hull()
        write_structures(item.folder / RELAXED, relaxed)
        energies = {atoms.info["id"]: atoms.info["e_above_hull"] for atoms in relaxed}
        statistics = measure(self, self._environments([pool[id] for id in train]), energies, item.folder)
        write_json(item.folder / STATISTICS, statistics)
        return [OUTPUT, RELAXED, STATISTICS, *COPIED]

    def pool(self) -> dict[str, Atoms]:
        """All labelled frames so far by their id, in the order in which they came."""
        folders = [path for name in ("seed", "label") for path in self.earlier(name)]
        return {atoms.info["id"]: atoms for path in folders for atoms in read_structures(path / OUTPUT)}

    def _grown(self, pool: dict[str, Atoms], seed: int) -> list[str]:
        before = self.earlier("curate")
        train: list[str] = read_json(before[-1] / SPLIT)["train"] if before else []
        settings = self.settings.loop.curate
        if self.iteration > settings.last_train_iteration:
            return train
        taken = set(train)
        candidates = [atoms for id, atoms in pool.items() if id not in taken]
        reference = [pool[id] for id in train]
        selection = self.settings.frames.select(candidates, reference, settings.n_train, seed)
        return train + [candidates[index].info["id"] for index in selection.indices]

    def _environments(self, frames: Sequence[Atoms]) -> list[np.ndarray]:
        from chemloop.physics.descriptors import environments

        settings = self.settings.loop.curate
        return environments(frames, self.settings.system.elements, settings.n_neighbors, settings.cutoff)

    def _label_hull(self) -> list[Atoms]:
        """Every labelled structure with its energy above the hull of the references and all of them, by the labels; new
        ones also with their flags, as the labeler relaxed them.
        """
        from chemloop.physics.hull import energies_above_hull

        structures = [
            atoms
            for name in ("seed", "label")
            for path in self.earlier(name)
            for atoms in read_structures(path / RELAXED)
        ]
        hull = [atoms for atoms in structures if atoms.info["converged"]]
        for atoms, energy in zip(structures, energies_above_hull(structures, hull, "label"), strict=True):
            atoms.info["e_above_hull"] = float(energy)
        flag_labelled(structures, self.settings.loop.screen, n_processes(self, len(structures)))
        return structures

    def collect(self, items: Sequence[Item]) -> dict[str, float]:
        (item,) = items
        train = self.merge(items, OUTPUT)
        relaxed = self.merge(items, RELAXED)
        split = read_json(item.folder / SPLIT)
        for name in COPIED:
            write_whole(self.folder / name, (item.folder / name).read_bytes())
        finds = [atoms for atoms in relaxed if atoms.info["converged"] and "-g" in atoms.info["id"]]
        lowest = min((atoms.info["e_above_hull"] for atoms in finds), default=None)
        return {
            "n_train": len(train),
            "n_test": len(split["test"]),
            "n_labelled_stable": sum(
                atoms.info["e_above_hull"] < self.settings.loop.screen.stable_below for atoms in finds
            ),
            **read_json(item.folder / STATISTICS),
        } | ({} if lowest is None else {"lowest_label_e_above_hull_ev_per_atom": lowest})

    def final_files(self) -> list[Path]:
        return [*super().final_files(), *(self.folder / name for name in (RELAXED, *COPIED))]

    def record_in(self, ledger: Ledger) -> None:
        ledger.record(read_structures(self.folder / RELAXED), self.name, self.iteration)
