"""Labelled frames for training: what is allowed, which are held out, in which order they come."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms

from chemloop.runtime.errors import EnergyFrameError, StructureError


class Targets(NamedTuple):
    """Labels of a batch: energies (n_structures,) eV/atom, forces (n_atoms, 3) eV/A, stresses (n_structures, 3, 3)
    eV/A^3, and volumes_per_atom (n_structures,) A^3."""

    energies: torch.Tensor
    forces: torch.Tensor
    stresses: torch.Tensor
    volumes_per_atom: torch.Tensor


def targets(frames: Sequence[Atoms], like: torch.Tensor) -> Targets:
    """The labels, on the device and in the dtype of `like`."""

    def tensor(values: list) -> torch.Tensor:
        return torch.as_tensor(np.array(values), dtype=like.dtype, device=like.device)

    return Targets(
        tensor([atoms.info["label_energy"] / len(atoms) for atoms in frames]),
        tensor(list(np.concatenate([atoms.arrays["label_forces"] for atoms in frames]))),
        tensor([atoms.info["label_stress"] for atoms in frames]),
        tensor([atoms.cell.volume / len(atoms) for atoms in frames]),
    )


def check_frames(frames: Sequence[Atoms]) -> None:
    """Check that all frames are labelled at one level of theory.

    Raises: StructureError, EnergyFrameError
    """
    if not frames:
        raise StructureError("no labelled frames were given; a training or an error measure needs some")
    for atoms in frames:
        name = atoms.info.get("id", atoms.get_chemical_formula())
        missing = [key for key in ("label_energy", "label_stress", "energy_frame") if key not in atoms.info]
        missing += [key for key in ("label_forces",) if key not in atoms.arrays]
        if missing:
            raise StructureError(f"{name} has no {', '.join(missing)}: only labelled frames can be learned or compared")
    levels = sorted({atoms.info["energy_frame"] for atoms in frames})
    if len(levels) > 1:
        raise EnergyFrameError(
            f"the frames were labelled at {len(levels)} levels of theory ({', '.join(levels)});"
            " use frames of one energy_frame"
        )


def without_outliers(frames: Sequence[Atoms], max_force: float) -> list[Atoms]:
    """Frames on whose atoms no label force is above max_force (eV/A)."""
    return [atoms for atoms in frames if np.linalg.norm(atoms.arrays["label_forces"], axis=1).max() <= max_force]


def root(atoms: Atoms) -> str:
    """Id of the structure that a frame comes from, through perturbations and ionic steps."""
    return str(atoms.info.get("parent", atoms.info.get("id", ""))).partition("/")[0]


def split(frames: Sequence[Atoms], valid_fraction: float, valid_by: str) -> tuple[list[Atoms], list[Atoms]]:
    """Train and valid frames; valid_by: `frame` or `parent`, what is held out as a whole.

    Frames are held out by a hash of their ids, so what was held out stays held out while a training set grows.
    Raises: StructureError when too few frames or structures are left for one of the two
    """
    if valid_by == "parent":
        return split_by_parent(frames, valid_fraction)
    order = sorted(frames, key=lambda atoms: hashlib.sha256(str(atoms.info["id"]).encode()).digest())
    is_held = [_hash_fraction(atoms) < valid_fraction for atoms in order]
    valid = [atoms for atoms, held in zip(order, is_held, strict=True) if held] or order[:1]
    held_ids = {id(atoms) for atoms in valid}
    train = [atoms for atoms in frames if id(atoms) not in held_ids]
    if not train:
        raise StructureError(
            f"{len(frames)} frames cannot be split into training and validation; label more structures"
        )
    return train, valid


def _hash_fraction(atoms: Atoms) -> float:
    """A number in [0, 1) that depends on the frame's id alone."""
    return int.from_bytes(hashlib.sha256(str(atoms.info["id"]).encode()).digest()[:8], "big") / 2**64


def split_by_parent(frames: Sequence[Atoms], valid_fraction: float) -> tuple[list[Atoms], list[Atoms]]:
    """Train and valid frames; those of one parent structure stay together, for they resemble each other.

    Parents are drawn in the order of a hash of their ids, until that brings the number of frames no nearer to
    valid_fraction. So, while a training set grows from iteration to iteration, what was held out stays held out,
    and the validation of a continued training is not on frames that it has been trained on.
    Raises: StructureError when the frames come from fewer than two structures
    """
    sizes = Counter(root(atoms) for atoms in frames)
    if len(sizes) < 2:
        raise StructureError(
            f"{len(frames)} frames of {len(sizes)} parent structure ({', '.join(sizes)}) cannot be split into"
            " training and validation; label at least two structures"
        )
    *parents, _ = sorted(sizes, key=lambda parent: hashlib.sha256(parent.encode()).digest())
    counts = np.cumsum([sizes[parent] for parent in parents])
    held = set(parents[: 1 + int(np.argmin(np.abs(counts - valid_fraction * len(frames))))])
    return [atoms for atoms in frames if root(atoms) not in held], [atoms for atoms in frames if root(atoms) in held]


class Batches:
    """Which frames each training step sees: a function of (seed, step), so there is no state to lose in a kill.

    Frames are shuffled anew in every epoch and batches are collated anew at every step: with our neighbour lists
    that costs 1 % of a step, less than what fixed batches lose.
    n_shares: with several devices each takes every n_shares-th frame of a global batch
    """

    def __init__(self, frames: Sequence[Atoms], batch_size: int, seed: int, n_shares: int = 1):
        self.frames = list(frames)
        self.batch_size = min(batch_size * n_shares, len(self.frames))
        self.seed = seed
        self.n_shares = n_shares

    def __len__(self) -> int:
        """Steps per epoch; a rest too small to give each device a frame is left out of the epoch."""
        return len(self.frames) // self.batch_size + (len(self.frames) % self.batch_size >= self.n_shares)

    def at(self, step: int, share: int = 0) -> list[Atoms]:
        """The frames of a step, the first being 0."""
        epoch, batch = divmod(step, len(self))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.frames))
        chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        return [self.frames[index] for index in chosen[share :: self.n_shares]]
