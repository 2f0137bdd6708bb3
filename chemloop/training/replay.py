"""The general set on which a fine-tuned model should stay what its base was: labels, and how much is forgotten."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from ase import Atoms

from chemloop.physics.structures import read_structures, set_results, without
from chemloop.protocols import Potential
from chemloop.runtime.errors import CheckpointError, ConfigError, StructureError
from chemloop.training.data import label
from chemloop.training.evaluation import UNITS, predict, rmse
from chemloop.training.general import general_structures
from chemloop.training.recipe import PACKAGED, Recipe

log = logging.getLogger(__name__)
ENERGY_FRAME = "base"
N_ELEMENTS = 103
HELD_OUT = 5
"""One of so many structures measures forgetting, the others may be replayed."""


class GeneralSet(NamedTuple):
    """Structures labelled by the base."""

    replayed: list[Atoms]
    held_out: list[Atoms]


def general_set(recipe: Recipe, potential: Potential, seed: int, batch_size: int) -> GeneralSet:
    """recipe.n_replay structures of recipe.replay, labelled by the potential as it is now; empty without a replay.

    Structures with elements that the potential does not know are left out, and so are those on which it predicts forces
    above recipe.max_force.
    Raises: ConfigError, StructureError
    """
    if recipe.replay is None:
        return GeneralSet([], [])
    rng = np.random.default_rng(seed)
    if recipe.replay == PACKAGED:
        structures = general_structures(recipe.n_replay, seed, known_elements(potential, range(1, N_ELEMENTS + 1)))
    else:
        structures = _from_file(recipe, potential, rng)
    frames = label_by(potential, structures, batch_size)
    kept = [atoms for atoms in frames if _is_usable(atoms, recipe.max_force)]
    if len(kept) < len(frames):
        log.info("%d replay structures with forces above %g eV/A left out", len(frames) - len(kept), recipe.max_force)
    if len(kept) < 2:
        raise StructureError(
            f"training.replay = {recipe.replay}: only {len(kept)} of {len(frames)} structures have forces up to"
            f" training.max_force = {recipe.max_force:g} eV/A, at least 2 are needed: use other structures"
        )
    order = rng.permutation(len(kept))
    n_held = max(1, len(kept) // HELD_OUT)
    return GeneralSet([kept[k] for k in sorted(order[n_held:])], [kept[k] for k in sorted(order[:n_held])])


def _from_file(recipe: Recipe, potential: Potential, rng: np.random.Generator) -> list[Atoms]:
    assert recipe.replay is not None
    recipe.check_files()
    structures = read_structures(recipe.replay)
    present = {int(number) for atoms in structures for number in atoms.numbers}
    known = known_elements(potential, present)
    usable = [atoms for atoms in structures if set(atoms.numbers.tolist()) <= known]
    if len(usable) < 2:
        raise ConfigError(
            f"training.replay = {recipe.replay}: the model knows all elements of {len(usable)} of its {len(structures)}"
            " structures, at least 2 are needed"
        )
    if len(usable) < len(structures):
        log.warning("%d replay structures have elements that the model lacks", len(structures) - len(usable))
    chosen = rng.permutation(len(usable))[: recipe.n_replay]
    return [usable[k] for k in sorted(chosen)]


def known_elements(potential: Potential, numbers: Collection[int]) -> set[int]:
    """Those of the atomic numbers that the potential takes."""
    known = set()
    for number in numbers:
        try:
            potential.collate([Atoms([number], cell=np.eye(3) * 4.0, pbc=True)])
        except CheckpointError:
            continue
        known.add(number)
    return known


def label_by(potential: Potential, structures: Sequence[Atoms], batch_size: int) -> list[Atoms]:
    """Copies that carry the potential's predictions as labels."""
    predictions = predict(structures, potential, batch_size)
    frames = []
    for atoms, energy, forces, stress in zip(structures, *predictions, strict=True):
        copy = without(without(atoms, "label"), "mlff")
        frames.append(set_results(copy, "label", energy, forces, stress, ENERGY_FRAME))
    return frames


def _is_usable(atoms: Atoms, max_force: float) -> bool:
    values = [label(atoms, channel) for channel in UNITS]
    is_finite = all(np.isfinite(value).all() for value in values)
    return bool(is_finite and np.linalg.norm(atoms.arrays["label_forces"], axis=1).max() <= max_force)


def forgetting(held_out: Sequence[Atoms], potential: Potential, batch_size: int) -> dict[str, float]:
    """How far the potential is now from what the base said: RMSE by `forgetting_<channel>_rmse_<unit>`."""
    errors = rmse(held_out, predict(held_out, potential, batch_size))
    return {f"forgetting_{channel}_rmse_{UNITS[channel]}": 1000 * value for channel, value in errors.items()}
