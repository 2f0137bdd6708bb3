"""A compiled test that tells for most crystals that pymatgen finds no smaller cell of them."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

PRIMITIVE_TOLERANCE = 0.25
"""A, of pymatgen's `get_primitive_structure`."""
MARGIN = 1e-6
"""By which the tolerance is widened, far above rounding errors."""


@njit(cache=True, error_model="numpy")
def may_be_reduced(cell, atoms, kinds, rarest, n_units):
    """Whether pymatgen's `get_primitive_structure` might find a smaller cell; False is certain.

    It needs a translation between two atoms of the rarest kind that takes every atom near one of its kind, within twice
    0.25 A per axis. Without any it would take a fraction 1/n of an axis for no translation, which needs an axis
    shorter than 0.25 n A.

    cell: (3, 3) A; atoms: (n, 3) fractional; rarest: the kind that pymatgen takes
    n_units: greatest common divisor of the numbers of atoms of each kind
    """
    if n_units == 1:
        return False
    tolerance = np.empty(3)
    for axis in range(3):
        length = math.sqrt(cell[axis, 0] ** 2 + cell[axis, 1] ** 2 + cell[axis, 2] ** 2)
        if length <= PRIMITIVE_TOLERANCE * n_units * (1.0 + MARGIN):
            return True
        tolerance[axis] = 2.0 * PRIMITIVE_TOLERANCE * (1.0 + MARGIN) / length
    first = -1
    for k in range(len(atoms)):
        if kinds[k] == rarest:
            if first < 0:
                first = k
            elif _is_translation(atoms, kinds, first, k, tolerance):
                return True
    return False


@njit(cache=True, error_model="numpy")
def _is_translation(atoms, kinds, start, end, tolerance):
    for k in range(len(atoms)):
        found = False
        for other in range(len(atoms)):
            if kinds[other] == kinds[k] and not found:
                found = True
                for axis in range(3):
                    difference = atoms[other, axis] - atoms[k, axis] - atoms[end, axis] + atoms[start, axis]
                    if abs(difference - math.floor(difference + 0.5)) > tolerance[axis]:
                        found = False
        if not found:
            return False
    return True
