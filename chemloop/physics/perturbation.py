"""Random perturbations of crystals, and which ionic steps of a relaxation become frames."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from matscipy.neighbours import neighbour_list

from chemloop.runtime.errors import ItemFailed

MAX_DRAWS = 100


def perturb(
    atoms: Atoms,
    position_amplitude: tuple[float, float],
    strain_amplitude: tuple[float, float],
    rng: np.random.Generator,
    min_distance_scale: float = 0.6,
) -> Atoms:
    """A copy with a strained cell and displaced atoms, without info, results or any other array.

    The two amplitudes are drawn evenly from their ranges, once per perturbed structure. Then
    - the cell and the atoms in it are strained by the symmetric tensor e: the diagonal is normal with standard
      deviation strain_amplitude, e_ij off the diagonal half of such a number (a shear angle is 2 e_ij);
    - each atom is displaced by a normal vector whose root-mean-square length is position_amplitude times
      a = (volume / n_atoms)^(1/3) of the unperturbed cell, so each component has 1/sqrt(3) of it.
    Where two atoms then are closer than allowed, everything is drawn again.

    position_amplitude: range in units of a, paper (0.08, 0.15)
    strain_amplitude: range, paper (0.03, 0.05)
    min_distance_scale: shortest distance allowed, in sums of covalent radii
    Raises: ItemFailed when MAX_DRAWS perturbations in a row bring atoms too close
    Source: section 4.2 of the paper; the meaning of the amplitudes is that of dpdata's `perturb`
    """
    spacing = (atoms.cell.volume / len(atoms)) ** (1 / 3)
    for _ in range(MAX_DRAWS):
        strain = rng.normal(scale=rng.uniform(*strain_amplitude), size=(3, 3))
        strain = np.triu(strain, 1) / 2 + np.triu(strain, 1).T / 2 + np.diag(np.diag(strain))
        length = rng.uniform(*position_amplitude) * spacing
        cell = atoms.cell.array @ (np.eye(3) + strain)
        perturbed = Atoms(atoms.numbers, scaled_positions=atoms.get_scaled_positions(False), cell=cell, pbc=atoms.pbc)
        perturbed.positions += rng.normal(scale=length / np.sqrt(3), size=(len(atoms), 3))
        if not has_close_atoms(perturbed, min_distance_scale):
            return perturbed
    name = atoms.info.get("id", atoms.get_chemical_formula())
    raise ItemFailed(
        f"{MAX_DRAWS} random perturbations of {name} in a row brought atoms"
        f" closer than {min_distance_scale:g} of the sum of their covalent radii; lower the amplitudes or that limit"
    )


def has_close_atoms(atoms: Atoms, min_distance_scale: float) -> bool:
    """Whether two atoms, periodic images included, are closer than this multiple of the sum of their covalent radii."""
    radii = min_distance_scale * covalent_radii[atoms.numbers]
    centers, others, distances = neighbour_list("ijd", atoms, 2.0 * float(radii.max()))
    return bool((distances < radii[centers] + radii[others]).any())


def kept_steps(n_steps: int, n_kept: int, rng: np.random.Generator) -> np.ndarray:
    """Which ionic steps of a relaxation become frames: the first, the last and random ones between, sorted.

    Returns: min(n_steps, n_kept) different indices; the last step alone where n_kept is 1
    Raises: ValueError for a relaxation without steps or n_kept below 1
    Source: section 4.2 of the paper (n_kept = 5)
    """
    if n_steps < 1 or n_kept < 1:
        raise ValueError(f"{n_kept} of {n_steps} ionic steps cannot be kept; both numbers must be above 0")
    if n_kept == 1 or n_steps == 1:
        return np.array([n_steps - 1])
    between = rng.choice(np.arange(1, n_steps - 1), size=min(n_steps, n_kept) - 2, replace=False)
    return np.sort(np.concatenate([[0], between, [n_steps - 1]]))
