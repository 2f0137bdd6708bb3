"""A compiled search that tells for most pairs of crystals whether pymatgen's StructureMatcher joins them.

It goes through the matcher's own search. It says no where conditions fail that are necessary for the matcher, yes where
conditions hold that are sufficient, and otherwise that the matcher has to be asked.

What the matcher accepts (pymatgen 2026.10, `StructureMatcher._strict_match`): both cells primitive and of equal volume;
an integer matrix M of determinant 1 or -1 so that the rows of M A, A the first cell, have lengths within a factor
1 + ltol of those of the second cell, and angles within angle_tol; atom k of the second crystal assigned to an atom of
its element in the first, displaced by d_k in the lattice whose lengths and angles are the means of both; and
|d_k - m| < s for all k, where m is the mean of all d_k and s = stol (V/N)^(1/3) of that mean lattice. The assignment is
that of the smallest sum of d_k^2 after one atom o of the rarest element was put on any of its element.

Necessary. Put o on the atom that it is assigned to. Then all atoms are displaced by d_k - d_o, and because all d_k lie
in a ball of radius s: (1) |d_k - d_o| < 2 s for every k, (2) |(d_k - d_o) - (d_l - d_o)| < 2 s for all pairs, (3) each
atom of the first crystal is used, by one k only. The search tries every M and every atom of o's element, and asks for
displacements with (1) to (3), pair by pair; where one is left for each atom, for |d_k - m| < s.

Sufficient. If the nearest atoms are at less than 2 s, and each is that of one k only, they are the assignment, and the
matcher finds |d_k - m| < s if that holds for them.

All limits are widened for a no, and narrowed for a yes, by `MARGIN`, far above rounding errors, so neither is an
approximation. Invariants of single structures could not do this: between cells that differ by ltol = 0.2 and 5 degrees,
and atoms that move by 2 s = 0.4 (V/N)^(1/3) against each other, a bond of 0.8 (V/N)^(1/3) may become one of 1.4, so a
sound bound on sorted distances separates next to nothing.

All that calls one another is in one file, because numba keeps compiled functions until their own file changes.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

MARGIN = 1e-6
"""Relative to lengths, and to (V/N)^(1/3) for displacements; 100 times it in degrees for angles."""
MAX_OPTIONS = 32
"""Atoms, images included, that one atom may be assigned to; where there are more the pair is not ruled out."""
NO, MAYBE, YES = 0, 1, 2


@njit(cache=True, error_model="numpy")
def next_match(start, cells, atoms, kinds, cell_2, atoms_2, kinds_2, ltol, stol, angle_tol):
    """Index of the first of several crystals, from `start` on, that is not ruled out, and the verdict on it.

    The index is their number where all are ruled out. cells: (m, 3, 3); atoms: (m, n, 3); kinds: (m, n); the rest as
    for `compare`
    """
    for number in range(start, len(cells)):
        verdict = compare(cells[number], atoms[number], kinds[number], cell_2, atoms_2, kinds_2, ltol, stol, angle_tol)
        if verdict != NO:
            return number, verdict
    return len(cells), NO


@njit(cache=True, error_model="numpy")
def compare(cell_1, atoms_1, kinds_1, cell_2, atoms_2, kinds_2, ltol, stol, angle_tol):
    """Whether the matcher joins two crystals: NO and YES are certain, MAYBE is for it to say.

    cell_1, cell_2: (3, 3), primitive, of volume n, the number of atoms
    atoms_1, atoms_2: (n, 3) fractional; kinds_1, kinds_2: (n,) integers, the same multiset of kinds
    stol: of (V/N)^(1/3); angle_tol: degrees
    """
    lengths = np.array([_norm(cell_2[0]), _norm(cell_2[1]), _norm(cell_2[2])])
    angles = np.array([_angle(cell_2[1], cell_2[2]), _angle(cell_2[0], cell_2[2]), _angle(cell_2[0], cell_2[1])])
    wide, narrow = _cosines(angles, angle_tol + 100 * MARGIN), _cosines(angles, angle_tol - 100 * MARGIN)
    factor = (1.0 + ltol) * (1.0 + MARGIN)
    steps, vectors, norms = _lattice_vectors(cell_1, min(lengths) / factor, max(lengths) * factor)
    first, second, third = [_within(norms, length, factor) for length in lengths]
    origin = _rarest(kinds_2)
    factor = (1.0 + ltol) * (1.0 - MARGIN)
    best = NO
    for a in first:
        for b in second:
            cos_c = _dot(vectors[a], vectors[b]) / (norms[a] * norms[b])
            if not wide[2, 0] <= cos_c <= wide[2, 1]:
                continue
            for c in third:
                cos_b = _dot(vectors[a], vectors[c]) / (norms[a] * norms[c])
                if not wide[1, 0] <= cos_b <= wide[1, 1]:
                    continue
                cos_a = _dot(vectors[b], vectors[c]) / (norms[b] * norms[c])
                if not wide[0, 0] <= cos_a <= wide[0, 1]:
                    continue
                if abs(_determinant(steps[a], steps[b], steps[c])) != 1.0:
                    continue
                inverse, _ = _inverse(steps[a], steps[b], steps[c])
                found = np.array([norms[a], norms[b], norms[c]])
                cosines = np.array([cos_a, cos_b, cos_c])
                metric = _mean_metric(found, cosines, lengths, angles)
                verdict = _fit(_product(atoms_1, inverse), kinds_1, atoms_2, kinds_2, origin, metric, stol)
                if verdict == YES:
                    for axis in range(3):
                        if not (
                            lengths[axis] / factor < found[axis] < lengths[axis] * factor
                            and narrow[axis, 0] < cosines[axis] < narrow[axis, 1]
                        ):
                            verdict = MAYBE
                    if verdict == YES:
                        return YES
                best = max(best, verdict)
    return best


@njit(cache=True, error_model="numpy")
def _fit(atoms_1, kinds_1, atoms_2, kinds_2, origin, metric, stol):
    """The verdict for one lattice; metric: (3, 3) of the mean lattice."""
    n = len(atoms_1)
    inverse, determinant = _inverse(metric[0], metric[1], metric[2])
    if not determinant > 0.0:
        return MAYBE
    length = (math.sqrt(determinant) / n) ** (1.0 / 3.0)
    limit = (2.0 * stol + MARGIN) * length
    reach = (limit * math.sqrt(inverse[0, 0]), limit * math.sqrt(inverse[1, 1]), limit * math.sqrt(inverse[2, 2]))
    frame = _triangle(metric)
    number = np.zeros(n, dtype=np.int64)
    target = np.zeros((n, MAX_OPTIONS), dtype=np.int64)
    option = np.zeros((n, MAX_OPTIONS, 3))
    best = NO
    for start in range(n):
        if kinds_1[start] != kinds_2[origin]:
            continue
        x, y, z = (
            atoms_1[start, 0] - atoms_2[origin, 0],
            atoms_1[start, 1] - atoms_2[origin, 1],
            atoms_1[start, 2] - atoms_2[origin, 2],
        )
        used = np.zeros(n, dtype=np.bool_)
        n_used = 0
        is_possible = True
        for k in range(n):
            number[k] = 0
            for i in range(n):
                if kinds_1[i] != kinds_2[k] or (k == origin and i != start):
                    continue
                difference = (
                    atoms_2[k, 0] + x - atoms_1[i, 0],
                    atoms_2[k, 1] + y - atoms_1[i, 1],
                    atoms_2[k, 2] + z - atoms_1[i, 2],
                )
                found = _near_images(difference, reach, frame, limit, option[k], target[k], number[k], i)
                if found > MAX_OPTIONS:
                    return MAYBE
                if found > number[k] and not used[i]:
                    used[i] = True
                    n_used += 1
                number[k] = found
            if number[k] == 0:
                is_possible = False
                break
        if is_possible and n_used == n:
            if _nearest_fit(number, target, option, (stol - MARGIN) * length):
                return YES
            if best == NO and _are_consistent(number, target, option, limit):
                is_settled = max(number) == 1
                if not is_settled or _radius(option[:, 0]) < (stol + MARGIN) * length:
                    best = MAYBE
    return best


@njit(cache=True, error_model="numpy")
def _nearest_fit(number, target, option, limit):
    """Whether the nearest atoms are, without ties, an assignment with every displacement from the mean in the limit."""
    n = len(number)
    chosen = np.zeros((n, 3))
    used = np.zeros(n, dtype=np.bool_)
    for k in range(n):
        nearest, least, second = 0, np.inf, np.inf
        for a in range(number[k]):
            square = _dot(option[k, a], option[k, a])
            if square < least:
                nearest, least, second = a, square, least
            elif square < second:
                second = square
        if used[target[k, nearest]] or second - least < MARGIN * limit**2:
            return False
        used[target[k, nearest]] = True
        chosen[k] = option[k, nearest]
    return _radius(chosen) < limit


@njit(cache=True, error_model="numpy")
def _radius(vectors):
    """The longest difference from the mean of the vectors."""
    n = len(vectors)
    x, y, z = 0.0, 0.0, 0.0
    for k in range(n):
        x, y, z = x + vectors[k, 0] / n, y + vectors[k, 1] / n, z + vectors[k, 2] / n
    longest = 0.0
    for k in range(n):
        longest = max(longest, (vectors[k, 0] - x) ** 2 + (vectors[k, 1] - y) ** 2 + (vectors[k, 2] - z) ** 2)
    return math.sqrt(longest)


@njit(cache=True, error_model="numpy")
def _near_images(difference, reach, frame, limit, option, target, number, i):
    """Append the images of a difference that are shorter than the limit; returns how many there are then."""
    a, b, c = difference
    for x in range(math.ceil(a - reach[0]), math.floor(a + reach[0]) + 1):
        for y in range(math.ceil(b - reach[1]), math.floor(b + reach[1]) + 1):
            for z in range(math.ceil(c - reach[2]), math.floor(c + reach[2]) + 1):
                u, v, w = a - x, b - y, c - z
                # the frame is lower triangular
                p = u * frame[0, 0] + v * frame[1, 0] + w * frame[2, 0]
                q = v * frame[1, 1] + w * frame[2, 1]
                r = w * frame[2, 2]
                if p * p + q * q + r * r < limit * limit:
                    if number < MAX_OPTIONS:
                        option[number] = p, q, r
                        target[number] = i
                    number += 1
    return number


@njit(cache=True, error_model="numpy")
def _are_consistent(number, target, option, limit):
    """Strike options that no option of some other atom goes with, until none is left to strike or an atom has none."""
    n = len(number)
    has_changed = True
    while has_changed:
        has_changed = False
        for k in range(n):
            kept = 0
            for a in range(number[k]):
                is_supported = True
                for other in range(n):
                    if other == k:
                        continue
                    is_supported = False
                    for b in range(number[other]):
                        if target[other, b] != target[k, a]:
                            u = option[k, a, 0] - option[other, b, 0]
                            v = option[k, a, 1] - option[other, b, 1]
                            w = option[k, a, 2] - option[other, b, 2]
                            if u * u + v * v + w * w < limit * limit:
                                is_supported = True
                                break
                    if not is_supported:
                        break
                if is_supported:
                    option[k, kept] = option[k, a]
                    target[k, kept] = target[k, a]
                    kept += 1
            if kept == 0:
                return False
            has_changed = has_changed or kept < number[k]
            number[k] = kept
    return True


@njit(cache=True, error_model="numpy")
def _lattice_vectors(cell, shortest, longest):
    """All lattice vectors of lengths in a range: their coefficients, the vectors, their lengths."""
    inverse, _ = _inverse(cell[0], cell[1], cell[2])
    i, j, k = [math.floor(longest * _norm(inverse[:, axis]) + MARGIN) for axis in range(3)]
    size = (2 * i + 1) * (2 * j + 1) * (2 * k + 1)
    steps, vectors, norms = np.zeros((size, 3)), np.zeros((size, 3)), np.zeros(size)
    n = 0
    for x in range(-i, i + 1):
        for y in range(-j, j + 1):
            for z in range(-k, k + 1):
                u = x * cell[0, 0] + y * cell[1, 0] + z * cell[2, 0]
                v = x * cell[0, 1] + y * cell[1, 1] + z * cell[2, 1]
                w = x * cell[0, 2] + y * cell[1, 2] + z * cell[2, 2]
                norm = math.sqrt(u * u + v * v + w * w)
                if shortest < norm < longest:
                    steps[n, 0], steps[n, 1], steps[n, 2] = x, y, z
                    vectors[n, 0], vectors[n, 1], vectors[n, 2], norms[n] = u, v, w, norm
                    n += 1
    return steps[:n], vectors[:n], norms[:n]


@njit(cache=True, error_model="numpy")
def _mean_metric(lengths_1, cosines_1, lengths_2, angles_2):
    """(3, 3) of the lattice whose lengths and angles are the means of two; angles_2: degrees."""
    metric = np.empty((3, 3))
    for i in range(3):
        a, b = (lengths_1[i] + lengths_2[i]) / 2.0, (lengths_1[(i + 1) % 3] + lengths_2[(i + 1) % 3]) / 2.0
        opposite = (i + 2) % 3
        angle = (math.acos(min(max(cosines_1[opposite], -1.0), 1.0)) + math.radians(angles_2[opposite])) / 2.0
        metric[i, i] = a * a
        metric[i, (i + 1) % 3] = metric[(i + 1) % 3, i] = a * b * math.cos(angle)
    return metric


@njit(cache=True, error_model="numpy")
def _triangle(metric):
    """The lower triangular lattice of a metric."""
    frame = np.zeros((3, 3))
    frame[0, 0] = math.sqrt(metric[0, 0])
    frame[1, 0] = metric[1, 0] / frame[0, 0]
    frame[2, 0] = metric[2, 0] / frame[0, 0]
    frame[1, 1] = math.sqrt(metric[1, 1] - frame[1, 0] ** 2)
    frame[2, 1] = (metric[2, 1] - frame[2, 0] * frame[1, 0]) / frame[1, 1]
    frame[2, 2] = math.sqrt(metric[2, 2] - frame[2, 0] ** 2 - frame[2, 1] ** 2)
    return frame


@njit(cache=True, error_model="numpy")
def _within(norms, length, factor):
    """Which of the norms differ from a length by less than a factor."""
    chosen = np.empty(len(norms), dtype=np.int64)
    n = 0
    for number in range(len(norms)):
        if length / factor < norms[number] < length * factor:
            chosen[n] = number
            n += 1
    return chosen[:n]


@njit(cache=True, error_model="numpy")
def _cosines(angles, tolerance):
    """(3, 2): the lowest and the highest cosine of angles within the tolerance; degrees."""
    limits = np.empty((3, 2))
    for axis in range(3):
        limits[axis, 0] = math.cos(math.radians(min(angles[axis] + tolerance, 180.0)))
        limits[axis, 1] = math.cos(math.radians(max(angles[axis] - tolerance, 0.0)))
    return limits


@njit(cache=True, error_model="numpy")
def _rarest(kinds):
    """The first atom of those whose kind is the rarest: the one that the matcher puts on others."""
    rarest, least = 0, len(kinds) + 1
    for k in range(len(kinds)):
        n = 0
        for i in range(len(kinds)):
            n += kinds[i] == kinds[k]
        if n < least:
            rarest, least = k, n
    return rarest


@njit(cache=True, error_model="numpy")
def _inverse(a, b, c):
    """Inverse and determinant of the matrix with these rows."""
    determinant = _determinant(a, b, c)
    inverse = np.empty((3, 3))
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        inverse[i, 0] = (b[j] * c[k] - b[k] * c[j]) / determinant
        inverse[i, 1] = (c[j] * a[k] - c[k] * a[j]) / determinant
        inverse[i, 2] = (a[j] * b[k] - a[k] * b[j]) / determinant
    return inverse, determinant


@njit(cache=True, error_model="numpy")
def _determinant(a, b, c):
    return a[0] * (b[1] * c[2] - b[2] * c[1]) + a[1] * (b[2] * c[0] - b[0] * c[2]) + a[2] * (b[0] * c[1] - b[1] * c[0])


@njit(cache=True, error_model="numpy")
def _product(atoms, matrix):
    product = np.empty((len(atoms), 3))
    for k in range(len(atoms)):
        for axis in range(3):
            product[k, axis] = (
                atoms[k, 0] * matrix[0, axis] + atoms[k, 1] * matrix[1, axis] + atoms[k, 2] * matrix[2, axis]
            )
    return product


@njit(cache=True, error_model="numpy")
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(cache=True, error_model="numpy")
def _norm(a):
    return math.sqrt(_dot(a, a))


@njit(cache=True, error_model="numpy")
def _angle(a, b):
    cosine = _dot(a, b) / (_norm(a) * _norm(b))
    return math.degrees(math.acos(min(max(cosine, -1.0), 1.0)))
