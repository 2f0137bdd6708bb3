"""Soft modes: along which displacements the bonds of a crystal resist least.

Harmonic springs between all pairs, as stiff as the electronegativities of the two atoms in that bond; no force field,
no relaxation. The model is that of ase-ga's `SoftMutation`, which differentiates forces numerically, atom by atom: 20
to 190 ms for 12 to 24 atoms, where the sum over pairs takes 0.4 to 1.4 ms for the same numbers.
Source: doi:10.1016/j.cpc.2010.06.007; doi:10.1103/PhysRevB.84.092103
"""

from __future__ import annotations

import functools

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from matscipy.neighbours import neighbour_list

from chemloop.physics.structures import bare

CUTOFF = 6.0  # A
DECAY = 0.37  # A, of bond valences
ELECTRONEGATIVITY = 0.481  # A, times the number of valence electrons over the radius of the atom in the bond


def soft_modes(atoms: Atoms) -> np.ndarray:
    """(3 n_atoms - 3, n_atoms, 3) displacements, softest first, each of norm 1; translations are left out."""
    n = len(atoms)
    hessian = stiffness(atoms)
    translations = np.tile(np.eye(3), (n, 1)) / np.sqrt(n)
    # Springs know no translation; made the stiffest of all, they are the last three.
    hessian += 2 * (np.trace(hessian) + 1) * translations @ translations.T
    return np.linalg.eigh(hessian)[1].T[:-3].reshape(-1, n, 3)


def stiffness(atoms: Atoms) -> np.ndarray:
    """(3 n_atoms, 3 n_atoms) second derivatives of the energy of the springs, in the model's own unit."""
    n = len(atoms)
    i, j, distances, vectors = neighbour_list("ijdD", atoms, CUTOFF)
    radii = covalent_radii[atoms.numbers]
    excess = distances - radii[i] - radii[j]
    valences = np.exp(-excess / DECAY)
    sums = np.bincount(i, valences, minlength=n)
    electrons = np.array([n_valence_electrons(int(number)) for number in atoms.numbers])
    # of each end of a bond: its electronegativity times the share that the bond has of its valence
    ends = [ELECTRONEGATIVITY * electrons[k] / (radii[k] + excess / 2) * valences / sums[k] for k in (i, j)]
    springs = np.sqrt(ends[0] * ends[1])
    units = vectors / distances[:, None]
    blocks = springs[:, None, None] * units[:, :, None] * units[:, None, :]
    hessian = np.zeros((n, n, 3, 3))
    np.add.at(hessian, (i, i), blocks)
    np.subtract.at(hessian, (i, j), blocks)
    return hessian.transpose(0, 2, 1, 3).reshape(3 * n, 3 * n)


@functools.cache
def n_valence_electrons(number: int) -> int:
    """Electrons outside the noble-gas core and outside filled d and f shells, by the group of the periodic table."""
    from pymatgen.core import Element

    group = Element(chemical_symbols[number]).group
    return group if group <= 12 else group - 10


def displaced(atoms: Atoms, mode: np.ndarray, largest: float) -> Atoms:
    """The crystal moved along a mode until the atom that moves most has moved by `largest` (A)."""
    child = bare(atoms)
    child.positions += mode * (largest / np.linalg.norm(mode, axis=1).max())
    child.wrap()
    return child
