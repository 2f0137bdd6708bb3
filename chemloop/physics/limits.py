"""When a relaxing structure is done, and when it is given up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from chemloop.runtime.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """What a structure may do while it relaxes; beyond that it is rejected.

    max_energy_rise: eV/atom above its first energy, else it exploded
    max_force: eV/A on an atom at the end, else it exploded
    min_volume_ratio: of its first volume, else it collapsed
    min_distance_scale: of the sum of two covalent radii; atoms closer than that collapsed
    max_volume_ratio: of its first volume, else it evaporated
    """

    max_energy_rise: float = 5.0
    max_force: float = 50.0
    min_volume_ratio: float = 0.25
    min_distance_scale: float = 0.5
    max_volume_ratio: float = 4.0

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            if not value > 0:
                raise ConfigError(f"{key} = {value}: must be above 0")
        if not self.min_volume_ratio < 1 < self.max_volume_ratio:
            raise ConfigError(
                f"min_volume_ratio = {self.min_volume_ratio}, max_volume_ratio = {self.max_volume_ratio}:"
                " the first must be below 1, the second above"
            )


def residual_force(forces: np.ndarray, stress: np.ndarray, volume: float) -> float:
    """The largest of what is left: over atoms |F_i|, eV/A, and over rows of the virial |V stress_i| / n_atoms, eV.

    The second is what ASE's FrechetCellFilter calls the force on the cell; 0.05 eV at 20 A^3/atom is 0.4 GPa.
    """
    on_atoms = np.linalg.norm(forces, axis=1).max()
    on_cell = np.linalg.norm(stress, axis=1).max() * volume / len(forces)
    return float(max(on_atoms, on_cell))


def find_misshape(atoms: Atoms, first_volume: float, limits: Limits) -> str | None:
    """Why a structure should not even be evaluated, or None."""
    from matscipy.neighbours import neighbour_list

    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        return "not finite: positions or cell"
    ratio = atoms.cell.volume / first_volume
    if not ratio > limits.min_volume_ratio:
        return f"collapsed: volume fell to {ratio:.2f} of the first"
    if ratio > limits.max_volume_ratio:
        return f"evaporated: volume grew to {ratio:.1f} times the first"
    radii = covalent_radii[atoms.numbers] * limits.min_distance_scale
    first, second, distances = neighbour_list("ijd", atoms, 2 * float(radii.max()))
    gaps = distances - radii[first] - radii[second]
    if (gaps < 0).any():
        k = int(gaps.argmin())
        return f"collapsed: {atoms.symbols[first[k]]}-{atoms.symbols[second[k]]} distance of {distances[k]:.2f} A"
    return None


def find_flaw(atoms: Atoms, forces: np.ndarray, cutoff: float, limits: Limits) -> str | None:
    """Why the end of a relaxation is worthless, or None.

    cutoff: A, of the potential; an atom that sees no other one has an energy without meaning
    """
    from matscipy.neighbours import neighbour_list

    if n_alone := len(atoms) - len(np.unique(neighbour_list("i", atoms, float(cutoff)))):
        return f"evaporated: {n_alone} of {len(atoms)} atoms have no neighbour within {cutoff:g} A"
    largest = np.linalg.norm(forces, axis=1).max()
    return f"exploded: force of {largest:.0f} eV/A at the end" if largest > limits.max_force else None
