"""Perturbations have the amplitudes they claim, and no two atoms come out on top of each other."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell

from chemloop.physics import perturbation
from chemloop.physics.perturbation import has_close_atoms, kept_steps, perturb
from chemloop.runtime.errors import ItemFailed


def crystal() -> Atoms:
    atoms = make_supercell(bulk("LiS", "rocksalt", a=5.5), 2 * np.eye(3))
    atoms.info["id"] = "i01-g000-0007"
    atoms.info["label_energy"] = -1.0
    atoms.set_array("label_forces", np.zeros((len(atoms), 3)))
    return atoms


def test_displacements_have_the_amplitude_asked_for():
    atoms, rng = crystal(), np.random.default_rng(0)
    spacing = (atoms.cell.volume / len(atoms)) ** (1 / 3)
    moved = [perturb(atoms, (0.1, 0.1), (0.0, 0.0), rng, 0.0).positions - atoms.positions for _ in range(300)]
    assert np.sqrt(np.mean(np.sum(np.square(moved), axis=-1))) == pytest.approx(0.1 * spacing, rel=0.03)
    assert np.abs(np.mean(moved, axis=(0, 1))).max() < 0.01 * spacing


def test_strain_is_symmetric_and_has_the_amplitude_asked_for():
    atoms, rng = crystal(), np.random.default_rng(0)
    strains = []
    for _ in range(500):
        strained = perturb(atoms, (0.0, 0.0), (0.04, 0.04), rng, 0.0)
        unwrapped = [one.get_scaled_positions(wrap=False) for one in (strained, atoms)]
        np.testing.assert_allclose(*unwrapped, atol=1e-9)
        strains.append(np.linalg.solve(atoms.cell.array, strained.cell.array) - np.eye(3))
    np.testing.assert_allclose(strains, np.swapaxes(strains, 1, 2), atol=1e-12)
    spread = np.std(strains, axis=0)
    np.testing.assert_allclose(np.diag(spread), 0.04, rtol=0.15)
    np.testing.assert_allclose(spread[np.triu_indices(3, 1)], 0.02, rtol=0.15)


def test_amplitudes_are_drawn_from_their_range():
    atoms, rng = crystal(), np.random.default_rng(0)
    sizes = [
        np.sqrt(np.mean((perturb(atoms, low_high, (0.0, 0.0), rng, 0.0).positions - atoms.positions) ** 2))
        for low_high in [(0.08, 0.15)] * 200 + [(0.115, 0.115)] * 200
    ]
    assert np.std(sizes[:200]) > 1.5 * np.std(sizes[200:])


def test_a_perturbation_is_repeatable_bare_and_leaves_its_source_alone():
    atoms = crystal()
    before = atoms.copy()
    a, b = (perturb(atoms, (0.08, 0.15), (0.03, 0.05), np.random.default_rng(5)) for _ in range(2))
    assert a == b and a != atoms and atoms == before
    assert a.info == {} and set(a.arrays) == {"numbers", "positions"}
    assert (a.numbers == atoms.numbers).all() and a.pbc.all()


def test_close_atoms_are_drawn_again():
    atoms, rng = crystal(), np.random.default_rng(1)
    assert not any(has_close_atoms(perturb(atoms, (0.3, 0.3), (0.03, 0.05), rng), 0.6) for _ in range(20))
    unguarded = [perturb(atoms, (0.3, 0.3), (0.03, 0.05), rng, 0.0) for _ in range(20)]
    assert sum(has_close_atoms(one, 0.6) for one in unguarded) > 5


def test_close_atoms_are_found_across_the_cell_border():
    atoms = Atoms("S2", scaled_positions=[[0, 0, 0.02], [0, 0, 0.98]], cell=np.eye(3) * 10, pbc=True)
    assert has_close_atoms(atoms, 0.6)
    assert not has_close_atoms(atoms, 0.15)
    assert has_close_atoms(Atoms("S", cell=np.diag([1.0, 8.0, 8.0]), pbc=True), 0.6)


def test_hopeless_perturbations_fail_the_item(monkeypatch):
    monkeypatch.setattr(perturbation, "MAX_DRAWS", 5)
    with pytest.raises(ItemFailed, match="5 random perturbations of i01-g000-0007 in a row") as failure:
        perturb(crystal(), (0.1, 0.1), (0.03, 0.05), np.random.default_rng(0), 1.5)
    assert not failure.value.retryable


@pytest.mark.parametrize("n_steps, n_kept, size", [(40, 5, 5), (5, 5, 5), (3, 5, 3), (2, 5, 2), (1, 5, 1), (40, 2, 2)])
def test_kept_steps_hold_first_and_last(n_steps, n_kept, size):
    for seed in range(20):
        steps = kept_steps(n_steps, n_kept, np.random.default_rng(seed))
        assert len(steps) == size and steps[0] == 0 and steps[-1] == n_steps - 1
        assert (np.diff(steps) > 0).all()


def test_kept_steps_are_random_and_the_last_one_where_one_is_kept():
    draws = {tuple(kept_steps(40, 5, np.random.default_rng(seed))) for seed in range(20)}
    assert len(draws) > 15
    assert kept_steps(40, 1, np.random.default_rng(0)).tolist() == [39]


@pytest.mark.parametrize("n_steps, n_kept", [(0, 5), (10, 0), (10, -1)])
def test_impossible_numbers_of_steps_are_refused(n_steps, n_kept):
    with pytest.raises(ValueError, match=f"{n_kept} of {n_steps} ionic steps cannot be kept"):
        kept_steps(n_steps, n_kept, np.random.default_rng(0))
