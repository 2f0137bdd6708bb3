"""Elastic weight consolidation: weights that mattered to the base are held back while a model is fine-tuned.

Source: doi:10.1073/pnas.1611835114, with experience replay for force fields arXiv:2506.15223
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms

from chemloop.training.data import targets
from chemloop.training.loss import channel_losses
from chemloop.training.recipe import Recipe

NOISE = {"energy": 0.02, "force": 0.05, "stress": 0.02}
"""Energy per atom (eV), force component (eV/A), virial per atom (eV): about the errors of universal force fields."""


class Consolidation(torch.nn.Module):
    """The penalty strength/2 sum F (w - w_base)^2.

    weights: those that train, as they are in the base
    fisher: of each weight, of the same shape
    """

    def __init__(self, weights: Sequence[torch.Tensor], fisher: Sequence[torch.Tensor], strength: float):
        super().__init__()
        self.n_weights = len(weights)
        self.strength = strength
        # buffers move with the training to its device; they are computed again, not saved with its state
        for number, (weight, information) in enumerate(zip(weights, fisher, strict=True)):
            self.register_buffer(f"base_{number}", weight.detach().clone(), persistent=False)
            self.register_buffer(f"fisher_{number}", information.detach().clone(), persistent=False)

    def forward(self, weights: Sequence[torch.Tensor]) -> torch.Tensor:
        """A scalar in the units of the loss."""
        terms = [
            (getattr(self, f"fisher_{number}") * (weight - getattr(self, f"base_{number}")) ** 2).sum()
            for number, weight in enumerate(weights)
        ]
        return self.strength / 2 * torch.stack(terms).sum()


def fisher_information(
    potential: Any, weights: Sequence[torch.Tensor], frames: Sequence[Atoms], recipe: Recipe
) -> list[torch.Tensor]:
    """The diagonal Fisher information: the mean over frames of the squared gradient of the loss of one frame.

    The loss is that of the recipe with its last prefactors. What is returned is divided by the largest of them, so that
    the penalty grows as the loss does where all grow alike, and ewc_strength means the same for all recipes. A base
    that is asked about its own labels has neither loss nor gradient: give frames `with_noise`, for which this estimates
    the true, not the empirical information.
    Source: arXiv:2506.15223 (one structure at a time, squared gradient of the whole loss); arXiv:1905.12558
    """
    was_training = potential.training
    potential.train()
    information = [torch.zeros_like(weight) for weight in weights]
    with torch.random.fork_rng():
        # networks with random layers: a training that continues after a kill must find the same information
        torch.manual_seed(0)
        for atoms in frames:
            batch = potential.collate([atoms])
            losses = channel_losses(potential(batch), targets([atoms], weights[0]), batch.n_atoms, recipe)
            terms = [factor * losses[channel] for channel, factor in recipe.last_prefactors.items()]
            gradients = torch.autograd.grad(torch.stack(terms).sum(), weights, allow_unused=True)
            for total, gradient in zip(information, gradients, strict=True):
                if gradient is not None:
                    total += gradient.detach() ** 2 / len(frames)
    potential.train(was_training)
    largest = max(recipe.last_prefactors.values()) or 1.0
    return [total / largest for total in information]


def with_noise(frames: Sequence[Atoms], seed: int) -> list[Atoms]:
    """Copies with labels drawn from normal distributions around theirs, with standard deviations NOISE."""
    noisy = []
    for number, atoms in enumerate(frames):
        rng = np.random.default_rng([seed, number])
        copy = atoms.copy()
        copy.info["label_energy"] += len(atoms) * NOISE["energy"] * rng.normal()
        copy.arrays["label_forces"] = copy.arrays["label_forces"] + NOISE["force"] * rng.normal(size=(len(atoms), 3))
        virial = np.triu(rng.normal(size=(3, 3)))
        virial += np.triu(virial, 1).T
        density = len(atoms) / atoms.cell.volume
        copy.info["label_stress"] = copy.info["label_stress"] + NOISE["stress"] * virial * density
        noisy.append(copy)
    return noisy
