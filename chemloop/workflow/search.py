"""`workflow=search`: new crystals near the hull by one force field that stays as it is; no labels, no fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ase import Atoms

from chemloop.physics.structures import read_structures
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.disk import write_json
from chemloop.runtime.ledger import Ledger
from chemloop.stages.generate import Generate
from chemloop.stages.known import converged, known_folder
from chemloop.stages.learn import Learn
from chemloop.stages.prepare import Prepare
from chemloop.stages.relax import Known, Relax
from chemloop.stages.screen import Screen
from chemloop.stages.stage import OUTPUT, Stage, stage_folder
from chemloop.tracker import Point
from chemloop.workflow.ledger import rebuild

if TYPE_CHECKING:
    from chemloop.config import Settings

FIRST: tuple[type[Stage], ...] = (Prepare, Known)
EVERY: tuple[type[Stage], ...] = (Generate, Relax, Screen)
NEAR = (0.0, 0.03, 0.1)
"""eV/atom above the hull of the references, below which new structures are counted."""


class LearnFromSearch(Learn):
    """The generator learns from the known structures and the candidates, all by the force field."""

    def pool(self) -> list[Atoms]:
        """As one force field has them all, their energies are above one hull, that of all of them."""
        from chemloop.physics.hull import energies_above_hull

        references, candidates = reference_hull(self.campaign), self.candidates()
        for atoms in references:
            atoms.info["role"] = "label"
        found = references + [atoms for atoms in candidates if atoms.info["role"] == "candidate"]
        for atoms, energy in zip(found, energies_above_hull(found, found), strict=True):
            atoms.info["e_above_hull"] = float(energy)
        return references + candidates


@dataclass
class Search:
    """n_shown: new structures in the summary, lowest first."""

    n_shown: int = 20

    def run(self, campaign: Campaign, settings: Settings, config: dict[str, Any]) -> None:
        campaign.begin(config)
        with campaign.drive():
            print(f"search {campaign.name} in {campaign.folder}", flush=True)
            search(campaign, settings, config)
        show_summary(campaign, settings, self.n_shown)


def search(campaign: Campaign, settings: Settings, config: dict[str, Any]) -> None:
    """loop.max_iterations rounds of generate, relax, screen and, for a generator that can, learn."""
    (campaign.folder / "DONE").unlink(missing_ok=True)
    if not campaign.ledger.exists():
        rebuild(campaign, settings)
    tracker, history = settings.tracker, list[Point]()
    tracker.begin(campaign.folder, config)
    try:
        for iteration in range(settings.loop.max_iterations + 1):
            metrics: dict[str, float] = {}
            for stage in stages_of(campaign, settings, iteration):
                metrics |= stage.ensure()
                history.extend(stage.points())
                tracker.show(history)
                if stage.notice is not None:
                    print(f"notice: {stage.notice}", flush=True)
            print(iteration_line(iteration, metrics), flush=True)
    finally:
        is_shown = tracker.end()
    write_json(
        campaign.folder / "DONE",
        {"outputs": {}, "iterations": settings.loop.max_iterations, "is_shown": is_shown},
    )


def stages_of(campaign: Campaign, settings: Settings, iteration: int) -> Iterator[Stage]:
    """The stages of one iteration in their order; iteration 0 is the known structures."""
    kinds = EVERY if iteration else FIRST
    if settings.generator.can_learn:
        kinds = (*kinds, LearnFromSearch)
    return (kind(campaign, settings, iteration) for kind in kinds)


def reference_hull(campaign: Campaign) -> list[Atoms]:
    """The known structures as the force field relaxed them, those that converged."""
    return converged(known_folder(campaign, 0) / OUTPUT)


def new_structures(campaign: Campaign, n_iterations: int) -> list[Atoms]:
    """Converged, unique and novel structures of the first iterations, with `e_above_hull` above the hull of the
    references alone (eV/atom, negative below it) and `iteration`, lowest first.
    """
    from chemloop.physics.hull import energies_above_hull

    found = []
    for iteration in range(1, n_iterations + 1):
        for atoms in read_structures(stage_folder(campaign, iteration, "screen") / OUTPUT):
            if all(atoms.info[flag] for flag in ("converged", "is_unique", "is_novel")):
                atoms.info["iteration"] = iteration
                found.append(atoms)
    for atoms, energy in zip(found, energies_above_hull(found, reference_hull(campaign)), strict=True):
        atoms.info["e_above_hull"] = float(energy)
    return sorted(found, key=lambda atoms: (atoms.info["e_above_hull"], atoms.info["id"]))


def iteration_line(iteration: int, metrics: dict[str, float]) -> str:
    """What came out of one iteration, in one line."""
    if iteration == 0:
        return f"iteration 0 | {metrics['relax/n_known']:.0f} known structures relaxed"
    counts = (
        ("generated", "generate/n_generated"),
        ("valid", "generate/n_valid"),
        ("converged", "relax/n_converged"),
        ("stable", "screen/n_stable"),
        ("S.U.N.", "screen/n_sun"),
    )
    lowest = metrics.get("screen/lowest_e_above_hull_ev_per_atom")
    parts = [f"{metrics[key]:.0f} {name}" for name, key in counts]
    parts.append("lowest E_hull " + ("none" if lowest is None else f"{lowest:+.3f} eV/atom"))
    return f"iteration {iteration} | {', '.join(parts)}"


def show_summary(campaign: Campaign, settings: Settings, n_shown: int) -> None:
    """How many new structures lie near the hull of the references, and the lowest of them."""
    found = new_structures(campaign, settings.loop.max_iterations)
    print(f"\nnew structures, unique and relaxed to the end: {len(found)}; above the hull of the references:")
    for limit, n in zip(NEAR, counts_below(found, NEAR), strict=True):
        print(f"  below {1000 * limit:4.0f} meV/atom  {n:5d}")
    print(f"\n{'id':14s} {'formula':12s} {'space group':12s} {'meV/atom':>9s} {'generator':12s} operator")
    for atoms in found[:n_shown]:
        info = atoms.info
        formula = atoms.symbols.formula.reduce()[0].format("metal")
        origin = f"{info.get('generator', '-'):12s} {info.get('operator', '-')}"
        print(f"{info['id']:14s} {formula:12s} {info['spacegroup']:12s} {1000 * info['e_above_hull']:9.1f} {origin}")
    print(f"\ndatabase  {campaign.ledger} ({len(Ledger(campaign.ledger).rows())} structures)")


def counts_below(found: Sequence[Atoms], limits: Sequence[float]) -> list[int]:
    """How many lie below each limit, eV/atom above the hull."""
    return [sum(atoms.info["e_above_hull"] < limit for atoms in found) for limit in limits]
