"""What each generator has achieved: how many of its structures are any good, and the time that they took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ase import Atoms

from chemloop.physics.structures import read_structures
from chemloop.runtime.disk import read_json
from chemloop.stages.generate import ROUNDS
from chemloop.stages.proposals import read_proposals, yields_in
from chemloop.stages.relax import is_sun
from chemloop.stages.relaxing import COARSE, COSTS, FINE
from chemloop.stages.stage import OUTPUT, Stage, stage_folder


def achieved(stage: Stage) -> list[dict[str, Any]]:
    """An entry for each iteration so far and each generator that tried: iteration, generator, n_proposed, n_valid,
    n_sun, and the cpu_seconds of generating and relaxing, as far as they are known.
    """
    entries: list[dict[str, Any]] = []
    for iteration in range(1, stage.iteration + 1):
        generate, relax, screen = (
            stage_folder(stage.campaign, iteration, name) for name in ("generate", "relax", "screen")
        )
        proposals = read_proposals(generate)
        n_sun = Counter(atoms.info["generator"] for atoms in read_structures(screen / OUTPUT) if is_sun(atoms))
        seconds = generating_seconds(generate, stage.settings.options["generator"]) + relaxing_seconds(relax)
        for name in proposals.generators:
            row = proposals.of_generator(name)
            counts = {"n_proposed": row.n_proposed, "n_valid": row.n_valid, "n_sun": n_sun[name]}
            spent = round(seconds[name], 3)
            entries.append({"iteration": iteration, "generator": name, **counts, "cpu_seconds": spent})
    return entries


def generating_seconds(folder: Path, generator: str) -> Counter[str]:
    """By generator: what it says that its attempts took, else the wall time of the item by what it proposed there.

    folder: of a generate stage; generator: the one that the stage asks
    """
    seconds: Counter[str] = Counter()
    for item in _done(folder):
        yields = [yields_in(path, generator) for path in (item, *sorted(item.glob(ROUNDS)))]
        told = [(name, counts["cpu_seconds"]) for each in yields for name, counts in each.items()]
        for name, spent in told:
            seconds[name] += spent
        if not told:
            made = read_proposals(item)
            shares = {name: made.of_generator(name).n_proposed for name in made.generators}
            _share(_wall_seconds(item), shares, seconds)
    return seconds


def relaxing_seconds(folder: Path) -> Counter[str]:
    """By generator: the CPU time of each part of the relaxation, in proportion to its steps times atoms of a structure.

    folder: of a relax stage; of items that earlier versions left, without the time of the parts, the wall time counts
    """
    seconds: Counter[str] = Counter()
    for item in _done(folder):
        has_parts = (item / COSTS).exists()
        shares = {COARSE: Counter[str](), FINE: Counter[str]()}
        for atoms in read_structures(item / OUTPUT):
            # those that were known before cost as much, but nobody proposed them
            name = atoms.info["generator"] if atoms.info["role"] == "candidate" else ""
            for part, n in evaluations(atoms, has_parts).items():
                shares[part][name] += n * len(atoms)
        costs = read_json(item / COSTS) if has_parts else {FINE: _wall_seconds(item)}
        for part, spent in costs.items():
            _share(spent, shares[part], seconds)
    return seconds


def evaluations(atoms: Atoms, has_parts: bool) -> dict[str, int]:
    """How often a relaxed structure was evaluated in each part: once more than it made steps, where it took part."""
    n_steps = int(atoms.info["n_relax_steps"])
    n_coarse = int(atoms.info["n_coarse_steps"]) if has_parts else 0
    is_finished = n_steps > n_coarse or "dropped" not in atoms.info
    return {COARSE: n_coarse + 1, FINE: n_steps - n_coarse + 1 if is_finished else 0}


def _done(folder: Path) -> Iterator[Path]:
    return (marker.parent for marker in sorted((folder / "items").glob("*/DONE")))


def _wall_seconds(item: Path) -> float:
    return float(read_json(item / "DONE")["wall_s"])


def _share(spent: float, shares: Mapping[str, int], seconds: Counter[str]) -> None:
    total = sum(shares.values())
    for name, share in shares.items():
        seconds[name] += spent * share / total if total else 0  # type: ignore[assignment]  # counters count seconds too
