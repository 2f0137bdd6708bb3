"""One child at a time: parents by energy and diversity, an operator, and distances and volumes as in known structures.

Source: doi:10.1063/1.2210932 (USPEX); arXiv:2107.02594 (SPINNER)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from ase import Atoms

from chemloop.physics.composition_space import CompositionSpace
from chemloop.physics.geometry import KnownGeometry, settle
from chemloop.physics.heredity import cut_counts, splice, taken
from chemloop.physics.soft_modes import displaced, soft_modes
from chemloop.physics.variation import (
    enlarged,
    is_same_arrangement,
    permuted,
    reduced,
    strained,
    with_composition,
    with_volume,
)

OPERATORS = ("heredity", "strain", "permutation", "soft", "exchange", "addition", "removal")
AS_PARENT = "as its parent"
NO_COMPOSITION = "no such composition"
TOO_CLOSE = "too close"
N_SOFT_MODES = 6  # the number of modes, counted from the softest, over which the probability falls to 1/e
MAX_SWAPPED = 0.3  # fraction of the atoms that trade places at most


class Draft(NamedTuple):
    """A child, or the reason why there is none; parents: positions in the list of parents."""

    child: Atoms | None
    parents: list[int]
    reason: str | None = None


@dataclass(frozen=True)
class Breeder:
    """What children are made of and have to keep to.

    parents, weights: (n_parents,) how likely each is to be chosen
    space: compositions allowed; known: distances and volumes; n_neighbours: known structures that set them, None: all
    min_distance_scale, volume_scale: times those of known structures; n_pushes: steps to bring atoms apart
    max_change: atoms that an operator adds, takes out or exchanges at most
    composition_width: number of atoms over which a change of the composition becomes unlikely
    strain: deviation of the logarithmic strain; displacement: (2,) A, range of the largest one along soft modes
    """

    parents: Sequence[Atoms]
    weights: np.ndarray
    space: CompositionSpace
    known: KnownGeometry
    n_neighbours: int | None
    min_distance_scale: float
    volume_scale: tuple[float, float]
    n_pushes: int
    max_change: int
    composition_width: float
    strain: float
    displacement: tuple[float, float]

    def breed(self, operator: str, rng: np.random.Generator) -> Draft:
        """A child whose distances and volume are as in known structures, or None and the reason."""
        draft = self._cross(rng) if operator == "heredity" else self._mutate(operator, rng)
        if draft.child is None:
            return draft
        settled = self.settle(draft.child)
        return Draft(settled, draft.parents, TOO_CLOSE if settled is None else None)

    def can(self, operator: str) -> bool:
        """Whether there is a parent that this operator can start from."""
        return bool(self.chances[operator].any())

    @cached_property
    def chances(self) -> dict[str, np.ndarray]:
        """(n_parents,) how likely each parent is to be chosen, by operator."""
        return {operator: self._chances(operator) for operator in OPERATORS}

    def _chances(self, operator: str) -> np.ndarray:
        can_start = [
            len(multiples(len(atoms), *self.sizes(operator))) > 0
            and (operator != "permutation" or len(set(atoms.numbers)) > 1)
            for atoms in self.parents
        ]
        return self.weights * can_start

    def sizes(self, operator: str) -> tuple[int, int]:
        """Fewest and most atoms that a parent may have when this operator starts from it."""
        low, high = int(self.space.sizes.min()), int(self.space.sizes.max())
        return {
            "addition": (max(low - self.max_change, 1), high - 1),
            "removal": (low + 1, high + self.max_change),
            "soft": (max(low, 2), high),  # one atom cannot move against itself
            "heredity": (max(low - self.max_change, 1), high + self.max_change),
        }.get(operator, (low, high))

    def _mutate(self, operator: str, rng: np.random.Generator) -> Draft:
        chosen = int(rng.choice(len(self.parents), p=_normalised(self.chances[operator])))
        parent = self.parents[chosen]
        start = enlarged(parent, _any_of(multiples(len(parent), *self.sizes(operator)), rng))
        child: Atoms | None
        if operator == "strain":
            child = strained(start, self.strain, rng)
        elif operator == "permutation":
            child = permuted(start, int(rng.integers(1, max(int(MAX_SWAPPED * len(start) / 2), 1) + 1)), rng)
            if is_same_arrangement(child, start):
                return Draft(None, [chosen], AS_PARENT)
        elif operator == "soft":
            modes = soft_modes(start)
            mode = modes[min(int(rng.exponential(N_SOFT_MODES)), len(modes) - 1)]
            child = displaced(start, mode * rng.choice([-1, 1]), rng.uniform(*self.displacement))
        else:
            child = self._with_new_composition(operator, start, rng)
        return Draft(child, [chosen], NO_COMPOSITION if child is None else None)

    def _with_new_composition(self, operator: str, start: Atoms, rng: np.random.Generator) -> Atoms | None:
        counts = self._counts(start)
        n_added = self.space.sizes - len(start)
        n_changes = np.abs(self.space.counts - counts).sum(axis=1)
        is_allowed = {
            "exchange": (n_added == 0) & (n_changes > 0) & (n_changes <= 2 * self.max_change),
            "addition": (n_added > 0) & (n_added <= self.max_change),
            "removal": (n_added < 0) & (n_added >= -self.max_change),
        }[operator]
        target = self.space.draw_near(counts, is_allowed, self.composition_width, rng)
        return None if target is None else with_composition(start, target, self.known.numbers, rng)

    def _cross(self, rng: np.random.Generator) -> Draft:
        """A child of two parents that are enlarged to about the same size."""
        chances, window = self.chances["heredity"].copy(), self.sizes("heredity")
        first = int(rng.choice(len(self.parents), p=_normalised(chances)))
        if np.count_nonzero(chances) > 1:
            chances[first] = 0
        second = int(rng.choice(len(self.parents), p=_normalised(chances)))
        one, other = self.parents[first], self.parents[second]
        n_cells = _any_of(multiples(len(one), *window), rng)
        n_others = min(multiples(len(other), *window), key=lambda n: abs(n * len(other) - n_cells * len(one)))
        pieces = splice(enlarged(one, n_cells), enlarged(other, n_others), rng)
        available = self._counts(pieces.atoms)
        raw = cut_counts(pieces, self.known.numbers)
        is_allowed = (self.space.counts <= available).all(axis=1)
        is_allowed &= np.abs(self.space.sizes - raw.sum()) <= self.max_change
        target = self.space.draw_near(raw, is_allowed, self.composition_width, rng)
        if target is None:
            return Draft(None, [first, second], NO_COMPOSITION)
        child = taken(pieces, target, self.known.numbers)
        volume = pieces.share * _volume_per_atom(one) + (1 - pieces.share) * _volume_per_atom(other)
        return Draft(with_volume(child, volume), [first, second])

    def settle(self, child: Atoms) -> Atoms | None:
        """Volume and distances as in known structures of near composition; None where atoms stay too close."""
        limits, volumes = self.known.near(self._counts(child), self.n_neighbours)
        limits *= self.min_distance_scale
        low, high = volumes * self.volume_scale
        settled = with_volume(child, float(np.clip(_volume_per_atom(child), low, high)))
        return reduced(settled) if settle(settled, limits, self.known.numbers, self.n_pushes, high) else None

    def _counts(self, atoms: Atoms) -> np.ndarray:
        return np.asarray((atoms.numbers[:, None] == self.known.numbers).sum(axis=0))


def multiples(n_atoms: int, low: int, high: int) -> range:
    """How many cells of n_atoms make one of `low` to `high` atoms."""
    return range(max(-(-low // n_atoms), 1), high // n_atoms + 1)


def _any_of(numbers_of_cells: range, rng: np.random.Generator) -> int:
    """One of them, the likelier the smaller it is: large cells cost most and repeat what small ones say."""
    return int(rng.choice(numbers_of_cells, p=_normalised(1 / np.array(numbers_of_cells))))


def _normalised(weights: np.ndarray) -> np.ndarray:
    return np.asarray(weights / weights.sum())


def _volume_per_atom(atoms: Atoms) -> float:
    return float(atoms.cell.volume / len(atoms))
