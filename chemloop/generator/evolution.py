"""Evolution: children of the best structures so far, by USPEX's and SPINNER's operators, and new random crystals."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar

import numpy as np
from ase import Atoms

from chemloop.generator.evolution_checkpoint import read_factors, read_parents, write_checkpoint
from chemloop.generator.operator_yield import OperatorYield
from chemloop.generator.random import (
    RandomGenerator,
    is_neutral,
    known_geometry,
    whole_number,
)
from chemloop.physics.breeding import Breeder, Draft
from chemloop.physics.composition import MAX_COMPOSITIONS, cell_compositions, distance_to_known, n_compositions
from chemloop.physics.composition_space import CompositionSpace
from chemloop.physics.geometry import KnownGeometry
from chemloop.physics.parents import choose_parents, mating_weights, operator_success
from chemloop.reference import read_reference
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import ConfigError
from chemloop.runtime.item import derived_seed
from chemloop.runtime.time_limit import TimeLimitExceeded, time_limit

CHECKPOINT = "checkpoint"
METRICS = "metrics.json"
RANDOM = "random"
NAME = "evolution"
DEFAULT_WEIGHTS = {
    "heredity": 0.2,
    "strain": 0.05,
    "permutation": 0.2,
    "soft": 0.15,
    "exchange": 0.15,
    "addition": 0.05,
    "removal": 0.1,
    RANDOM: 0.1,
}


@dataclass
class EvolutionGenerator:
    """Evolution as configured: `conf/generator/evolution.yaml`."""

    can_learn: ClassVar[bool] = True
    understands: ClassVar[tuple[str, ...]] = ("n_atoms",)

    reference: str | None
    downloads: str = "outputs/references"
    checkpoint: str | None = None
    min_atoms: int = 4
    max_atoms: int = 24
    operators: dict[str, float] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    adapt_operators: bool = True
    n_parents: int = 100
    max_per_composition: int = 4
    max_e_above_hull: float = 0.2
    same_energy: float = 0.001
    temperature: float = 0.05
    subsystem_shares: list[float] = field(default_factory=lambda: [0.1, 0.4, 0.5])
    charge_balance_weight: float = 3.0
    known_composition_weight: float = 3.0
    known_composition_width: float = 0.05
    max_change: int = 4
    composition_width: float = 2.0
    strain: float = 0.35
    displacement: list[float] = field(default_factory=lambda: [1.0, 2.5])
    n_neighbours: int | None = 5
    min_distance_scale: float = 1.0
    volume_scale: list[float] = field(default_factory=lambda: [0.9, 1.2])
    n_pushes: int = 100
    attempts_per_crystal: int = 20
    timeout_s_per_crystal: float = 5.0

    def __post_init__(self) -> None:
        self._random()  # checks what both have
        for key in ("n_parents", "max_per_composition", "max_change"):
            self._require(key, getattr(self, key) >= 1, "1 or above")
        for key in ("temperature", "composition_width", "strain"):
            self._require(key, 0 < getattr(self, key) < math.inf, "above 0")
        for key in ("max_e_above_hull", "same_energy"):
            self._require(key, 0 <= getattr(self, key) < math.inf, "0 or above")
        low_high = self.displacement
        self._require(
            "displacement", len(low_high) == 2 and 0 < low_high[0] <= low_high[1], "two numbers above 0, ascending"
        )
        unknown = sorted(set(self.operators) - set(DEFAULT_WEIGHTS))
        if unknown:
            raise ConfigError(f"generator.operators has {', '.join(unknown)}; allowed are {', '.join(DEFAULT_WEIGHTS)}")
        weights = list(self.operators.values())
        self._require("operators", len(weights) > 0 and min(weights) >= 0 < sum(weights), "0 or above, not all 0")

    def _require(self, key: str, is_met: bool, allowed: str) -> None:
        if not is_met:
            raise ConfigError(f"generator.{key} = {getattr(self, key)}: must be {allowed}")

    def _random(self) -> RandomGenerator:
        """generator=random, which injects crystals without parents; what is not a field here has its own default."""
        shared = {field.name for field in fields(RandomGenerator)} & {field.name for field in fields(self)}
        return RandomGenerator(**{key: getattr(self, key) for key in shared - {"checkpoint"}})

    def generate(
        self, n: int, elements: Sequence[str], conditions: dict[str, float], seed: int, workdir: Path
    ) -> list[Atoms]:
        """At most n crystals, fewer where `attempts_per_crystal` * n attempts do not yield them.

        conditions: n_atoms asks for cells of just that many atoms, whatever min_atoms and max_atoms are. Every crystal
        has `generator`, `operator` and, where it has any, `parents`. Every attempt has a random stream of its own, so
        one that runs into its time limit changes no other. `yield.json` in `workdir` counts what became of the
        attempts, by operator too.

        Raises: CheckpointError; ConfigError where nothing can be made of the parents in cells of the allowed size
        """
        low, high = self.min_atoms, self.max_atoms
        if "n_atoms" in conditions:
            low = high = whole_number(conditions["n_atoms"])
        breeder = self._breeder(tuple(elements), low, high)
        weights = self._weights(breeder, low, high)
        tally = OperatorYield()
        n_random = int(np.random.default_rng([seed, 0]).binomial(n, weights.pop(RANDOM, 0.0)))
        crystals = self._inject(n_random, elements, conditions, seed, workdir, tally) if n_random else []
        for attempt in range(self.attempts_per_crystal * n if weights else 0):
            if len(crystals) == n:
                break
            rng = np.random.default_rng([seed, 1, attempt])
            operator = str(rng.choice(list(weights), p=np.array(list(weights.values())) / sum(weights.values())))
            begin = time.process_time()
            try:
                with time_limit(self.timeout_s_per_crystal):
                    draft = breeder.breed(operator, rng)
            except TimeLimitExceeded:
                draft = Draft(None, [], "time limit")
            tally.add(operator, draft.reason, time.process_time() - begin)
            if draft.child is not None:
                ids = [breeder.parents[number].info["id"] for number in draft.parents]
                draft.child.info.update(generator=NAME, operator=operator, parents=" ".join(ids))
                crystals.append(draft.child)
        write_json(workdir / "yield.json", tally.report())
        return crystals

    def _inject(
        self,
        n: int,
        elements: Sequence[str],
        conditions: dict[str, float],
        seed: int,
        workdir: Path,
        tally: OperatorYield,
    ) -> list[Atoms]:
        """At most n random symmetric crystals."""
        folder = workdir / RANDOM
        folder.mkdir(exist_ok=True)
        # with this seed itself, its first composition would be drawn with the number that decided how many there are
        crystals = self._random().generate(n, elements, conditions, derived_seed(seed, RANDOM), folder)
        for atoms in crystals:
            atoms.info.update(generator=NAME, operator=RANDOM)
        counted = read_json(folder / "yield.json")
        tally.add_all(RANDOM, counted["attempts"], counted["rejected"], counted["cpu_seconds"])
        return crystals

    def finetune(self, structures: Sequence[Atoms], workdir: Path, seed: int) -> str:
        """The folder of the parents and of the success of each operator; `metrics.json` has the latter too.

        structures: the pool, each with `id` and `role`, all but lost ones with `e_above_hull`, candidates also with
            their flags, these and lost ones with `operator`

        Raises: ConfigError where none of them may be a parent
        """
        found = [atoms for atoms in structures if atoms.info["role"] != "lost"]
        small = [atoms for atoms in found if len(atoms) <= self.max_atoms + self.max_change]
        parents = choose_parents(
            small, self.n_parents, self.max_per_composition, self.max_e_above_hull, self.same_energy
        )
        if not parents:
            lowest = min((atoms.info["e_above_hull"] for atoms in small), default=math.nan)
            raise ConfigError(
                f"of the {len(found)} structures of the pool, {len(small)} have at most"
                f" {self.max_atoms + self.max_change} atoms (generator.max_atoms + generator.max_change), the lowest of"
                f" them at {lowest:.3f} eV/atom, and generator.max_e_above_hull = {self.max_e_above_hull} leaves none"
                " as a parent; raise one of the two"
            )
        success = operator_success(structures, list(self.operators))
        write_checkpoint(workdir / CHECKPOINT, parents, success)
        metrics = {f"{key}_{name}": float(row[key]) for name, row in success.items() for key in ("n_made", "n_sun")}
        write_json(workdir / METRICS, {"n_parents": float(len(parents)), **metrics})
        return str(workdir / CHECKPOINT)

    def _weights(self, breeder: Breeder, low: int, high: int) -> dict[str, float]:
        """Probabilities of the operators that can be used with these parents.

        Raises: ConfigError where there is none; CheckpointError
        """
        weights = {key: weight for key, weight in self.operators.items() if weight > 0}
        if self.adapt_operators and self.checkpoint is not None:
            factors = read_factors(self.checkpoint)
            weights = {key: weight * factors.get(key, 1.0) for key, weight in weights.items()}
        weights = {key: weight for key, weight in weights.items() if key == RANDOM or breeder.can(key)}
        if not weights:
            raise ConfigError(
                f"generator.operators = {self.operators}: none of them can make cells of {low} to {high} atoms of the"
                f" {len(breeder.parents)} parents, which have {min(map(len, breeder.parents))} to"
                f" {max(map(len, breeder.parents))} atoms; allow others, or larger cells (generator.max_atoms)"
            )
        return {key: weight / sum(weights.values()) for key, weight in weights.items()}

    def _breeder(self, elements: tuple[str, ...], low: int, high: int) -> Breeder:
        known = known_geometry(self.reference, elements, self.downloads)
        parents = self._parents(elements)
        return Breeder(
            parents=parents,
            weights=mating_weights(parents, self.temperature),
            space=self._space(elements, known, low, high),
            known=known,
            n_neighbours=self.n_neighbours,
            min_distance_scale=self.min_distance_scale,
            volume_scale=(self.volume_scale[0], self.volume_scale[1]),
            n_pushes=self.n_pushes,
            max_change=self.max_change,
            composition_width=self.composition_width,
            strain=self.strain,
            displacement=(self.displacement[0], self.displacement[1]),
        )

    def _space(self, elements: tuple[str, ...], known: KnownGeometry, low: int, high: int) -> CompositionSpace:
        """All compositions of cells of that size, with the preferences of generator=random."""
        if n_compositions(len(elements), high) > MAX_COMPOSITIONS:
            raise ConfigError(
                f"cells of up to {high} atoms have more than {MAX_COMPOSITIONS} compositions of {len(elements)}"
                " elements; lower generator.max_atoms"
            )
        counts = cell_compositions(len(elements), low, high)
        distances = distance_to_known(counts, known.fractions)
        preference = self.known_composition_weight ** np.exp(-distances / self.known_composition_width)
        preference[is_neutral(counts, elements)] *= self.charge_balance_weight
        shares = np.array(self.subsystem_shares)
        preference *= shares[np.minimum(np.count_nonzero(counts, axis=1), len(shares)) - 1]
        return CompositionSpace(counts, preference)

    def _parents(self, elements: tuple[str, ...]) -> list[Atoms]:
        """Those of the checkpoint; without one the known structures, all alike.

        Raises: CheckpointError
        """
        if self.checkpoint is None:
            known = read_reference(self.reference, elements, 0.0, self.downloads)
            for atoms in known:
                atoms.info.update(id=str(atoms.info["name"]).replace(" ", "_"), e_above_hull=0.0)
            return known
        return read_parents(self.checkpoint, elements)
