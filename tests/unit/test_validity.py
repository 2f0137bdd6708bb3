"""Which proposed crystals are worth relaxing."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from chemloop.physics.geometry import KnownGeometry, shortest_distances
from chemloop.physics.validity import Bounds, find_fault

NUMBERS = [11, 17]
KNOWN = [bulk("Na", "bcc", 4.29), bulk("Cl", "fcc", 5.5), bulk("NaCl", "rocksalt", 5.64)]
BOUNDS = Bounds.of(KnownGeometry.of(KNOWN, NUMBERS), 0.7, [0.5, 2.0], 2, 8)


def rocksalt(a: float = 5.64) -> Atoms:
    return bulk("NaCl", "rocksalt", a)


def test_bounds_are_those_of_all_known_structures():
    volumes = [atoms.cell.volume / len(atoms) for atoms in KNOWN]
    assert BOUNDS.volumes == pytest.approx((0.5 * min(volumes), 2.0 * max(volumes)))
    assert BOUNDS.distances[0, 1] == pytest.approx(0.7 * 5.64 / 2)
    assert BOUNDS.distances[0, 0] == pytest.approx(0.7 * shortest_distances(KNOWN[0], NUMBERS)[0, 0])


def test_known_structures_are_valid():
    assert [find_fault(atoms, BOUNDS) for atoms in KNOWN[2:]] == [None]
    free = Bounds.of(KnownGeometry.of(KNOWN, NUMBERS), 1.0, [1.0, 1.0])
    assert [find_fault(atoms, free) for atoms in KNOWN] == [None] * 3, "each at the very limit that it sets"


def squeezed() -> Atoms:
    atoms = rocksalt() * (1, 1, 2)
    atoms.positions[1] = atoms.positions[0] + [0, 0, 1.9]
    return atoms


@pytest.mark.parametrize(
    ("atoms", "fault"),
    [
        (bulk("KCl", "rocksalt", 5.64), "outside the system"),
        (Atoms("XCl", [[0, 0, 0], [2.8, 0, 0]], cell=[5.6, 4, 4], pbc=True), "outside the system"),
        (bulk("Na", "bcc", 4.29), "too few atoms"),
        (rocksalt() * (5, 1, 1), "too many atoms"),
        (rocksalt(3.9), "volume too small"),
        (rocksalt(9.0), "volume too large"),
        (squeezed(), "too close"),
        (Atoms("NaCl", [[0, 0, 0], [50, 20, 0]], cell=[1e2, 4e1, 1e-2], pbc=True), "cell too flat"),
    ],
)
def test_each_fault_has_one_name(atoms, fault):
    assert find_fault(atoms, BOUNDS) == fault


def test_an_atom_too_close_to_its_own_image():
    thin = Atoms("NaCl", [[0, 0, 0], [0, 3, 0]], cell=[2.2, 6, 3.4], pbc=True)
    assert find_fault(thin, BOUNDS) == "too close"


def test_no_limit_of_distance():
    loose = Bounds.of(KnownGeometry.of(KNOWN, NUMBERS), 0.0, [0.5, 2.0])
    atoms = squeezed()
    atoms.positions[1] = atoms.positions[0]
    assert find_fault(atoms, loose) is None
    assert not np.any(loose.distances)
