"""Labelled frames for training: what is allowed, and which are held out."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms

from chemloop.physics.holdout import hash_fraction, held_out_for_good, origin
from chemloop.runtime.errors import ConfigError, EnergyFrameError, StructureError
from chemloop.training.recipe import CHANNELS

log = logging.getLogger(__name__)
KEYS = {"energy": "label_energy", "force": "label_forces", "stress": "label_stress"}
N_LISTED = 5
AUTO_ATOMS = 32


class Targets(NamedTuple):
    """Labels of a batch: energies (n_structures,) eV/atom, forces (n_atoms, 3) eV/A, stresses (n_structures, 3, 3)
    eV/A^3, and volumes_per_atom (n_structures,) A^3."""

    energies: torch.Tensor
    forces: torch.Tensor
    stresses: torch.Tensor
    volumes_per_atom: torch.Tensor


def targets(frames: Sequence[Atoms], like: torch.Tensor) -> Targets:
    """The labels, on the device and in the dtype of `like`; zeros for a channel that not all frames have."""
    labelled = labelled_channels(frames)

    def tensor(values: list) -> torch.Tensor:
        return torch.as_tensor(np.array(values), dtype=like.dtype, device=like.device)

    n_atoms = [len(atoms) for atoms in frames]
    return Targets(
        tensor([atoms.info["label_energy"] / len(atoms) if "energy" in labelled else 0.0 for atoms in frames]),
        tensor(list(np.concatenate([atoms.arrays["label_forces"] for atoms in frames])))
        if "force" in labelled
        else tensor(sum(n_atoms) * [np.zeros(3)]),
        tensor([atoms.info["label_stress"] if "stress" in labelled else np.zeros((3, 3)) for atoms in frames]),
        tensor([atoms.cell.volume / len(atoms) for atoms in frames]),
    )


def label(atoms: Atoms, channel: str) -> Any:
    """The label of energy (eV), force (n_atoms, 3) eV/A or stress (3, 3) eV/A^3; None where there is none."""
    return atoms.arrays.get(KEYS[channel]) if channel == "force" else atoms.info.get(KEYS[channel])


def labelled_channels(frames: Sequence[Atoms]) -> list[str]:
    """Those of energy, force and stress for which every frame has a label."""
    return [channel for channel in CHANNELS if all(label(atoms, channel) is not None for atoms in frames)]


def check_frames(frames: Sequence[Atoms], channels: Sequence[str] = CHANNELS) -> None:
    """Check that all frames have the labels of these channels, at one level of theory.

    Raises: StructureError, EnergyFrameError
    """
    if not frames:
        raise StructureError("no labelled frames were given; a training or an error measure needs some")
    for channel in channels:
        without = [name(atoms) for atoms in frames if label(atoms, channel) is None]
        if without:
            raise StructureError(
                f"{len(without)} of {len(frames)} frames have no {KEYS[channel]} ({listed(without)}): label them, or"
                f" set training.{channel}_prefactor=[0,0] to train without {channel}"
            )
    without = [name(atoms) for atoms in frames if "energy_frame" not in atoms.info]
    if without:
        raise StructureError(
            f"{len(without)} of {len(frames)} frames have no energy_frame ({listed(without)}): say in"
            ' info["energy_frame"] at which level of theory they were labelled'
        )
    levels = sorted({atoms.info["energy_frame"] for atoms in frames})
    if len(levels) > 1:
        raise EnergyFrameError(
            f"the frames were labelled at {len(levels)} levels of theory ({', '.join(levels)});"
            " use frames of one energy_frame"
        )


def without_outliers(frames: Sequence[Atoms], max_force: float) -> list[Atoms]:
    """Frames on whose atoms no label force is above max_force (eV/A), nor is it no number; the others are reported.

    Raises: StructureError when none is left
    """
    kept, outliers, largest = [], [], 0.0
    for atoms in frames:
        forces = label(atoms, "force")
        length = 0.0 if forces is None else float(np.linalg.norm(forces, axis=1).max())
        if length <= max_force:
            kept.append(atoms)
        else:
            outliers.append(name(atoms))
            largest = max(largest, length)
    if outliers:
        log.warning(
            "%d of %d frames with forces above training.max_force = %g eV/A left out, the largest is %.3g: %s",
            len(outliers), len(frames), max_force, largest, listed(outliers),
        )  # fmt: skip
    if not kept:
        raise StructureError(
            f"all {len(frames)} frames have forces above training.max_force = {max_force:g} eV/A, the largest is"
            f" {largest:.3g}: check the labels or raise training.max_force"
        )
    return kept


def name(atoms: Atoms) -> str:
    """What a frame is called in messages."""
    return str(atoms.info.get("id", atoms.get_chemical_formula()))


def listed(names: Sequence[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - N_LISTED} more" if len(names) > N_LISTED else ""
    return ", ".join(names[:N_LISTED]) + more


def batch_structures(batch_size: int | str, frames: Sequence[Atoms], n_devices: int) -> int:
    """The batch size as a number: `auto` is as many structures as have 32 atoms on average, at least.

    Raises: ConfigError where the training frames are fewer than a batch of a number was asked to hold
    Source: the batch_size `auto` of DeePMD-kit, which says so for each set of cells of one size
    """
    if isinstance(batch_size, str):
        n_atoms = float(np.mean([len(atoms) for atoms in frames]))
        return max(1, min(math.ceil(AUTO_ATOMS / n_atoms), len(frames) // n_devices))
    if len(frames) < batch_size * n_devices:
        on_each = f" on each of {n_devices} devices" if n_devices > 1 else ""
        raise ConfigError(
            f"training.batch_size = {batch_size}{on_each} is more than the {len(frames)} training frames that are left"
            " without outliers and validation: lower training.batch_size, set it to auto, or label more structures"
        )
    return batch_size


def split(frames: Sequence[Atoms], valid_fraction: float, valid_by: str) -> tuple[list[Atoms], list[Atoms]]:
    """Train and valid frames; valid_by: `frame` or `parent`, what is held out as a whole.

    Frames are held out by a hash of their ids, so what was held out stays held out while a training set grows.
    Raises: StructureError when too few frames or structures are left for one of the two, or frames have no id
    """
    if valid_by == "parent":
        return split_by_parent(frames, valid_fraction)
    without = [name(atoms) for atoms in frames if "id" not in atoms.info]
    if without:
        raise StructureError(
            f"{len(without)} of {len(frames)} frames have no id ({listed(without)}), by which training.valid_by=frame"
            ' holds some out: give each its own in info["id"]'
        )
    order = sorted(frames, key=lambda atoms: hash_fraction(str(atoms.info["id"])))
    is_held = [hash_fraction(str(atoms.info["id"])) < valid_fraction for atoms in order]
    valid = [atoms for atoms, held in zip(order, is_held, strict=True) if held] or order[:1]
    held_ids = {id(atoms) for atoms in valid}
    train = [atoms for atoms in frames if id(atoms) not in held_ids]
    if not train:
        raise StructureError(
            f"{len(frames)} frames cannot be split into training and validation; label more structures"
        )
    return train, valid


def split_by_parent(frames: Sequence[Atoms], valid_fraction: float) -> tuple[list[Atoms], list[Atoms]]:
    """Train and valid frames; those of one parent structure stay together, for they resemble each other.

    While a training set grows at its end from iteration to iteration, what was held out stays held out, and the
    validation of a continued training is not on frames that it has been trained on.
    Raises: StructureError when the frames come from fewer than two structures
    """
    held = held_out_for_good(frames, valid_fraction)
    train = [atoms for atoms in frames if origin(atoms) not in held]
    return train, [atoms for atoms in frames if origin(atoms) in held]
