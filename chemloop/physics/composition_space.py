"""The compositions that cells may have, and draws of one that is near another one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CompositionSpace:
    """counts: (n, n_elements) atoms of each element in a cell; preference: (n,) how likely each is."""

    counts: np.ndarray
    preference: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """(n,) atoms in a cell."""
        return np.asarray(self.counts.sum(axis=1))

    def draw_near(
        self, counts: np.ndarray, is_allowed: np.ndarray, width: float, rng: np.random.Generator
    ) -> np.ndarray | None:
        """(n_elements,) a composition near `counts`; None where none is allowed.

        The more atoms must be exchanged, added or taken out, the less likely it is.
        is_allowed: (n,); width: number of atoms over which the probability falls to 1/e
        """
        candidates = np.flatnonzero(is_allowed)
        if len(candidates) == 0:
            return None
        differences = self.counts[candidates] - counts
        n_changes = np.maximum(np.maximum(differences, 0).sum(axis=1), np.maximum(-differences, 0).sum(axis=1))
        weights = self.preference[candidates] * np.exp(-(n_changes - n_changes.min()) / width)
        if not weights.any():
            return None
        return np.asarray(self.counts[rng.choice(candidates, p=weights / weights.sum())])
