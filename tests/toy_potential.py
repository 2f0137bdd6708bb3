"""A small pair potential, fast and exact, that keeps the contract by itself; frames that it can learn; kills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from ase import Atoms
from matscipy.neighbours import neighbour_list

from chemloop.protocols import Batch, Prediction
from chemloop.runtime.errors import CheckpointError
from chemloop.training.evaluation import predict
from chemloop.training.finetune import Fit
from chemloop.training.recipe import Recipe

N_ELEMENTS = 20


class PairPotential(torch.nn.Module):
    """Energy: constants per element, and w_i w_j exp(-(r / width)^2) for every pair. Nothing but the contract."""

    cutoff = 4.0

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.strength = torch.nn.Parameter(torch.ones(N_ELEMENTS, dtype=dtype))
        self.width = torch.nn.Parameter(torch.tensor(1.5, dtype=dtype))
        self.constants = torch.nn.Parameter(torch.zeros(N_ELEMENTS, dtype=dtype), requires_grad=False)
        self.eval()

    def collate(self, structures: Sequence[Atoms]) -> Batch:
        offset, found, owners = 0, [], []
        for number, atoms in enumerate(structures):
            first, second, vectors = neighbour_list("ijD", atoms, self.cutoff)
            found.append((first + offset, second + offset, vectors))
            owners.append(np.full(len(atoms), number))
            offset += len(atoms)
        first, second, vectors = (np.concatenate(parts) for parts in zip(*found, strict=True))
        volumes = torch.tensor([atoms.cell.volume for atoms in structures], dtype=self.width.dtype)
        pairs = torch.as_tensor(first), torch.as_tensor(second), torch.as_tensor(vectors, dtype=self.width.dtype)
        all_numbers = np.concatenate([atoms.numbers for atoms in structures])
        if all_numbers.max() >= N_ELEMENTS:
            raise CheckpointError(f"the toy knows atomic numbers below {N_ELEMENTS}")
        numbers = torch.as_tensor(all_numbers)
        n_atoms = torch.tensor([len(atoms) for atoms in structures])
        return Batch((*pairs, torch.as_tensor(np.concatenate(owners)), volumes), numbers, n_atoms)

    def forward(self, batch: Batch) -> Prediction:
        first, second, vectors, owners, volumes = batch.inputs
        with torch.enable_grad():
            vectors = vectors.clone().requires_grad_()
            pair = self.strength[batch.numbers[first]] * self.strength[batch.numbers[second]] / 2
            pair = pair * torch.exp(-(vectors**2).sum(1) / self.width**2)
            energies = torch.zeros_like(volumes).index_add(0, owners[first], pair)
            (gradient,) = torch.autograd.grad(energies.sum(), vectors, create_graph=self.training)
            forces = gradient.new_zeros(len(owners), 3).index_add(0, first, gradient).index_add(0, second, -gradient)
            virials = vectors[:, :, None] * gradient[:, None, :]
            stresses = gradient.new_zeros(len(volumes), 3, 3).index_add(0, owners[first], virials)
            energies = energies.index_add(0, owners, self.constants[batch.numbers])
        return Prediction(energies, forces, stresses / volumes[:, None, None])

    def shift_energies(self, shifts: dict[int, float]) -> None:
        for number, shift in shifts.items():
            self.constants.data[number] += shift

    def save(self, path: Path) -> None:
        torch.save(self.state_dict(), path)


@dataclass
class PairForceField:
    can_learn: ClassVar[bool] = True
    checkpoint: str | None = ""

    def load(self, device: str = "cpu", dtype: str = "float32") -> PairPotential:
        potential = PairPotential(getattr(torch, dtype))
        if self.checkpoint:
            potential.load_state_dict(torch.load(self.checkpoint, weights_only=True))
        return potential


def labelled(n_parents: int = 6, n_each: int = 4, seed: int = 0, shift: float = 1.0) -> list[Atoms]:
    """Random Li-P-S cells labelled by the toy potential with other weights and constants."""
    rng = np.random.default_rng(seed)
    teacher = PairForceField().load()
    with torch.no_grad():
        teacher.strength[[3, 15, 16]] = torch.tensor([0.7, 1.5, 1.2])
        teacher.width.add_(0.1)
        teacher.constants[[3, 15, 16]] = shift * torch.tensor([-1.0, 2.0, -3.0])
    frames = []
    for parent in range(n_parents):
        numbers = rng.choice([3, 15, 16], size=rng.integers(3, 7))
        for k in range(n_each):
            atoms = Atoms(numbers, scaled_positions=rng.random((len(numbers), 3)), cell=np.eye(3) * 5, pbc=True)
            atoms.info |= {"id": f"i00-r{parent}/f{k}", "parent": f"i00-r{parent}", "energy_frame": "toy"}
            frames.append(atoms)
    predictions = predict(frames, teacher)
    for atoms, energy, forces, stress in zip(frames, *predictions, strict=True):
        atoms.info |= {"label_energy": float(energy), "label_stress": stress}
        atoms.arrays["label_forces"] = forces
    return frames


RECIPE = Recipe(
    epochs=4, batch_size=4, learning_rate=0.02, schedule="plateau", decay_epochs=1, ema_decay=0.5, criterion="mse",
    valid_fraction=0.2, valid_by="parent", save_every_steps=2, max_force=1e3, early_stopping_patience=3,
)  # fmt: skip


def predictions_of(fit: Fit, frames: list[Atoms]) -> np.ndarray:
    result = predict(frames, PairForceField(fit.checkpoint).load(), len(frames))
    return np.concatenate([result.energies, np.concatenate(result.forces).ravel(), result.stresses.ravel()])


class Killed(BaseException):
    pass


def killed_at(step: int):
    def progress(done: int, total: int) -> None:
        if done == step:
            raise Killed

    return progress
