"""New crystals from the generator, and which of them are worth relaxing."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ase import Atoms
from ase.data import atomic_numbers

from chemloop.physics.geometry import KnownGeometry
from chemloop.physics.structures import PROVENANCE, check_structure, read_structures, write_structures
from chemloop.physics.validity import OUTSIDE, Bounds, find_fault
from chemloop.runtime.disk import write_json
from chemloop.runtime.errors import ConfigError, ItemFailed, StructureError
from chemloop.runtime.item import Item, derived_seed
from chemloop.stages.crystal_keys import KEYS, generated_before, read_keys, write_keys
from chemloop.stages.proposals import PROPOSALS, YIELD, Proposals, read_proposals, yields_in
from chemloop.stages.stage import OUTPUT, Stage, current_generator
from chemloop.system import System

if TYPE_CHECKING:
    from chemloop.config import Settings
    from chemloop.physics.crystal_key import CrystalKey

TOPOLOGY = ("off", "keep", "enforce")
INVALID = "invalid geometry"
ROUNDS = "round-*"
"""Folders in that of an item, for the second time that it asks and all later ones."""


@dataclass
class GenerateSettings:
    """n: structures per iteration; per_item: structures per worker item.

    e_above_hull: eV/atom, the values that a conditional generator is asked for, in equal shares
    min_distance_scale: times the shortest distance of each pair of elements in known structures; structures with closer
        atoms are dropped; 0 = none is
    volume_scale: times the smallest and the largest volume per atom of known structures; others are dropped
    min_atoms, max_atoms: in the cell as generated; null = any number
    max_outside: an item fails where a larger fraction of its structures has elements that the system lacks
    topology: what `system.topology` is for; off: nothing; keep: structures that break it are dropped; enforce: and
        others are asked for, up to `max_rounds` times in all
    """

    n: int = 64
    per_item: int = 8
    e_above_hull: list[float] = field(default_factory=lambda: [0.0])
    min_distance_scale: float = 0.7
    volume_scale: list[float] = field(default_factory=lambda: [0.5, 2.0])
    min_atoms: int | None = None
    max_atoms: int | None = None
    max_outside: float = 0.5
    topology: str = "off"
    max_rounds: int = 10

    def __post_init__(self) -> None:
        for key in ("n", "per_item", "max_rounds"):
            if getattr(self, key) < 1:
                raise ConfigError(f"loop.generate.{key} = {getattr(self, key)}: must be 1 or above")
        if not self.e_above_hull:
            raise ConfigError("loop.generate.e_above_hull is empty: give at least one value in eV/atom")
        for key in ("min_distance_scale", "max_outside"):
            if not 0 <= getattr(self, key) <= 1:
                raise ConfigError(f"loop.generate.{key} = {getattr(self, key):g}: must be between 0 and 1")
        low_high = self.volume_scale
        if len(low_high) != 2 or not 0 < low_high[0] <= low_high[1]:
            raise ConfigError(f"loop.generate.volume_scale = {low_high}: must be two numbers above 0, ascending")
        for key, least in (("min_atoms", 1), ("max_atoms", self.min_atoms or 1)):
            if (value := getattr(self, key)) is not None and value < least:
                raise ConfigError(f"loop.generate.{key} = {value}: must be {least} or above, or null for any number")
        if self.topology not in TOPOLOGY:
            raise ConfigError(
                f"loop.generate.topology = {self.topology!r}: must be one of {', '.join(TOPOLOGY)}, in a file in quotes"
            )

    @property
    def n_rounds(self) -> int:
        """How often an item asks the generator, at most."""
        return self.max_rounds if self.topology == "enforce" else 1


class Generate(Stage):
    """output.extxyz: the valid structures, no two of them equal, and none equal to one of an earlier iteration, with
    what is known of their birth; keys.jsonl: their keys, for later iterations; proposals.json: how many were proposed,
    and why the others were dropped.

    What a structure shows by itself is checked where it is made, the topology last; what was proposed before and
    duplicates are found at the end, among those of all items.
    """

    name = "generate"
    resource = "gpu"
    component = "generator"

    def plan(self) -> list[Item]:
        settings = self.settings.loop.generate
        conditions = settings.e_above_hull
        shares = [len(range(k, settings.n, len(conditions))) for k in range(len(conditions))]
        items: list[Item] = []
        for value, share in zip(conditions, shares, strict=True):
            for start in range(0, share, settings.per_item):
                n = min(settings.per_item, share - start)
                items.append(self.plan_item(len(items), n=n, conditions={"energy_above_hull": value}))
        return items

    def run(self, item: Item) -> Sequence[str]:
        task, settings = item.task, self.settings
        generator, name = current_generator(self), settings.options["generator"]
        proposals = Proposals()
        valid: list[Atoms] = []
        keys: list[CrystalKey] = []
        outputs = [OUTPUT, PROPOSALS, KEYS]
        for number, folder in enumerate(round_folders(item.folder, settings.loop.generate.n_rounds)):
            n = task["n"] - len(valid)
            if n == 0:
                break
            folder.mkdir(exist_ok=True)
            seed = derived_seed(task["seed"], number) if number else task["seed"]
            made = generator.generate(n, settings.system.elements, task["conditions"], seed, folder)[:n]
            born = [self._born(atoms, item, proposals.n_proposed + k) for k, atoms in enumerate(made)]
            self._sort_out(born, proposals, valid, keys)
            self._check_outside(proposals)
            if yields := yields_in(folder, name):
                proposals.count_yields(yields)
                outputs.append(os.path.relpath(folder / YIELD, item.folder))
        proposals.n_missing = max(0, task["n"] - proposals.n_proposed)
        write_structures(item.folder / OUTPUT, valid)
        write_json(item.folder / PROPOSALS, proposals.to_json())
        write_keys(item.folder / KEYS, keys, settings.loop.screen.matcher.bond_cutoffs)
        return outputs

    def _born(self, atoms: Atoms, item: Item, number: int) -> Atoms:
        """The crystal alone, with its id and what is known of its birth."""
        crystal = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        crystal.info["id"] = f"i{self.iteration:02d}-g{int(item.folder.name):03d}-{number:04d}"
        crystal.info["generator"] = self.settings.options["generator"]
        crystal.info |= {key: str(atoms.info[key]) for key in PROVENANCE if key in atoms.info}
        return crystal

    def _sort_out(
        self, born: Sequence[Atoms], proposals: Proposals, valid: list[Atoms], keys: list[CrystalKey]
    ) -> None:
        """Count all, and add the valid ones and their keys."""
        for atoms in born:
            fault = fault_of(atoms, self.settings)
            if fault is None:
                try:
                    keys += self.settings.loop.screen.matcher.keys([atoms])
                    valid.append(atoms)
                except StructureError:
                    fault = INVALID
            proposals.count(atoms, fault)

    def _check_outside(self, proposals: Proposals) -> None:
        n, n_outside = proposals.n_proposed, proposals.dropped[OUTSIDE]
        limit = self.settings.loop.generate.max_outside
        if n_outside > limit * n:
            culprits = sorted({row.generator for row in proposals.made.values() if row.dropped[OUTSIDE]})
            raise ItemFailed(
                f"{n_outside} of {n} structures by generator {', '.join(culprits)} have elements other than"
                f" {', '.join(self.settings.system.elements)}; loop.generate.max_outside allows a fraction of"
                f" {limit:g}; see whether it is meant for this system, or raise that limit"
            )

    def collect(self, items: Sequence[Item]) -> dict[str, float]:
        matcher = self.settings.loop.screen.matcher
        structures = [atoms for item in items for atoms in read_structures(item.folder / OUTPUT)]
        keys = [key for item in items for key in read_keys(item.folder / KEYS, matcher.bond_cutoffs)]
        proposals = Proposals()
        for item in items:
            proposals += read_proposals(item.folder)
        is_repeated, first = matcher.is_known(keys, generated_before(self)), matcher.duplicates(keys)
        valid: list[Atoms] = []
        valid_keys: list[CrystalKey] = []
        for number, (atoms, key) in enumerate(zip(structures, keys, strict=True)):
            if is_repeated[number] or first[number] != number:
                proposals.drop(atoms, "proposed before" if is_repeated[number] else "duplicate")
            else:
                valid.append(atoms)
                valid_keys.append(key)
        write_structures(self.folder / OUTPUT, valid)
        write_keys(self.folder / KEYS, valid_keys, matcher.bond_cutoffs, self.folder / OUTPUT)
        write_json(self.folder / PROPOSALS, proposals.to_json())
        return {"n_asked": self.settings.loop.generate.n, "n_valid": len(valid), **proposals.metrics()}

    @property
    def notice(self) -> str | None:
        """What generators warn of, such as conditions outside of what they were trained on."""
        warnings = read_proposals(self.folder).warnings
        return "; ".join(f"{name}: {warning}" for name in sorted(warnings) for warning in warnings[name]) or None

    def final_files(self) -> list[Path]:
        return [*super().final_files(), self.folder / PROPOSALS, self.folder / KEYS]


def round_folders(item: Path, n_rounds: int) -> list[Path]:
    """Where the generator works each time that an item asks it: first in the item's own folder."""
    return [item, *(item / ROUNDS.replace("*", f"{number:02d}") for number in range(1, n_rounds))]


def fault_of(atoms: Atoms, settings: Settings) -> str | None:
    """Why a proposed structure is not valid by itself, in words that are the same for all of its kind; else None."""
    try:
        check_structure(atoms)
    except StructureError:
        return INVALID
    fault = find_fault(atoms, bounds_of(settings))
    topology = settings.system.topology
    if fault is None and topology is not None and settings.loop.generate.topology != "off":
        from chemloop.physics.topology import breaks

        broken = breaks(atoms, topology, settings.system.bond_cutoffs)
        return None if broken is None else f"topology: {broken}"
    return fault


def bounds_of(settings: Settings) -> Bounds:
    """What `loop.generate` allows, by the known structures of the system."""
    system, limits = settings.system, settings.loop.generate
    known = _known_geometry(tuple(system.elements), system.reference, system.min_distance_ratio, system.downloads)
    return Bounds.of(known, limits.min_distance_scale, limits.volume_scale, limits.min_atoms, limits.max_atoms)


@functools.lru_cache(maxsize=1)
def _known_geometry(
    elements: tuple[str, ...], reference: str | None, min_distance_ratio: float, downloads: str
) -> KnownGeometry:
    # a second to read, and the same for all items of a worker
    system = System(list(elements), reference, min_distance_ratio=min_distance_ratio, downloads=downloads)
    return KnownGeometry.of(system.references(), [atomic_numbers[element] for element in elements])


def generated(stage: Stage) -> list[Atoms]:
    """The valid structures that this iteration's generate stage left."""
    return read_structures(stage.earlier("generate", since=stage.iteration)[0] / OUTPUT)
