"""What MatterGen learns from, what it was trained on, and how long it trains on how little."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import Atoms

from chemloop.runtime.errors import ConfigError

MAX_ATOMS = 20
"""Of a primitive cell; the published networks saw no larger ones."""
STEPS_PER_EPOCH = 4
LEAST_BATCH = 2
"""The package's loss fails for a batch that is one atom."""
HIDDEN = 512
"""Features of the published networks, to whose size learning rates refer."""


@dataclass
class Architecture:
    """Sizes of a network from scratch; those of the published ones in brackets.

    hidden: features of atoms and bonds [512]; blocks: layers [4]; cutoff: A [7.0]; neighbours: per atom at most [50]
    diffusion_steps: steps of noise in training, and of sampling [1000]
    """

    hidden: int = 48
    blocks: int = 2
    cutoff: float = 5.0
    neighbours: int = 12
    diffusion_steps: int = 100

    def __post_init__(self) -> None:
        for key, least in (("hidden", 4), ("blocks", 1), ("cutoff", 2.0), ("neighbours", 4), ("diffusion_steps", 2)):
            if getattr(self, key) < least:
                raise ConfigError(f"generator.architecture.{key} = {getattr(self, key)}: must be {least} or above")
        if self.hidden % 2:
            raise ConfigError(f"generator.architecture.hidden = {self.hidden}: must be even")


@dataclass
class Schedule:
    """How long it trains.

    n_steps: optimiser steps at most; max_epochs: passes over the structures at most, which bounds it on small data
    batch_size: structures per step at most; an epoch has at least 4 steps where there are 8 structures or more
    learning_rate: of a network of 512 features, narrower ones take proportionally more
    """

    n_steps: int = 1500
    max_epochs: int = 500
    batch_size: int = 24
    learning_rate: float = 2e-4

    def __post_init__(self) -> None:
        for key, least in (("n_steps", 1), ("max_epochs", 1), ("batch_size", LEAST_BATCH)):
            if getattr(self, key) < least:
                raise ConfigError(f"generator schedule: {key} = {getattr(self, key)}: must be {least} or above")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(
                f"generator schedule: learning_rate = {self.learning_rate:g}: must be above 0 and below 1"
            )

    def for_data(self, n_structures: int) -> tuple[int, int]:
        """Optimiser steps, and structures per step."""
        batch_size = max(LEAST_BATCH, min(self.batch_size, n_structures // STEPS_PER_EPOCH))
        return min(self.n_steps, self.max_epochs * max(n_structures // batch_size, 1)), batch_size

    def rate_for(self, hidden: int) -> float:
        """The learning rate at a width. Source: doi:10.48550/arXiv.2203.03466, Adam's hidden weights"""
        return min(self.learning_rate * HIDDEN / hidden, 3e-3)


@dataclass(frozen=True)
class TrainedOn:
    """What a network has seen; ranges are from lowest to highest.

    energy_above_hull: eV/atom; volume: A^3/atom; stretch: as `stretches_of` cells, without the outermost 2 %
    n_atoms: structures by atoms per cell
    is_known: whether this is recorded; else it is what a network is likely to have seen, and sampling goes by it
    """

    elements: list[str]
    energy_above_hull: list[float]
    volume: list[float]
    stretch: list[float]
    n_atoms: dict[int, float]
    is_known: bool = True

    @classmethod
    def of(cls, structures: Sequence[Atoms], energies_above_hull: Sequence[float]) -> TrainedOn:
        symbols = sorted({symbol for atoms in structures for symbol in atoms.symbols})
        sizes = sorted(Counter(len(atoms) for atoms in structures).items())
        energies = [float(min(energies_above_hull)), float(max(energies_above_hull))]
        volumes = [atoms.cell.volume / len(atoms) for atoms in structures]
        stretches = np.percentile([stretches_of(atoms) for atoms in structures], [1, 99]).tolist()
        counts = {n: float(count) for n, count in sizes}
        return cls(symbols, energies, [min(volumes), max(volumes)], stretches, counts)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TrainedOn:
        sizes = {int(n): float(count) for n, count in content["n_atoms"].items()}
        return cls(**(dict(content) | {"n_atoms": sizes}))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def joined(self, other: TrainedOn) -> TrainedOn:
        """Of a network that saw both."""

        def both(first: list[float], second: list[float]) -> list[float]:
            return [min(first[0], second[0]), max(first[1], second[1])]

        return TrainedOn(
            elements=sorted({*self.elements, *other.elements}),
            energy_above_hull=both(self.energy_above_hull, other.energy_above_hull),
            volume=both(self.volume, other.volume),
            stretch=both(self.stretch, other.stretch),
            n_atoms=dict(sorted((Counter(self.n_atoms) + Counter(other.n_atoms)).items())),
            is_known=self.is_known and other.is_known,
        )

    def warnings(self, elements: Sequence[str], conditions: Mapping[str, float]) -> list[str]:
        """One sentence for each condition outside of what the network has seen; one for all where that is unknown."""
        if not self.is_known:
            asked = [f"elements {', '.join(elements)}", *(f"{key} = {value:g}" for key, value in conditions.items())]
            return [f"{'; '.join(asked)} asked for: range unknown, the checkpoint does not say what it was trained on"]
        found = []
        if unknown := [element for element in elements if element not in self.elements]:
            found.append(f"{', '.join(unknown)} asked for: the generator has seen {', '.join(self.elements)} only")
        low, high = self.energy_above_hull
        energy = conditions.get("energy_above_hull", low)
        if not low - 1e-6 <= energy <= high + 1e-6:
            found.append(
                f"energy_above_hull = {energy:g} eV/atom asked for: the generator has seen {low:.3f} to {high:.3f}"
            )
        smallest, largest = min(self.n_atoms), max(self.n_atoms)
        n_atoms = conditions.get("n_atoms", smallest)
        if not smallest <= n_atoms <= largest:
            found.append(f"n_atoms = {n_atoms:g} asked for: the generator has seen cells of {smallest} to {largest}")
        return found

    def draw_sizes(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """(n,) atoms per cell, as often as they were seen."""
        sizes, counts = np.array(list(self.n_atoms)), np.array(list(self.n_atoms.values()))
        return rng.choice(sizes, size=n, p=counts / counts.sum())


def stretches_of(atoms: Atoms) -> np.ndarray:
    """(3,) A, principal stretches of the unit cube into the cell, divided by the cube root of the number of atoms."""
    return np.linalg.svd(atoms.cell.array, compute_uv=False) / len(atoms) ** (1 / 3)


def learnable(structures: Sequence[Atoms], max_atoms: int = MAX_ATOMS) -> tuple[list[Atoms], list[float]]:
    """Primitive, Niggli-reduced cells of at most `max_atoms` atoms, and their eV/atom above the hull.

    Structures that are not converged, or carry no `e_above_hull`, are left out.
    """
    from pymatgen.io.ase import AseAtomsAdaptor

    cells, energies = [], []
    for atoms in structures:
        if not atoms.info.get("converged", True) or "e_above_hull" not in atoms.info:
            continue
        bare = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
        crystal = AseAtomsAdaptor.get_structure(bare).get_primitive_structure(tolerance=0.1)
        if len(crystal) <= max_atoms:
            reduced = AseAtomsAdaptor.get_atoms(crystal.get_reduced_structure("niggli"))
            cells.append(Atoms(reduced.numbers, positions=reduced.positions, cell=reduced.cell, pbc=True))
            energies.append(float(atoms.info["e_above_hull"]))
    return cells, energies
