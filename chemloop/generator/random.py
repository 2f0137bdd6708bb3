"""Random symmetric crystals: compositions and Wyckoff positions at random, distances and volumes as in known ones."""

from __future__ import annotations

import functools
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from chemloop.generator.random_compositions import COMPOSITIONS, read_compositions, write_compositions
from chemloop.physics.composition import (
    MAX_COMPOSITIONS,
    cell_compositions,
    composition_probabilities,
    distance_to_known,
    is_charge_balanced,
    missing_from_hull,
    n_compositions,
)
from chemloop.physics.geometry import KnownGeometry, settle
from chemloop.physics.wyckoff import (
    N_SPACE_GROUPS,
    SpaceGroup,
    n_point_operations,
    primitive_cell,
    random_crystal,
    random_occupation,
    space_group,
)
from chemloop.reference import read_reference
from chemloop.runtime.disk import write_json
from chemloop.runtime.errors import ConfigError
from chemloop.runtime.time_limit import TimeLimitExceeded, time_limit

CRYSTAL = "crystal"
NO_SYMMETRY = "no symmetric placement"
SMALLER = "smaller primitive cell"
N_GROUP_DRAWS = 50  # P1 holds everything, and every third group most compositions: hardly ever do all of them fail


@dataclass
class RandomGenerator:
    """Random symmetric crystals as configured: `conf/generator/random.yaml`."""

    understands: ClassVar[tuple[str, ...]] = ("n_atoms",)

    reference: str | None
    downloads: str = "outputs/references"
    checkpoint: str | None = None
    min_atoms: int = 4
    max_atoms: int = 12
    subsystem_shares: list[float] = field(default_factory=lambda: [0.1, 0.4, 0.5])
    charge_balance_weight: float = 3.0
    known_composition_weight: float = 3.0
    known_composition_width: float = 0.05
    hull_bias: float = 10.0
    symmetry_bias: float = 2.5
    n_neighbours: int | None = 5
    min_distance_scale: float = 1.0
    volume_scale: list[float] = field(default_factory=lambda: [0.9, 1.2])
    n_pushes: int = 100
    attempts_per_crystal: int = 20
    timeout_s_per_crystal: float = 5.0

    def __post_init__(self) -> None:
        for key in ("min_atoms", "attempts_per_crystal", "n_pushes"):
            self._require(key, getattr(self, key) >= 1, "1 or above")
        self._require("max_atoms", self.max_atoms >= self.min_atoms, f"generator.min_atoms = {self.min_atoms} or above")
        for key in (
            "charge_balance_weight",
            "known_composition_weight",
            "known_composition_width",
            "hull_bias",
            "min_distance_scale",
            "timeout_s_per_crystal",
        ):
            self._require(key, 0 < getattr(self, key) < math.inf, "above 0")
        self._require("symmetry_bias", 0 <= self.symmetry_bias < math.inf, "0 or above")
        self._require(
            "n_neighbours", self.n_neighbours is None or self.n_neighbours >= 1, "1 or above, or null for all"
        )
        shares = self.subsystem_shares
        self._require("subsystem_shares", len(shares) > 0 and min(shares) >= 0 < sum(shares), "0 or above, not all 0")
        volumes = self.volume_scale
        self._require(
            "volume_scale", len(volumes) == 2 and 0 < volumes[0] <= volumes[1], "two numbers above 0, ascending"
        )

    def _require(self, key: str, is_met: bool, allowed: str) -> None:
        if not is_met:
            raise ConfigError(f"generator.{key} = {getattr(self, key)}: must be {allowed}")

    @property
    def can_learn(self) -> bool:
        """Which compositions the campaign has tried, and with what success; of use only where that biases proposals."""
        return self.hull_bias != 1

    def generate(
        self, n: int, elements: Sequence[str], conditions: dict[str, float], seed: int, workdir: Path
    ) -> list[Atoms]:
        """At most n primitive cells, fewer where `attempts_per_crystal` * n attempts do not yield them.

        conditions: n_atoms asks for cells of just that many atoms, whatever min_atoms and max_atoms are. Every attempt
        has a random stream of its own, so one that runs into its time limit changes no other. `yield.json` in `workdir`
        counts what became of the attempts.

        Raises: ConfigError where no cell of the allowed size holds the elements asked for
        """
        if "n_atoms" in conditions:
            n_atoms = whole_number(conditions["n_atoms"])
            sized = replace(self, min_atoms=n_atoms, max_atoms=n_atoms)
            return sized.generate(n, elements, {}, seed, workdir)
        known = known_geometry(self.reference, tuple(elements), self.downloads)
        cells, probabilities = self.compositions(elements, known)
        group_weights = n_point_operations() ** -self.symmetry_bias
        space_group(1)  # PyXtal's import is not to count against the first attempt
        begin = time.process_time()
        crystals: list[Atoms] = []
        outcomes: Counter[Outcome] = Counter()
        for attempt in range(self.attempts_per_crystal * n):
            if len(crystals) == n:
                break
            rng = np.random.default_rng([seed, attempt])
            counts = cells[rng.choice(len(cells), p=probabilities)]
            try:
                with time_limit(self.timeout_s_per_crystal):
                    crystal, lattice, outcome = self._crystal(counts, known, group_weights, rng)
            except TimeLimitExceeded:
                crystal, lattice, outcome = None, "unknown", "time limit"
            outcomes[Outcome(int(np.count_nonzero(counts)), lattice, outcome)] += 1
            if crystal is not None:
                crystals.append(crystal)
        write_json(workdir / "yield.json", yield_of(outcomes, time.process_time() - begin))
        return crystals

    def finetune(self, structures: Sequence[Atoms], workdir: Path, seed: int) -> str:
        """Keep which compositions have phases on or near the hull, and what energies proposals reached where."""
        path = workdir / COMPOSITIONS
        write_compositions(structures, path)
        return str(path)

    def _crystal(
        self, counts: np.ndarray, known: KnownGeometry, group_weights: np.ndarray, rng: np.random.Generator
    ) -> tuple[Atoms | None, str, str]:
        """One crystal of that composition or None, its lattice, and what became of it."""
        limits, volumes = known.near(counts, self.n_neighbours)
        limits *= self.min_distance_scale
        low, high = volumes * np.array(self.volume_scale)
        drawn = occupied_group(counts, group_weights, rng)
        if drawn is None:
            return None, "unknown", NO_SYMMETRY
        group, occupation = drawn
        present = np.flatnonzero(counts)
        shortest = float(limits[np.ix_(present, present)].min())
        crystal = random_crystal(group, occupation, known.numbers, rng.uniform(low, high), shortest, rng)
        if crystal is None:
            return None, group.lattice, NO_SYMMETRY
        if not settle(crystal, limits, known.numbers, self.n_pushes, high):
            return None, group.lattice, "too close"
        # Occupation and pushing may have left a crystal with more translations than its group has.
        smallest = primitive_cell(crystal)
        if smallest is None or len(smallest) < self.min_atoms:
            return None, group.lattice, SMALLER
        crystal = smallest if len(smallest) < len(crystal) else crystal
        crystal.wrap()
        return crystal, group.lattice, CRYSTAL

    def compositions(self, elements: Sequence[str], known: KnownGeometry) -> tuple[np.ndarray, np.ndarray]:
        """(n, n_elements) atoms of each element in a cell, and (n,) how likely each is to be tried.

        Raises: ConfigError where that leaves nothing, or too much
        """
        if n_compositions(len(elements), self.max_atoms) > MAX_COMPOSITIONS:
            raise ConfigError(
                f"generator.max_atoms = {self.max_atoms} allows more than {MAX_COMPOSITIONS} compositions of"
                f" {len(elements)} elements; lower it"
            )
        counts = cell_compositions(len(elements), self.min_atoms, self.max_atoms)
        distances = distance_to_known(counts, known.fractions)
        preference = self.known_composition_weight ** np.exp(-distances / self.known_composition_width)
        preference[is_neutral(counts, elements)] *= self.charge_balance_weight
        if self.checkpoint is not None and self.hull_bias != 1:
            phases, tried, energies = read_compositions(self.checkpoint, tuple(elements))
            missing = missing_from_hull(counts, phases, tried, energies)
            preference *= self.hull_bias**missing
        try:
            return counts, composition_probabilities(counts, self.subsystem_shares, preference)
        except ValueError as error:
            raise ConfigError(
                f"generator.subsystem_shares = {self.subsystem_shares} leaves no composition of {', '.join(elements)}"
                f" with {self.min_atoms} to {self.max_atoms} atoms; change it or generator.max_atoms"
            ) from error


class Outcome(NamedTuple):
    """What became of one attempt."""

    n_elements: int
    lattice: str
    outcome: str


def occupied_group(
    counts: np.ndarray, weights: np.ndarray, rng: np.random.Generator
) -> tuple[SpaceGroup, list[tuple[int, int]]] | None:
    """A random space group whose Wyckoff positions hold that composition, with their occupation.

    weights: (230,) how likely each space group is to be tried
    """
    for index in rng.choice(N_SPACE_GROUPS, size=N_GROUP_DRAWS, p=weights / weights.sum()):
        group = space_group(int(index) + 1)
        occupation = random_occupation(group, counts, rng)
        if occupation is not None:
            return group, occupation
    return None


@functools.lru_cache(maxsize=8)
def known_geometry(reference: str | None, elements: tuple[str, ...], downloads: str) -> KnownGeometry:
    """Distances and volumes of the known structures; kept from one item of a worker to the next.

    Raises: ConfigError where none are known
    """
    # How close their atoms may be was the system's own check.
    structures = read_reference(reference, elements, 0.0, downloads)
    if not structures:
        raise ConfigError("generator.reference is null: known structures tell how close atoms may come; give some")
    return KnownGeometry.of(structures, [atomic_numbers[element] for element in elements])


def whole_number(n_atoms: float) -> int:
    """Raises: ConfigError for what is no number of atoms"""
    if n_atoms != int(n_atoms) or n_atoms < 1:
        raise ConfigError(f"condition n_atoms = {n_atoms:g}: must be a whole number of atoms, 1 or above")
    return int(n_atoms)


def is_neutral(counts: np.ndarray, elements: Sequence[str]) -> np.ndarray:
    """(n,) whether each composition is neutral with one of pymatgen's ICSD oxidation states for each element.

    Its `oxi_state_guesses` start from the same states, but take 0.3 s for a cell of 24 atoms, and call nearly
    everything neutral, because atoms of one element may differ.
    counts: (n, n_elements)
    """
    from pymatgen.core import Element

    known = [Element(element) for element in elements]
    return is_charge_balanced(counts, [e.icsd_oxidation_states for e in known], [e.X for e in known])


def yield_of(outcomes: Counter[Outcome], cpu_seconds: float) -> dict[str, Any]:
    """Attempts and crystals: all, by lattice and by number of elements; rejections by reason."""

    def tally(key: str) -> dict[str, dict[str, int]]:
        table: dict[str, dict[str, int]] = {}
        for outcome, n in outcomes.items():
            row = table.setdefault(str(getattr(outcome, key)), {"attempts": 0, "crystals": 0})
            row["attempts"] += n
            row["crystals"] += n * (outcome.outcome == CRYSTAL)
        return table

    rejected: Counter[str] = Counter()
    for outcome, n in outcomes.items():
        if outcome.outcome != CRYSTAL:
            rejected[outcome.outcome] += n
    n_crystals = outcomes.total() - rejected.total()
    return {
        "attempts": outcomes.total(),
        "crystals": n_crystals,
        "rejected": dict(rejected),
        "cpu_seconds": cpu_seconds,
        "crystals_per_cpu_second": n_crystals / max(cpu_seconds, 1e-9),
        "by_lattice": tally("lattice"),
        "by_n_elements": tally("n_elements"),
    }
