"""Predictions of a potential for many structures, and their errors against labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms

from chemloop.protocols import Potential
from chemloop.training.data import check_frames, label, labelled_channels

UNITS = {"energy": "mev_per_atom", "force": "mev_per_ang", "stress": "mev_per_ang3"}


class Predictions(NamedTuple):
    """energies (n_structures,) eV; forces, per structure (n_atoms, 3) eV/A; stresses (n_structures, 3, 3) eV/A^3."""

    energies: np.ndarray
    forces: list[np.ndarray]
    stresses: np.ndarray


def predict(structures: Sequence[Atoms], potential: Potential, batch_size: int = 8) -> Predictions:
    """Energies, forces and stresses of all structures, in evaluation mode, in their order."""
    assert isinstance(potential, torch.nn.Module)
    was_training = potential.training
    potential.eval()
    energies, forces, stresses = [], [], []
    for start in range(0, len(structures), batch_size):
        part = structures[start : start + batch_size]
        prediction = potential(potential.collate(part))
        energies.append(prediction.energies.detach().double().cpu().numpy())
        all_forces = prediction.forces.detach().double().cpu().numpy()
        forces += np.split(all_forces, np.cumsum([len(atoms) for atoms in part])[:-1])
        stresses.append(prediction.stresses.detach().double().cpu().numpy())
    potential.train(was_training)
    return Predictions(np.concatenate(energies), forces, np.concatenate(stresses))


def errors(frames: Sequence[Atoms], potential: Potential, batch_size: int = 8) -> dict[str, float]:
    """RMSE of energies per atom, force components and stress components against the labels.

    Returns: energy_rmse_mev_per_atom, force_rmse_mev_per_ang, stress_rmse_mev_per_ang3
    Raises: StructureError for frames without labels, EnergyFrameError for mixed ones
    """
    check_frames(frames)
    channel_errors = rmse(frames, predict(frames, potential, batch_size))
    return {f"{channel}_rmse_{UNITS[channel]}": 1000 * value for channel, value in channel_errors.items()}


def rmse(frames: Sequence[Atoms], predictions: Predictions) -> dict[str, float]:
    """RMSE of energy (eV/atom), force (eV/A) and stress (eV/A^3), of those that all frames have labels of."""
    return {channel: float(np.sqrt(np.mean(values**2))) for channel, values in _residuals(frames, predictions).items()}


def mae(frames: Sequence[Atoms], predictions: Predictions) -> dict[str, float]:
    """Mean absolute error, in the units of `rmse`."""
    return {channel: float(np.mean(np.abs(values))) for channel, values in _residuals(frames, predictions).items()}


def _residuals(frames: Sequence[Atoms], predictions: Predictions) -> dict[str, np.ndarray]:
    n_atoms = np.array([len(atoms) for atoms in frames])
    residuals = {}
    for channel in labelled_channels(frames):
        labels = [label(atoms, channel) for atoms in frames]
        if channel == "energy":
            residuals[channel] = (predictions.energies - np.array(labels)) / n_atoms
        elif channel == "force":
            residuals[channel] = np.concatenate(predictions.forces) - np.concatenate(labels)
        else:
            residuals[channel] = predictions.stresses - np.array(labels)
    return residuals


def fit_shifts(structures: Sequence[Atoms], differences: np.ndarray) -> dict[int, float]:
    """A constant energy (eV) per atom of each element that comes nearest to the differences (n_structures,) in eV.

    Least squares of the differences per atom; where compositions do not determine the constants, the smallest ones.
    """
    elements = np.unique(np.concatenate([atoms.numbers for atoms in structures]))
    fractions = np.array([[np.mean(atoms.numbers == element) for element in elements] for atoms in structures])
    per_atom = np.asarray(differences) / [len(atoms) for atoms in structures]
    shifts, *_ = np.linalg.lstsq(fractions, per_atom, rcond=None)
    return {int(element): float(shift) for element, shift in zip(elements, shifts, strict=True)}
