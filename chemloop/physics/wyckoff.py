"""Random symmetric crystals: Wyckoff positions of a space group, occupied at random."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase import Atoms

N_SPACE_GROUPS = 230
N_HALL_NUMBERS = 530  # of settings of space groups
SYMPREC = 1e-4  # A; positions are exact, so this only has to be above rounding


class SpaceGroup(NamedTuple):
    """A space group in its conventional setting.

    lattice: e.g. `cubic`; n_lattice_points: in the conventional cell
    operations: of each Wyckoff position, (multiplicity, 3, 4); is_point: those that hold no more than one atom
    """

    lattice: str
    n_lattice_points: int
    operations: list[np.ndarray]
    is_point: np.ndarray


@functools.cache
def space_group(number: int) -> SpaceGroup:
    """Lattice and Wyckoff positions of a space group, from PyXtal's tables."""
    from pyxtal.symmetry import Group

    group = Group(number)
    operations = [np.array([operation.affine_matrix[:3] for operation in position.ops]) for position in group]
    is_point = np.array([position.get_dof() == 0 for position in group])
    return SpaceGroup(group.lattice_type, group.cellsize(), operations, is_point)


@functools.cache
def n_point_operations() -> np.ndarray:
    """(230,) order of the point group of each space group, 1 for P1 to 48 for Fm-3m."""
    import spglib

    orders = np.zeros(N_SPACE_GROUPS, dtype=int)
    for hall_number in range(1, N_HALL_NUMBERS + 1):
        group, symmetry = spglib.get_spacegroup_type(hall_number), spglib.get_symmetry_from_database(hall_number)
        assert group is not None and symmetry is not None
        orders[group.number - 1] = len(np.unique(symmetry["rotations"], axis=0))
    return orders


def random_occupation(group: SpaceGroup, counts: np.ndarray, rng: np.random.Generator) -> list[tuple[int, int]] | None:
    """Pairs (element, Wyckoff position) that hold `counts` atoms per primitive cell; None where the draw led nowhere.

    As PyXtal does, one draw in two prefers the most general position that fits.
    Source: doi:10.1016/j.cpc.2020.107810
    """
    multiplicities = np.array([len(operations) for operations in group.operations])
    is_free = np.ones(len(multiplicities), dtype=bool)
    occupation = []
    for element in rng.permutation(len(counts)):
        left = counts[element] * group.n_lattice_points
        while left:
            fitting = np.flatnonzero(is_free & (multiplicities <= left))
            if len(fitting) == 0:
                return None
            if rng.random() < 0.5:
                fitting = fitting[multiplicities[fitting] == multiplicities[fitting].max()]
            position = int(rng.choice(fitting))
            is_free[position] = not group.is_point[position]
            left -= multiplicities[position]
            occupation.append((int(element), position))
    return occupation


def random_cell(lattice: str, volume: float, shortest: float, rng: np.random.Generator) -> np.ndarray | None:
    """(3, 3) A: a conventional cell of that volume, no edge below `shortest`, by PyXtal; None where none was found."""
    from pyxtal.lattice import generate_cellpara, para2matrix
    from pyxtal.msg import VolumeError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parameters = generate_cellpara(lattice, volume, minvec=shortest, random_state=rng)
    except VolumeError:
        return None
    return np.asarray(para2matrix(parameters))


def random_crystal(
    group: SpaceGroup,
    occupation: Sequence[tuple[int, int]],
    numbers: np.ndarray,
    volume_per_atom: float,
    shortest: float,
    rng: np.random.Generator,
) -> Atoms | None:
    """A primitive cell with the symmetry of the group; None where no cell fits. Distances are not looked at.

    occupation: pairs (position in `numbers`, Wyckoff position); numbers: (n_species,) atomic numbers
    volume_per_atom: A^3
    shortest: A, for the edges of the conventional cell
    """
    scaled: list[np.ndarray] = []
    species: list[int] = []
    for element, position in occupation:
        operations = group.operations[position]
        scaled.append(operations[:, :, :3] @ rng.random(3) + operations[:, :, 3])
        species += [int(numbers[element])] * len(operations)
    cell = random_cell(group.lattice, volume_per_atom * len(species), shortest, rng)
    if cell is None:
        return None
    return primitive_cell(Atoms(species, scaled_positions=np.concatenate(scaled) % 1.0, cell=cell, pbc=True))


def primitive_cell(crystal: Atoms) -> Atoms | None:
    """The crystal in its primitive cell; None where atoms lie on top of each other."""
    import spglib

    cell = crystal.cell.array, crystal.get_scaled_positions(), crystal.numbers
    primitive = spglib.find_primitive(cell, symprec=SYMPREC)  # type: ignore[arg-type]  # spglib takes arrays
    if primitive is None:
        return None
    return Atoms(primitive[2], scaled_positions=primitive[1], cell=primitive[0], pbc=True)
