"""Structures that bring the most information on local atomic environments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from chemloop.physics.descriptors import environments
from chemloop.physics.entropy import BANDWIDTH, POOLINGS, greedy_selection, top_selection
from chemloop.protocols import Selection
from chemloop.runtime.errors import ConfigError

MODES = {"greedy": greedy_selection, "top": top_selection}


@dataclass
class EntropySelector:
    """Maximum information-entropy gain.

    pooling: how the gains of a structure's environments make its own: mean, max or sum
    mode: greedy (each pick conditions the next) or top (the paper's plain ranking)
    n_neighbors: distances kept per element of the neighbour
    cutoff: A, range of an environment
    bandwidth: 1/A, the distance between environments within which they count as one
    """

    pooling: str = "mean"
    mode: str = "greedy"
    n_neighbors: int = 32
    cutoff: float = 5.0
    bandwidth: float = BANDWIDTH

    def __post_init__(self) -> None:
        for key, allowed in (("pooling", POOLINGS), ("mode", tuple(MODES))):
            if getattr(self, key) not in allowed:
                raise ConfigError(f"selector.{key} = {getattr(self, key)!r}: must be one of {', '.join(allowed)}")
        for key, least in (("n_neighbors", 1), ("cutoff", 0.0), ("bandwidth", 0.0)):
            if not least < getattr(self, key) < np.inf:
                raise ConfigError(f"selector.{key} = {getattr(self, key)}: must be a finite number above {least:g}")

    def select(self, candidates: Sequence[Atoms], reference: Sequence[Atoms], n: int, seed: int) -> Selection:
        """n candidates, largest gain with respect to the reference first; nothing is drawn at random.

        Where there is no reference, greedy starts from the candidate with the largest entropy of its own, and top ranks
        with respect to all candidates.

        Returns: scores are gains in nats; with greedy those at the time of the pick
        Raises: ConfigError
        """
        if n < 1:
            raise ConfigError(f"the number of structures to select is {n}: it must be above 0")
        structures = [*candidates, *reference]
        numbers = sorted({int(number) for atoms in structures for number in atoms.numbers})
        elements = [chemical_symbols[number] for number in numbers]
        described = environments(structures, elements, self.n_neighbors, self.cutoff)
        offered, known = described[: len(candidates)], described[len(candidates) :]
        known_rows = np.vstack(known) if known else np.zeros((0, 0), dtype=np.float32)
        return Selection(*MODES[self.mode](offered, known_rows, n, self.bandwidth, self.pooling))
