"""Known crystals of other chemistries with their ions exchanged for those of the system, as likely as the ICSD says."""

from __future__ import annotations

import functools
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from ase import Atoms

from chemloop.generator.prototypes import AFLOW
from chemloop.generator.random import known_geometry, whole_number
from chemloop.generator.substitution_proposals import Proposal, all_proposals
from chemloop.physics.decoration import SYMPREC
from chemloop.physics.geometry import KnownGeometry, settle
from chemloop.physics.matching import Matcher
from chemloop.physics.structures import bare
from chemloop.reference import read_reference
from chemloop.runtime.disk import write_json
from chemloop.runtime.errors import ConfigError

if TYPE_CHECKING:
    from chemloop.physics.crystal_key import CrystalKey

CRYSTAL = "crystal"
TOO_CLOSE = "too close"
SMALLER = "smaller primitive cell"
KNOWN = "known"
DUPLICATE = "duplicate"
EXCHANGE, DECORATION = "exchange", "decoration"
"""Operators: all sites of an ion get the same new ion, or not."""


@dataclass
class SubstitutionGenerator:
    """Ionic substitution as configured: `conf/generator/substitution.yaml`."""

    can_learn: ClassVar[bool] = False
    understands: ClassVar[tuple[str, ...]] = ("n_atoms",)

    reference: str | None
    downloads: str = "outputs/references"
    prototypes: list[str] = field(default_factory=lambda: [AFLOW])
    related_systems: list[str] = field(default_factory=list)
    n_related: int = 12
    min_atoms: int = 2
    max_atoms: int = 40
    min_probability: float = 1e-7
    probability_bias: float = 0.5
    n_neighbours: int = 5
    min_distance_scale: float = 1.0
    max_volume_scale: float = 1.2
    n_pushes: int = 100
    keep_known: bool = False

    def __post_init__(self) -> None:
        self._require("prototypes", len(self.prototypes) > 0, "a list of aflow, materials_project, files and folders")
        for key in ("n_related", "min_atoms", "n_neighbours", "n_pushes"):
            self._require(key, getattr(self, key) >= 1, "1 or above")
        self._require("max_atoms", self.max_atoms >= self.min_atoms, f"generator.min_atoms = {self.min_atoms} or above")
        self._require("min_probability", 0 < self.min_probability < 1, "between 0 and 1")
        self._require("probability_bias", 0 <= self.probability_bias < math.inf, "0 or above")
        self._require("min_distance_scale", 0 < self.min_distance_scale < math.inf, "above 0")
        self._require("max_volume_scale", 1 <= self.max_volume_scale < math.inf, "1 or above")

    def _require(self, key: str, is_met: bool, allowed: str) -> None:
        if not is_met:
            raise ConfigError(f"generator.{key} = {getattr(self, key)}: must be {allowed}")

    def generate(
        self, n: int, elements: Sequence[str], conditions: dict[str, float], seed: int, workdir: Path
    ) -> list[Atoms]:
        """At most n primitive cells, each another crystal; fewer where there are no more.

        conditions: n_atoms asks for cells of just that many atoms, whatever min_atoms and max_atoms are. Proposals are
        drawn without replacement, each with its probability to the power of `probability_bias`. `yield.json` in
        `workdir` counts what became of them. `info["parents"]` names the prototype.

        Raises: ConfigError where nothing of that size can be made, or a source of prototypes cannot be used
        """
        sizes = (self.min_atoms, self.max_atoms)
        if "n_atoms" in conditions:
            sizes = (whole_number(conditions["n_atoms"]),) * 2
        proposals = self.proposals(elements, sizes)
        known = known_geometry(self.reference, tuple(elements), self.downloads)
        known_keys = [] if self.keep_known else reference_keys(self.reference, tuple(elements), self.downloads)
        begin = time.process_time()
        crystals: list[Atoms] = []
        keys: list[CrystalKey] = []
        outcomes: Counter[str] = Counter()
        for proposal in self._drawn(proposals, seed):
            if len(crystals) == n:
                break
            crystal = self._crystal(proposal, known)
            outcome = TOO_CLOSE if crystal is None else CRYSTAL
            if crystal is not None and not sizes[0] <= len(crystal) <= sizes[1]:
                outcome = SMALLER
            elif crystal is not None:
                (key,) = Matcher().keys([crystal])
                if Matcher().is_known([key], known_keys)[0]:
                    outcome = KNOWN
                elif Matcher().is_known([key], keys)[0]:
                    outcome = DUPLICATE
                else:
                    crystals.append(crystal)
                    keys.append(key)
            outcomes[outcome] += 1
        report = {
            "attempts": outcomes.total(),
            "rejected": {reason: count for reason, count in sorted(outcomes.items()) if reason != CRYSTAL},
            "cpu_seconds": time.process_time() - begin,
            "n_proposals": len(proposals),
        }
        write_json(workdir / "yield.json", report)
        return crystals

    def finetune(self, structures: Sequence[Atoms], workdir: Path, seed: int) -> str:
        """Not for this generator: it has nothing that learns."""
        raise ConfigError(
            "generator=substitution cannot be fine-tuned; choose a generator that learns, such as mattergen"
        )

    def proposals(self, elements: Sequence[str], sizes: tuple[int, int]) -> list[Proposal]:
        """All substitutions that end in the system, from cells of the allowed numbers of atoms, likeliest first.

        Raises: ConfigError where there is none
        """
        found = [
            proposal
            for proposal in all_proposals(
                tuple(self.prototypes),
                tuple(elements),
                tuple(self.related_systems),
                self.n_related,
                max(self.max_atoms, sizes[1]),
                self.min_probability,
                self.downloads,
            )
            if sizes[0] <= len(proposal.prototype.atoms) <= sizes[1]
        ]
        if not found:
            raise ConfigError(
                f"generator.prototypes = [{', '.join(self.prototypes)}] has no crystal of {sizes[0]} to {sizes[1]}"
                f" atoms whose ions those of {', '.join(elements)} may replace; give other prototypes, raise"
                " generator.max_atoms, or lower generator.min_probability"
            )
        return found

    def _drawn(self, proposals: Sequence[Proposal], seed: int) -> list[Proposal]:
        """All proposals in random order, the likelier ones rather earlier."""
        weights = np.array([proposal.decoration.probability for proposal in proposals]) ** self.probability_bias
        rng = np.random.default_rng(seed)
        order = rng.choice(len(proposals), len(proposals), replace=False, p=weights / weights.sum())
        return [proposals[number] for number in order]

    def _crystal(self, proposal: Proposal, known: KnownGeometry) -> Atoms | None:
        """The decorated prototype, as dense as known structures of like composition; None where atoms stay close."""
        crystal = primitive(proposal.prototype.decorated(proposal.decoration))
        counts = np.array([np.count_nonzero(crystal.numbers == number) for number in known.numbers])
        limits, volumes = known.near(counts, self.n_neighbours)
        limits *= self.min_distance_scale
        volume = math.sqrt(volumes[0] * volumes[1]) * len(crystal)
        crystal.set_cell(crystal.cell * (volume / crystal.cell.volume) ** (1 / 3), scale_atoms=True)
        if not settle(crystal, limits, known.numbers, self.n_pushes, self.max_volume_scale * volumes[1]):
            return None
        crystal.wrap()
        crystal.info["operator"] = EXCHANGE if proposal.keeps_symmetry else DECORATION
        crystal.info["parents"] = proposal.prototype.name
        return crystal


def primitive(atoms: Atoms) -> Atoms:
    """The primitive cell where that is smaller; ions that became alike may leave a smaller one."""
    import spglib

    found = spglib.find_primitive((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=SYMPREC)
    if found is None or len(found[2]) == len(atoms):
        return bare(atoms)
    return Atoms(found[2], cell=found[0], scaled_positions=found[1], pbc=True)


@functools.lru_cache(maxsize=8)
def reference_keys(reference: str | None, elements: tuple[str, ...], downloads: str) -> list[CrystalKey]:
    """What matching needs of the known structures; kept from one item of a worker to the next."""
    return Matcher().keys(read_reference(reference, elements, 0.0, downloads))
