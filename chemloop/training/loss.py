"""What is minimized, and which weights may move."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import huber_loss, mse_loss

from chemloop.protocols import Prediction
from chemloop.runtime.errors import ConfigError
from chemloop.training.data import Targets
from chemloop.training.recipe import Recipe


def channel_losses(
    prediction: Prediction, targets: Targets, n_atoms: torch.Tensor, recipe: Recipe
) -> dict[str, torch.Tensor]:
    """The mean loss of each trained channel, before prefactors.

    per_atom: residuals are in eV or eV/A, so that one huber_delta fits all: energy per atom, force components, and
    virial per atom (stress times volume per atom), which gives a dense phase its due.
    stress: the same, but of the stress itself, in eV/A^3.
    deepmd: the squares of a cell's energy and virial divided by its atoms, so n_atoms times those of per_atom, averaged
    over structures, and the same of forces, averaged over all components of the batch.
    n_atoms: (n_structures,)
    Source: mace.modules.loss.WeightedEnergyForcesStressLoss; deepmd.pt.loss.ener.EnergyStdLoss, with its mask of atoms
        for cells of different sizes
    """
    volumes = 1.0 if recipe.loss == "stress" else targets.volumes_per_atom[:, None, None]
    pairs = {
        "energy": (prediction.energies / n_atoms, targets.energies),
        "force": (prediction.forces, targets.forces),
        "stress": (prediction.stresses * volumes, targets.stresses * volumes),
    }
    losses = {}
    for channel in recipe.channels:
        predicted, label = pairs[channel]
        # under mixed precision a network may answer in fewer bits than the labels have
        predicted = predicted.to(label.dtype)
        if recipe.criterion == "huber":
            losses[channel] = huber_loss(predicted, label, delta=recipe.huber_delta)
        elif recipe.loss == "deepmd" and channel != "force":
            squares = ((predicted - label) ** 2).reshape(len(n_atoms), -1).mean(dim=1)
            losses[channel] = (n_atoms * squares).mean()
        else:
            losses[channel] = mse_loss(predicted, label)
    return losses


def choose_weights(potential: torch.nn.Module, train_only: Sequence[str]) -> list[torch.nn.Parameter]:
    """The weights that train: those that the backend lets train, or of them those whose names begin as listed.

    The others are frozen.
    Raises: ConfigError when a beginning matches no weight
    """
    trainable = {name: weight for name, weight in potential.named_parameters() if weight.requires_grad}
    for beginning in train_only:
        if not any(name.startswith(beginning) for name in trainable):
            groups = sorted({".".join(name.split(".")[:2]) for name in trainable})
            raise ConfigError(
                f"training.train_only = {list(train_only)}: no weight begins with {beginning};"
                f" there are {', '.join(groups)}"
            )
    for name, weight in trainable.items():
        weight.requires_grad_(not train_only or name.startswith(tuple(train_only)))
    return [weight for weight in trainable.values() if weight.requires_grad]
