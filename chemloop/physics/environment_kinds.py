"""Kinds of local environment, the "species" that are counted: environments within a radius of the first of their kind.

The first environment of a kind, its leader, stays what it is, so kinds are never renumbered, merged or moved by later
data, and adding structures costs their own size times the number of leaders. (Clusters whose centres move, such as
BIRCH's, or that are found anew, such as DBSCAN's, have neither property.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from chemloop.physics.kernel_sums import check_environments

# Rows, and leaders, that are compared at once.
ROWS_AT_ONCE, LEADERS_AT_ONCE = 512, 16_384


class Sorted(NamedTuple):
    """Environments sorted into kinds, structure by structure.

    kinds: (n_atoms,) number of the kind of each
    is_known: (n_atoms,) bool, whether a leader that was there before these structures is within the radius. It may be
        so of an environment of a new kind, whose leader is nearer still
    """

    kinds: list[np.ndarray]
    is_known: list[np.ndarray]


@dataclass
class EnvironmentKinds:
    """All kinds so far, filled iteration by iteration.

    radius: 1/A
    leaders: (n_kinds, n_features) as `descriptors.environments` has them
    n_structures, n_references: (n_kinds,) structures generated, and references, that hold the kind
    first_host: (n_kinds,) number of the first structure generated that holds it, -1 where none does
    first_iteration: (n_kinds,) in which it was seen first
    n_samples: structures generated so far, references not counted
    """

    radius: float
    leaders: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    n_structures: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    n_references: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    first_host: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    first_iteration: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    n_samples: int = 0

    def add(self, environments: Sequence[np.ndarray], iteration: int, is_reference: bool = False) -> Sorted:
        """Sort the environments of structures into kinds, in their order.

        An environment that no leader is near becomes one; all others belong to the nearest leader, also of those that
        came with these structures.
        environments: per structure (n_atoms, n_features)
        Raises: ValueError for numbers that are not finite
        """
        if not environments:
            return Sorted([], [])
        x = np.vstack(environments)
        check_environments(x)
        if not len(self.leaders):
            self.leaders = x[:0]
        old, distance = nearest(x, self.leaders)
        is_known = distance <= self.radius
        new = _leaders_of(x[~is_known], self.radius)
        newer, other_distance = nearest(x, new)
        kinds = np.where(other_distance < distance, len(self.leaders) + newer, old)
        self._append(new, iteration)
        ends = np.cumsum([len(part) for part in environments])[:-1]
        by_structure = np.split(kinds, ends)
        for those in map(np.unique, by_structure):
            if is_reference:
                self.n_references[those] += 1
                continue
            new = those[self.n_structures[those] == 0]
            self.first_host[new] = self.n_samples
            self.n_structures[those] += 1
            self.n_samples += 1
        return Sorted(by_structure, np.split(is_known, ends))

    def _append(self, new: np.ndarray, iteration: int) -> None:
        self.leaders = np.vstack([self.leaders, new])
        for name, value in (
            ("n_structures", 0),
            ("n_references", 0),
            ("first_host", -1),
            ("first_iteration", iteration),
        ):
            setattr(self, name, np.pad(getattr(self, name), (0, len(new)), constant_values=value))


def _leaders_of(x: np.ndarray, radius: float) -> np.ndarray:
    """Each environment, in order, that is beyond the radius of all taken before it."""
    leaders = x[:0]
    for start in range(0, len(x), ROWS_AT_ONCE):
        rows = x[start : start + ROWS_AT_ONCE]
        rows = rows[nearest(rows, leaders)[1] > radius]
        new = [x[:0]]
        while len(rows):
            new.append(rows[:1])
            rows = rows[nearest(rows, rows[:1])[1] > radius]
        leaders = np.vstack([leaders, *new])
    return leaders


def nearest(x: np.ndarray, leaders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest leader of each environment (n,), the first of equal ones, and the distance (n,), inf without any."""
    best, square = np.full(len(x), -1), np.full(len(x), np.inf)
    for begin in range(0, len(leaders), LEADERS_AT_ONCE):
        some = leaders[begin : begin + LEADERS_AT_ONCE].astype(float)
        lengths = np.einsum("ij,ij->i", some, some)
        for start in range(0, len(x), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            a = x[rows].astype(float)
            squares = lengths - 2.0 * a @ some.T
            column = squares.argmin(axis=1)
            found = squares[np.arange(len(a)), column] + np.einsum("ij,ij->i", a, a)
            is_nearer = found < square[rows]
            best[rows] = np.where(is_nearer, column + begin, best[rows])
            square[rows] = np.where(is_nearer, found, square[rows])
    return best, np.sqrt(np.maximum(square, 0.0))
