"""How good samples of a generator are: relaxed and screened as the candidates of this iteration were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms

from chemloop.protocols import Generator
from chemloop.stages.crystal_keys import screened_before
from chemloop.stages.known import settled
from chemloop.stages.relax import Relax, is_sun
from chemloop.stages.relaxing import relax_to_end
from chemloop.stages.screen import flag
from chemloop.stages.stage import OUTPUT, Stage


def with_scorer(generator: Generator, stage: Stage) -> Generator:
    """The same generator; one that judges its checkpoints by their samples, by a field `scorer`, is told how, and so
    are those of its `members` that do.
    """
    score = SampleScore(stage)
    return _told(generator, score) if score.exists else generator


def _told(generator: Any, score: SampleScore) -> Any:
    if hasattr(generator, "members"):
        return replace(generator, members={name: _told(member, score) for name, member in generator.members.items()})
    return replace(generator, scorer=score) if hasattr(generator, "scorer") else generator


class SampleScore:
    """Of the iteration's relax stage, its force field and its hull, so nothing known is relaxed again.

    Iteration 0 has no such stage: `exists` says so.
    """

    def __init__(self, stage: Stage) -> None:
        self.relaxing = Relax(stage.campaign, stage.settings, stage.iteration)
        self.stage = stage

    @property
    def exists(self) -> bool:
        return (self.relaxing.folder / OUTPUT).exists()

    def __call__(self, structures: Sequence[Atoms]) -> tuple[np.ndarray, np.ndarray]:
        """(n,) eV/atom above the hull, nan where a relaxation came to nothing, and (n,) stable, unique and novel."""
        from chemloop.physics.hull import energies_above_hull

        known = [atoms for atoms in self.relaxing.output() if atoms.info["role"] != "candidate"]
        hull = [atoms for atoms in known if atoms.info["converged"] and "dropped" not in atoms.info]
        energies, sun = np.full(len(structures), np.nan), np.zeros(len(structures), dtype=bool)
        results = relax_to_end(self.relaxing, structures)
        kept = [number for number, result in enumerate(results) if result.rejection is None]
        relaxed = [results[number].atoms for number in kept]
        for atoms, energy in zip(relaxed, energies_above_hull(relaxed, hull), strict=True):
            atoms.info["e_above_hull"] = float(energy)
        flag(relaxed, [*settled(known), *screened_before(self.stage)], self.relaxing.settings.loop.screen)
        energies[kept] = [atoms.info["e_above_hull"] for atoms in relaxed]
        sun[kept] = [is_sun(atoms) for atoms in relaxed]
        return energies, sun
