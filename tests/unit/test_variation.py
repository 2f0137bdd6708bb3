"""The operators of generator=evolution: what each changes, what it keeps, and which parents and operators it takes."""

from collections import Counter

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii

from chemloop.physics.breeding import AS_PARENT, NO_COMPOSITION, OPERATORS, TOO_CLOSE, Breeder, multiples
from chemloop.physics.composition import cell_compositions
from chemloop.physics.composition_space import CompositionSpace
from chemloop.physics.geometry import KnownGeometry, overlap
from chemloop.physics.heredity import cut_counts, splice, taken
from chemloop.physics.parents import choose_parents, mating_weights, operator_success
from chemloop.physics.soft_modes import displaced, n_valence_electrons, soft_modes, stiffness
from chemloop.physics.variation import (
    enlarged,
    is_same_arrangement,
    permuted,
    reduced,
    roomiest_point,
    strained,
    with_composition,
)

NA_CL = np.array([11, 17])
SALT = bulk("NaCl", "rocksalt", 5.64)
SODIUM = bulk("Na", "bcc", 4.29)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def crystal(n, seed=0, numbers=(11, 17)):
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(5, 7, 3)) + rng.normal(0, 0.4, (3, 3))
    return Atoms(rng.choice(numbers, n), scaled_positions=rng.random((n, 3)), cell=cell, pbc=True)


def counts_of(atoms):
    return np.array([(atoms.numbers == number).sum() for number in NA_CL])


def as_pool(atoms, id, e_above_hull, role="candidate", **info):
    copy = atoms.copy()
    flags = {"is_stable": True, "is_unique": True, "is_novel": True} if role == "candidate" else {}
    copy.info = {"id": id, "role": role, "e_above_hull": e_above_hull, **flags, **info}
    return copy


def breeder(parents=(SALT, SODIUM), sizes=(4, 8), **changes):
    known = [SALT, SODIUM, bulk("Cl", "fcc", 5.5)]
    counts = cell_compositions(2, *sizes)
    values = {
        "parents": list(parents),
        "weights": np.ones(len(parents)),
        "space": CompositionSpace(counts, np.ones(len(counts))),
        "known": KnownGeometry.of(known, NA_CL),
        "n_neighbours": None,
        "min_distance_scale": 1.0,
        "volume_scale": (0.9, 1.2),
        "n_pushes": 100,
        "max_change": 3,
        "composition_width": 2.0,
        "strain": 0.2,
        "displacement": (0.5, 1.0),
    }
    return Breeder(**(values | changes))


@pytest.mark.parametrize("n_cells", [1, 2, 3, 4, 6, 8])
def test_a_larger_cell_is_the_same_crystal_and_compact(n_cells):
    large, lengths = enlarged(SALT, n_cells), enlarged(SALT, n_cells).cell.lengths()
    assert len(large) == 2 * n_cells and is_same_arrangement(large, SALT.repeat((n_cells, 1, 1)))
    assert lengths.max() / lengths.min() < 3.1


def test_reduction_changes_no_distance():
    skewed = crystal(6)
    skewed.set_cell(skewed.cell.array + [[0, 0, 0], [0, 0, 0], 3 * skewed.cell.array[0]])
    short = reduced(skewed)
    assert short.cell.lengths().sum() < 0.8 * skewed.cell.lengths().sum()
    assert is_same_arrangement(short, skewed)


def test_strain_keeps_volume_and_fractional_positions(rng):
    start = crystal(6)
    for _ in range(20):
        child = strained(start, 0.5, rng)
        assert child.cell.volume == pytest.approx(start.cell.volume)
        assert np.linalg.det(child.cell.array) * np.linalg.det(start.cell.array) > 0
        assert np.allclose(child.get_scaled_positions(), start.get_scaled_positions())
    assert not np.allclose(child.cell.cellpar(), start.cell.cellpar(), rtol=0.1)


def test_permutation_moves_elements_only(rng):
    start = crystal(8)
    child = permuted(start, 1, rng)
    assert (counts_of(child) == counts_of(start)).all() and (child.numbers != start.numbers).sum() == 2
    assert np.allclose(child.positions, start.positions)
    with pytest.raises(ValueError, match="Na has one element only"):
        permuted(bulk("Na"), 1, rng)


@pytest.mark.parametrize("counts", [[4, 4], [1, 7], [6, 5], [2, 1], [8, 0], [0, 3]])
def test_a_new_composition_takes_as_few_changes_as_possible(rng, counts):
    start = crystal(8)
    child = with_composition(start, np.array(counts), NA_CL, rng)
    assert (counts_of(child) == counts).all()
    assert child.cell.volume / len(child) == pytest.approx(start.cell.volume / len(start))
    kept = sum(
        (np.abs(child.get_scaled_positions() - at) < 1e-9).all(axis=1).any() for at in start.get_scaled_positions()
    )
    assert kept == min(len(start), len(child))


def test_an_atom_is_added_where_there_is_room(rng):
    points = np.array([roomiest_point(SALT, rng) for _ in range(20)])
    radii = covalent_radii[SALT.numbers]

    def room(point):
        atoms = SALT + Atoms("H", positions=[point])
        return (atoms.get_distances(2, [0, 1], mic=True) - radii).min()

    anywhere = np.random.default_rng(1).random((20, 3)) @ SALT.cell.array
    assert np.mean([room(p) for p in points]) > max(np.mean([room(p) for p in anywhere]) + 0.4, 0.5)


def test_arrangements_are_told_apart():
    swapped = SALT.copy()
    swapped.numbers = swapped.numbers[::-1]
    assert is_same_arrangement(SALT, swapped)  # both sublattices are alike
    layered = SALT.repeat((2, 1, 1))
    layered.numbers = [11, 11, 17, 17]
    assert not is_same_arrangement(SALT.repeat((2, 1, 1)), layered)


def test_heredity_takes_a_slab_of_each_parent(rng):
    sodium, chlorine = crystal(9, 1, (11,)), crystal(7, 2, (17,))
    volumes = []
    for _ in range(20):
        pieces = splice(sodium, chlorine, rng)
        child = taken(pieces, cut_counts(pieces, NA_CL), NA_CL)
        x = child.get_scaled_positions()[:, 0]
        is_first = child.numbers == 11
        assert (x[is_first] < pieces.share).all() and (x[~is_first] > pieces.share).all()
        assert 0.25 <= pieces.share <= 0.75 and np.linalg.det(pieces.atoms.cell.array) > 0
        volumes.append(pieces.atoms.cell.volume)
    assert 0.5 * min(sodium.cell.volume, chlorine.cell.volume) < min(volumes)


def test_a_slab_keeps_the_distances_of_its_parent(rng):
    """Two equal parents with equal cells: atoms of one slab are as far apart as they were."""
    cubic = Atoms(np.full(12, 11), scaled_positions=np.random.default_rng(3).random((12, 3)), cell=[6] * 3, pbc=True)
    pieces = splice(cubic, cubic, rng)
    mine = np.flatnonzero(pieces.depths[:12] > 0)
    assert len(mine) > 2
    expected = cubic.get_all_distances(mic=True)[np.ix_(mine, mine)]
    assert np.allclose(pieces.atoms.get_all_distances(mic=True)[np.ix_(mine, mine)], expected)


def test_another_composition_than_the_cut_takes_or_leaves_atoms_at_the_faces(rng):
    pieces = splice(crystal(10, 1), crystal(12, 2), rng)
    raw = cut_counts(pieces, NA_CL)
    more, fewer = taken(pieces, raw + [1, 0], NA_CL), taken(pieces, raw - [0, 1], NA_CL)
    assert (counts_of(more) == raw + [1, 0]).all() and (counts_of(fewer) == raw - [0, 1]).all()
    outside = (pieces.atoms.numbers == 11) & (pieces.depths <= 0)
    nearest = np.flatnonzero(outside)[np.argmax(pieces.depths[outside])]
    assert any(np.allclose(pieces.atoms.positions[nearest], position) for position in more.positions)


def test_stiffness_is_the_second_derivative_of_the_springs():
    """The forces of springs are linear in the displacement: undone by a translation, symmetric, never negative."""
    hessian = stiffness(crystal(6))
    assert np.allclose(hessian, hessian.T)
    assert np.allclose(hessian @ np.tile(np.eye(3), (6, 1)), 0)
    assert np.linalg.eigvalsh(hessian).min() > -1e-9


def test_soft_modes_begin_where_bonds_are_weakest():
    """Two molecules in a wide cell: they turn and shift as wholes before their bonds stretch."""
    molecules = Atoms("Cl4", positions=[[0, 0, 0], [2, 0, 0], [0, 6, 0], [0, 8, 0]], cell=[20, 20, 20], pbc=True)
    modes = soft_modes(molecules)
    assert modes.shape == (9, 4, 3)
    assert np.allclose(np.einsum("kna,lna->kl", modes, modes), np.eye(9))
    assert np.allclose(modes.sum(axis=1), 0)

    def stretch(mode):
        return max(abs((mode[1] - mode[0])[0]), abs((mode[3] - mode[2])[1]))

    assert max(stretch(mode) for mode in modes[:6]) < 0.1 < min(stretch(mode) for mode in modes[-2:])


def test_the_largest_displacement_is_the_one_asked_for():
    start = crystal(6)
    child = displaced(start, soft_modes(start)[0], 0.7)
    moves = [
        np.linalg.norm(start.cell.array.T @ (d - np.round(d)))
        for d in child.get_scaled_positions() - start.get_scaled_positions()
    ]
    assert max(moves) == pytest.approx(0.7)


def test_valence_electrons():
    expected = {"H": 1, "Li": 1, "P": 5, "S": 6, "Cl": 7, "Fe": 8, "Ge": 4, "La": 3}
    assert {symbol: n_valence_electrons(atomic_numbers[symbol]) for symbol in expected} == expected


def test_compositions_are_drawn_nearby_and_by_preference(rng):
    counts = cell_compositions(2, 4, 8)
    preference = np.where((counts == [4, 4]).all(axis=1), 5.0, 1.0)
    space, everywhere = CompositionSpace(counts, preference), np.ones(len(counts), dtype=bool)
    near = np.array([4, 3])
    drawn = Counter(tuple(space.draw_near(near, everywhere, 1.0, rng)) for _ in range(2000))
    assert drawn[4, 4] / drawn[5, 3] == pytest.approx(5, rel=0.4)
    assert drawn[4, 3] / drawn[5, 3] == pytest.approx(np.e, rel=0.4)  # one more atom
    assert drawn[4, 3] / drawn[5, 2] == pytest.approx(np.e, rel=0.4)  # another element for one atom
    assert drawn[4, 3] / drawn[6, 2] == pytest.approx(np.e**2, rel=0.5)
    assert space.draw_near(near, ~everywhere, 1.0, rng) is None
    assert CompositionSpace(counts, 0 * preference).draw_near(near, everywhere, 1.0, rng) is None


@pytest.mark.parametrize("operator", OPERATORS)
def test_children_keep_to_sizes_distances_and_volumes(operator, rng):
    crossing = breeder()
    drafts = [crossing.breed(operator, rng) for _ in range(15)]
    children = [draft.child for draft in drafts if draft.child is not None]
    assert len(children) >= 10
    for child in children:
        limits, volumes = crossing.known.near(counts_of(child), None)
        assert 4 <= len(child) <= 8
        assert overlap(child, limits, NA_CL) <= 1 + 1e-6
        assert 0.9 * volumes[0] * (1 - 1e-6) <= child.cell.volume / len(child) <= 1.2 * volumes[1] * (1 + 1e-6)
    assert all(len(draft.parents) == (2 if operator == "heredity" else 1) for draft in drafts)
    assert {draft.reason for draft in drafts} <= {None, TOO_CLOSE, AS_PARENT, NO_COMPOSITION}


@pytest.mark.parametrize("operator", OPERATORS)
def test_cells_of_one_size(operator, rng):
    crossing = breeder(parents=[SALT, crystal(5)], sizes=(6, 6), min_distance_scale=0.5)
    drafts = [crossing.breed(operator, rng) for _ in range(10)]
    assert {len(draft.child) for draft in drafts if draft.child is not None} == {6}


def test_operators_that_no_parent_can_start_from():
    only = breeder(parents=[SODIUM], sizes=(4, 4))
    assert not only.can("permutation") and only.can("exchange") and only.can("heredity")
    large = breeder(parents=[crystal(20)])
    assert not any(large.can(operator) for operator in OPERATORS)
    assert list(multiples(3, 4, 9)) == [2, 3] and not multiples(5, 6, 9)


def test_volume_and_distances_that_cannot_be_had(rng):
    tight = breeder(volume_scale=(0.3, 0.3), n_pushes=3)
    assert tight.breed("exchange", rng).reason == TOO_CLOSE


def test_a_permutation_that_changes_nothing_is_refused(rng):
    swapping = breeder(parents=[SALT], sizes=(2, 2))
    assert swapping.breed("permutation", rng).reason == AS_PARENT


def lost(structure, **info):
    """Its relaxation came to nothing."""
    atoms = structure.copy()
    atoms.info = {"id": "lost", "role": "lost"} | info
    return atoms


def test_parents_are_the_best_and_diverse():
    cell = SODIUM
    pool = [
        as_pool(cell, "old", -0.1),
        as_pool(cell, "labelled", -0.3),
        as_pool(cell, "labelled", 0.0, role="label"),
        as_pool(cell, "same", 0.0005, role="label"),
        as_pool(cell.repeat((2, 1, 1)), "third", 0.02),
        as_pool(SALT, "salt", 0.15),
        as_pool(SALT, "double", 0.1, is_unique=False),
        as_pool(SALT, "high", 0.3),
        as_pool(cell, "new", -0.05),
        lost(cell),
    ]
    assert [atoms.info["id"] for atoms in choose_parents(pool, 9, 3, 0.2, 0.001)] == ["labelled", "new", "old", "salt"]
    assert [atoms.info["id"] for atoms in choose_parents(pool, 9, 4, 0.2, 0.001)][-2:] == ["third", "salt"]
    assert [atoms.info["id"] for atoms in choose_parents(pool, 1, 9, 0.2, 0.001)] == ["labelled"]


def test_parents_breed_by_energy_and_share_with_their_composition():
    parents = [as_pool(SALT, "a", -0.2), as_pool(SALT, "b", 0.0), as_pool(bulk("Na"), "c", 0.1)]
    assert mating_weights(parents, 0.1) == pytest.approx([0.5, 0.5, np.exp(-1)])
    assert (mating_weights(parents, 1e-5) > 0).all()


def test_operators_that_paid_are_used_more():
    pool = [as_pool(SALT, str(n), 0.0, operator="soft") for n in range(30)]
    pool += [as_pool(SALT, str(n), 0.0, operator="strain", is_stable=n < 6) for n in range(60)]
    pool += [
        as_pool(SALT, "other", 0.0, operator="unknown"),
        as_pool(SALT, "none", 0.0),
        as_pool(SALT, "l", 0.0, "label"),
    ]
    success = operator_success(pool, ["soft", "strain", "exchange"])
    assert [success["soft"][key] for key in ("n_made", "n_sun")] == [30, 30]
    assert [success["strain"][key] for key in ("n_made", "n_sun")] == [60, 6]
    assert success["soft"]["factor"] == pytest.approx((30 + 20 * 0.4) / (30 * 0.4 + 20 * 0.4))
    assert success["strain"]["factor"] == pytest.approx((6 + 8) / (24 + 8)) and success["exchange"]["factor"] == 1
    of_many = operator_success([*pool, *(lost(SALT, operator="soft") for _ in range(30))], ["soft", "strain"])
    assert of_many["soft"]["n_made"] == 60 and of_many["soft"]["n_sun"] == 30
    assert 1 < of_many["soft"]["factor"] < success["soft"]["factor"]
    nothing = operator_success([as_pool(SALT, "a", 0.0, operator="soft", is_stable=False)], ["soft"])
    assert nothing["soft"]["factor"] == 1
