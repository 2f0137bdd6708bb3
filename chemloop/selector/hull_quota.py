"""A quota of structures from each window of the energy above the hull, as in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from chemloop.protocols import Selection
from chemloop.runtime.errors import ConfigError, StructureError


@dataclass
class HullQuotaSelector:
    """Structures near the hull and some further above it.

    upper_edges: eV/atom, increasing; window i holds upper_edges[i-1] <= e_above_hull < upper_edges[i], the first one
        everything below upper_edges[0]; structures from the last edge upwards are never chosen
    quotas: at most so many structures per window
    """

    upper_edges: list[float]
    quotas: list[int]

    def __post_init__(self) -> None:
        edges, quotas = list(self.upper_edges), list(self.quotas)
        if not edges or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
            raise ConfigError(f"selector.upper_edges = {edges}: must be increasing numbers (eV/atom), at least one")
        if any(quota < 1 for quota in quotas):
            raise ConfigError(f"selector.quotas = {quotas}: each must be above 0")
        if len(edges) != len(quotas):
            raise ConfigError(
                f"selector.quotas = {quotas} has {len(quotas)} entries and selector.upper_edges = {edges} has"
                f" {len(edges)}: there must be one quota per window"
            )

    def select(self, candidates: Sequence[Atoms], reference: Sequence[Atoms], n: int, seed: int) -> Selection:
        """A random subset of each window that holds more than its quota, the whole window otherwise.

        Drawing at random, where the lowest could be taken, keeps the labels spread over the window; the choice is
        returned lowest first, and where all quotas together exceed n its upper end is cut. The reference is not used.

        Returns: scores are e_above_hull in eV/atom, lowest first
        Raises: ConfigError; StructureError when a candidate has no e_above_hull
        """
        if n < 1:
            raise ConfigError(f"the number of structures to select is {n}: it must be above 0")
        energies = np.array([_e_above_hull(atoms, number) for number, atoms in enumerate(candidates)], dtype=float)
        rng = np.random.default_rng(seed)
        chosen = []
        for lower, upper, quota in zip([-np.inf, *self.upper_edges], self.upper_edges, self.quotas, strict=False):
            window = np.flatnonzero((lower <= energies) & (energies < upper))
            chosen.append(rng.choice(window, size=min(quota, len(window)), replace=False))
        drawn = np.sort(np.concatenate(chosen))
        indices = drawn[np.argsort(energies[drawn], kind="stable")][:n]
        return Selection(indices, energies[indices])


def _e_above_hull(atoms: Atoms, number: int) -> float:
    if "e_above_hull" not in atoms.info:
        name = atoms.info.get("id", f"candidate {number}")
        raise StructureError(f"{name} has no e_above_hull; only screened structures can be selected by it")
    return float(atoms.info["e_above_hull"])
