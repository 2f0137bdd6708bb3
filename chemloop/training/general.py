"""A general set of crystals without a download: the AFLOW prototypes that come with pymatgen, perturbed."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from ase import Atoms

from chemloop.physics.perturbation import has_close_atoms, perturb
from chemloop.runtime.errors import ConfigError, ItemFailed

MAX_ATOMS = 16
POSITION_AMPLITUDE = (0.02, 0.10)
"""Of (V/N)^(1/3): root-mean-square displacement."""
STRAIN_AMPLITUDE = (0.0, 0.05)
MIN_DISTANCE_SCALE = 0.6
"""Of the sum of covalent radii."""


def general_structures(n: int, seed: int, elements_allowed: Collection[int]) -> list[Atoms]:
    """n perturbed crystals of many chemistries, of at most MAX_ATOMS atoms, with `id`; the same for the same arguments.

    The prototypes are real compounds (NaCl, CaTiO3, MoSi2, ...) of 69 elements in their own lattices; each comes once,
    with perturbations of its own, before any comes again.
    elements_allowed: atomic numbers
    Raises: ConfigError when no prototype consists of these elements alone
    Source: doi:10.1016/j.commatsci.2017.01.017
    """
    prototypes = [atoms for atoms in aflow_prototypes() if set(atoms.numbers.tolist()) <= set(elements_allowed)]
    if not prototypes:
        raise ConfigError(
            "training.replay = package:general: the model knows none of its elements; name an extxyz file of structures"
            " that it knows, or set training.replay=null, training.replay_fraction=0 and training.ewc_strength=0"
        )
    order = np.random.default_rng(seed).permutation(len(prototypes))
    structures: list[Atoms] = []
    for draw in range(n + len(prototypes)):
        if len(structures) == n:
            break
        atoms = prototypes[order[draw % len(prototypes)]]
        try:
            perturbed = perturb(
                atoms, POSITION_AMPLITUDE, STRAIN_AMPLITUDE, np.random.default_rng([seed, draw]), MIN_DISTANCE_SCALE
            )
        except ItemFailed:
            # a prototype whose atoms nearly touch: the next one takes its place
            continue
        perturbed.info["id"] = f"general-{draw:04d}"
        structures.append(perturbed)
    return structures


def aflow_prototypes() -> list[Atoms]:
    """Crystals of at most MAX_ATOMS atoms without overlapping ones, in the order of pymatgen's list."""
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

    found = []
    for entry in AFLOW_PROTOTYPE_LIBRARY:
        structure = entry["snl"].structure
        if len(structure) > MAX_ATOMS:
            continue
        numbers = [site.specie.Z for site in structure]
        atoms = Atoms(numbers, scaled_positions=structure.frac_coords, cell=structure.lattice.matrix, pbc=True)
        if not has_close_atoms(atoms, MIN_DISTANCE_SCALE):
            found.append(atoms)
    return found
