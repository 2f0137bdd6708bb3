"""What is checked after every fit: fine-tuning goes wrong silently."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms

from chemloop.protocols import Potential
from chemloop.runtime.errors import ChemLoopError
from chemloop.training.evaluation import Predictions, predict

TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Largest difference of two predictions of the same weights, relative to the largest number among them plus 1."""

TOLERATED = 1.05
"""Times the base's validation RMSE: as much a channel may be worse where the others gain."""
NEEDED = 0.99
"""Mean ratio of validation RMSEs, to be below."""
ROUNDING = 1e-5
"""eV/atom, eV/A, eV/A^3: differences of this size are no gain."""


class FitCheckFailed(ChemLoopError):
    """A fine-tuning whose result cannot be trusted."""


def largest_difference(structures: Sequence[Atoms], one: Predictions, other: Predictions) -> dict[str, float]:
    """Of energies per atom, forces and stresses, relative to the largest number plus 1 (eV/atom, eV/A, eV/A^3)."""
    n_atoms = np.array([len(atoms) for atoms in structures])
    pairs = {
        "energy": (one.energies / n_atoms, other.energies / n_atoms),
        "force": (np.concatenate(one.forces), np.concatenate(other.forces)),
        "stress": (one.stresses, other.stresses),
    }
    return {name: float(np.max(np.abs(a - b)) / (1 + np.max(np.abs(b)))) for name, (a, b) in pairs.items()}


def check_same(structures: Sequence[Atoms], one: Potential, other: Potential, what: str) -> None:
    """Check that two potentials with the same weights predict the same; one takes batches, the other single structures.

    Raises: FitCheckFailed
    """
    assert isinstance(one, torch.nn.Module)
    tolerance = TOLERANCES[next(one.parameters()).dtype]
    batched, single = predict(structures, one, len(structures)), predict(structures, other, 1)
    differences = largest_difference(structures, batched, single)
    # a NaN must fail too
    if not all(value <= tolerance for value in differences.values()):
        listed = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
        raise FitCheckFailed(
            f"{what}: the largest relative differences are {listed}, allowed is {tolerance:g};"
            " this is a defect of the model's backend, the campaign cannot go on with it"
        )


def is_better(
    channels: Sequence[str],
    before: dict[str, float],
    shifted: dict[str, float],
    after: dict[str, float],
    is_random: bool = False,
) -> bool:
    """Whether fitted weights are worth keeping, by validation RMSEs in the channels trained: on average lower than
    those of the base with shifted energies (mean ratio below NEEDED), and in no channel more than TOLERATED times the
    base's own.

    Some dozens of frames are a small sample: one of three channels may be a little higher where the others gain much.
    is_random: the base has random weights, which say nothing; that they predict stresses near 0, where small ones are,
        is no merit to be kept, so the mean alone decides
    """
    ratios = [(after[channel] + ROUNDING) / (shifted[channel] + ROUNDING) for channel in channels]
    is_kept = is_random or all(after[channel] <= TOLERATED * before[channel] for channel in channels)
    return is_kept and float(np.mean(ratios)) < NEEDED
