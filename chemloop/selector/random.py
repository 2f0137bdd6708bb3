"""Structures drawn evenly, whatever they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from chemloop.protocols import Selection
from chemloop.runtime.errors import ConfigError


@dataclass
class RandomSelector:
    """The baseline that an informed selection has to beat."""

    def select(self, candidates: Sequence[Atoms], reference: Sequence[Atoms], n: int, seed: int) -> Selection:
        """n candidates in random order; scores are the random numbers that ranked them, largest first.

        The choice for a smaller n is the beginning of that for a larger one with the same seed.

        Raises: ConfigError
        """
        if n < 1:
            raise ConfigError(f"the number of structures to select is {n}: it must be above 0")
        numbers = np.random.default_rng(seed).random(len(candidates))
        indices = np.argsort(-numbers, kind="stable")[:n]
        return Selection(indices, numbers[indices])
