"""Energies above the hull, and which candidates are stable, unique and novel (S.U.N.), all in one energy frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ase import Atoms

from chemloop.physics.matching import Matcher
from chemloop.physics.structures import read_structures, write_structures
from chemloop.runtime.disk import read_json
from chemloop.runtime.errors import ConfigError, StructureError
from chemloop.runtime.item import Item
from chemloop.stages.crystal_keys import KEYS, read_keys, screened_before, write_keys
from chemloop.stages.relax import is_sun
from chemloop.stages.stage import METRICS, OUTPUT, Stage

if TYPE_CHECKING:
    from chemloop.physics.crystal_key import CrystalKey

LEAST_PER_PROCESS = 500
"""Structures; the keys of fewer are found before another process has started."""


@dataclass
class ScreenSettings:
    """stable_below: eV/atom above the hull below which a structure counts as stable; matcher: when two are equal."""

    stable_below: float = 0.1
    matcher: Matcher = field(default_factory=Matcher)

    def __post_init__(self) -> None:
        if self.stable_below <= 0:
            raise ConfigError(f"loop.screen.stable_below = {self.stable_below:g}: must be above 0 eV/atom")


class Screen(Stage):
    """output.extxyz: the candidates with `e_above_hull`, flags and space group, lowest first; keys.jsonl: keys of those
    that have converged, for the novelty of later ones.
    """

    name = "screen"

    def plan(self) -> list[Item]:
        return [self.plan_item(0)]

    def run(self, item: Item) -> Sequence[str]:
        from chemloop.physics.hull import energies_above_hull
        from chemloop.physics.matching import space_group

        relaxed = read_structures(self.earlier("relax", since=self.iteration)[0] / OUTPUT)
        kept = [atoms for atoms in relaxed if "dropped" not in atoms.info]
        hull = [atoms for atoms in kept if atoms.info["role"] != "candidate" and atoms.info["converged"]]
        candidates = [atoms for atoms in kept if atoms.info["role"] == "candidate"]
        require_elements(hull, self.settings.system.elements)
        for atoms, energy in zip(candidates, energies_above_hull(candidates, hull), strict=True):
            atoms.info["e_above_hull"] = float(energy)
            atoms.info["spacegroup"] = space_group(atoms)
        candidates.sort(key=lambda atoms: (not atoms.info["converged"], atoms.info["e_above_hull"], atoms.info["id"]))
        n_jobs = n_processes(self, len(candidates))
        references = [atoms for atoms in relaxed if atoms.info["role"] == "reference"]
        keys = flag(candidates, [*references, *screened_before(self, n_jobs)], self.settings.loop.screen, n_jobs)
        write_structures(item.folder / OUTPUT, candidates)
        known = [key for key, atoms in zip(keys, candidates, strict=True) if atoms.info["converged"]]
        write_keys(item.folder / KEYS, known, self.settings.loop.screen.matcher.bond_cutoffs, item.folder / OUTPUT)
        return [OUTPUT, KEYS]

    def collect(self, items: Sequence[Item]) -> dict[str, float]:
        candidates = self.merge(items, OUTPUT)
        cutoffs = self.settings.loop.screen.matcher.bond_cutoffs
        for item in items:
            if (item.folder / KEYS).exists():  # not where an earlier version of ChemLoop ran it
                keys = read_keys(item.folder / KEYS, cutoffs, item.folder / OUTPUT)
                write_keys(self.folder / KEYS, keys, cutoffs, self.folder / OUTPUT)
        finished = [atoms for atoms in candidates if atoms.info["converged"]]
        n_sun = sum(map(is_sun, candidates))
        n_generated = read_json(self.earlier("generate", since=self.iteration)[0] / METRICS)["generate/n_generated"]
        lowest = min((atoms.info["e_above_hull"] for atoms in finished), default=None)
        return {
            "n_screened": len(candidates),
            "n_stable": sum(atoms.info["is_stable"] for atoms in candidates),
            "n_unique": sum(atoms.info["is_unique"] for atoms in finished),
            "n_novel": sum(atoms.info["is_novel"] for atoms in finished),
            "n_sun": n_sun,
            "sun_fraction": n_sun / max(1, n_generated),
        } | ({} if lowest is None else {"lowest_e_above_hull_ev_per_atom": lowest})

    def final_files(self) -> list[Path]:
        return [*super().final_files(), self.folder / KEYS]


def flag(
    candidates: Sequence[Atoms], known: Sequence[Atoms | CrystalKey], settings: ScreenSettings, n_jobs: int = 1
) -> list[CrystalKey]:
    """Say of each candidate, in place, whether it is stable, unique among them and novel; returns their keys.

    Of duplicates the first is unique, but one that has not converged never makes a duplicate of one that has.
    n_jobs: processes
    """
    keys = settings.matcher.keys(candidates, n_jobs)
    order = sorted(range(len(keys)), key=lambda number: not candidates[number].info["converged"])
    first = settings.matcher.duplicates([keys[number] for number in order], n_jobs)
    is_known = settings.matcher.is_known(keys, known, n_jobs)
    for place, number in enumerate(order):
        info = candidates[number].info
        info["is_stable"] = bool(info["converged"]) and info["e_above_hull"] < settings.stable_below
        info["is_unique"] = first[place] == place
        info["is_novel"] = not is_known[number]
    return keys


def flag_labelled(structures: Sequence[Atoms], settings: ScreenSettings, n_jobs: int = 1) -> None:
    """The flags of the new ones among labelled structures, in place: novel where it equals no reference, unique where
    it equals no lower one.

    A label begins at perturbed copies and keeps one result, so a structure may end as another than it was screened as.
    structures: as the labeler relaxed them, with `e_above_hull` by the labels; n_jobs: processes
    """
    new = [atoms for atoms in structures if "-g" in atoms.info["id"]]
    references = [atoms for atoms in structures if "-g" not in atoms.info["id"]]
    new.sort(key=lambda atoms: (atoms.info["e_above_hull"], atoms.info["id"]))
    flag(new, references, settings, n_jobs)


def n_processes(stage: Stage, n_structures: int) -> int:
    """For matching in an item that has its stage to itself: all its cores, but none that costs more than it saves."""
    return max(1, min(stage.settings.compute.cpu.n_cores, n_structures // LEAST_PER_PROCESS))


def require_elements(hull: Sequence[Atoms], elements: Sequence[str]) -> None:
    """Raises: StructureError where an element has no converged reference of its own"""
    for element in elements:
        if not any(set(atoms.symbols) == {element} for atoms in hull):
            raise StructureError(
                f"no reference of {element} converged with the current force field, so there is no hull;"
                " raise loop.relax.max_steps or loop.relax.fmax"
            )
