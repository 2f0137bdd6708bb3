"""Pairs of atoms within a cutoff, and the forces and stresses of energies that depend on them.

This module imports torch: backends import it inside their methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from matscipy.neighbours import neighbour_list


class Pairs(NamedTuple):
    """Every pair of atoms within the cutoff once, for structures that follow one another.

    first, second: (n_pairs,) indices of the atoms
    vectors: (n_pairs, 3) A, from first to the periodic image of second
    structure: (n_pairs,) the structure that each pair belongs to
    atom_structure: (n_atoms,) the structure that each atom belongs to
    volumes: (n_structures,) A^3
    """

    first: torch.Tensor
    second: torch.Tensor
    vectors: torch.Tensor
    structure: torch.Tensor
    atom_structure: torch.Tensor
    volumes: torch.Tensor


def find_pairs(structures: Sequence[Atoms], cutoff: float, dtype: torch.dtype, device: torch.device) -> Pairs:
    """All pairs within the cutoff (A); vectors are computed in double precision, then rounded to dtype."""
    offsets = np.cumsum([0, *(len(atoms) for atoms in structures)])
    found = [_half_neighbors(atoms, cutoff) for atoms in structures]

    def index(parts: list[np.ndarray]) -> torch.Tensor:
        return torch.as_tensor(np.concatenate(parts), dtype=torch.long, device=device)

    return Pairs(
        first=index([first + offset for (first, _, _), offset in zip(found, offsets, strict=False)]),
        second=index([second + offset for (_, second, _), offset in zip(found, offsets, strict=False)]),
        vectors=torch.as_tensor(np.concatenate([vectors for _, _, vectors in found]), dtype=dtype, device=device),
        structure=index([np.full(len(first), k) for k, (first, _, _) in enumerate(found)]),
        atom_structure=index([np.full(len(atoms), k) for k, atoms in enumerate(structures)]),
        volumes=torch.tensor([atoms.cell.volume for atoms in structures], dtype=dtype, device=device),
    )


def _half_neighbors(atoms: Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    first, second, images, vectors = neighbour_list("ijSD", atoms, float(cutoff))
    # of the two directions in which a pair is found, the one whose (second - first, image) is positive
    order = np.column_stack([second - first, images])
    leading = order[np.arange(len(order)), (order != 0).argmax(axis=1)]
    keep = leading > 0
    return first[keep], second[keep], vectors[keep]


def pair_derivatives(
    energies: torch.Tensor, vectors: torch.Tensor, pairs: Pairs, is_training: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Forces (n_atoms, 3) eV/A and stresses (n_structures, 3, 3) eV/A^3 of an energy that depends on pair vectors.

    With g = dE/dr of a pair, +g acts on its first atom and -g on its second; the stress is the sum of r g / V,
    symmetric by construction.
    """
    (gradient,) = torch.autograd.grad(energies.sum(), vectors, create_graph=is_training, materialize_grads=True)
    forces = gradient.new_zeros(len(pairs.atom_structure), 3)
    forces = forces.index_add(0, pairs.first, gradient).index_add(0, pairs.second, -gradient)
    virials = gradient.new_zeros(len(pairs.volumes), 3, 3)
    virials = virials.index_add(0, pairs.structure, vectors[:, :, None] * gradient[:, None, :])
    return forces, (virials + virials.transpose(1, 2)) / (2 * pairs.volumes[:, None, None])
