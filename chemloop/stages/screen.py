"""Energies above the hull, and which candidates are stable, unique and novel (S.U.N.), all in one energy frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ase import Atoms

from chemloop.physics.matching import Matcher
from chemloop.physics.structures import read_structures, write_structures
from chemloop.runtime.disk import read_json
from chemloop.runtime.errors import ConfigError, StructureError
from chemloop.runtime.item import Item
from chemloop.stages.relax import is_sun
from chemloop.stages.stage import METRICS, OUTPUT, Stage


@dataclass
class ScreenSettings:
    """stable_below: eV/atom above the hull below which a structure counts as stable; matcher: when two are equal."""

    stable_below: float = 0.1
    matcher: Matcher = field(default_factory=Matcher)

    def __post_init__(self) -> None:
        if self.stable_below <= 0:
            raise ConfigError(f"loop.screen.stable_below = {self.stable_below:g}: must be above 0 eV/atom")


class Screen(Stage):
    """output.extxyz: the candidates with `e_above_hull`, flags and space group, lowest first."""

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
        known = self._known([atoms for atoms in relaxed if atoms.info["role"] == "reference"])
        flag(candidates, known, self.settings.loop.screen)
        write_structures(item.folder / OUTPUT, candidates)
        return [OUTPUT]

    def _known(self, references: Sequence[Atoms]) -> list[Atoms]:
        earlier = [atoms for path in self.earlier("screen") for atoms in read_structures(path / OUTPUT)]
        return [*references, *earlier]

    def collect(self, items: Sequence[Item]) -> dict[str, float]:
        candidates = self.merge(items, OUTPUT)
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


def flag(candidates: Sequence[Atoms], known: Sequence[Atoms], settings: ScreenSettings) -> None:
    """Say of each candidate, in place, whether it is stable, unique among them and novel; of duplicates the first is
    unique.
    """
    first = settings.matcher.duplicates(candidates)
    is_known = settings.matcher.is_known(candidates, known)
    for number, atoms in enumerate(candidates):
        is_converged = bool(atoms.info["converged"])
        atoms.info["is_stable"] = is_converged and atoms.info["e_above_hull"] < settings.stable_below
        atoms.info["is_unique"] = first[number] == number
        atoms.info["is_novel"] = not is_known[number]


def require_elements(hull: Sequence[Atoms], elements: Sequence[str]) -> None:
    """Raises: StructureError where an element has no converged reference of its own"""
    for element in elements:
        if not any(set(atoms.symbols) == {element} for atoms in hull):
            raise StructureError(
                f"no reference of {element} converged with the current force field, so there is no hull;"
                " raise loop.relax.max_steps or loop.relax.fmax"
            )
