"""A force field for tests that needs no package: Morse pairs with a smooth cutoff, through the shared machinery."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from ase import Atoms

from chemloop.model.pairs import Pairs, find_pairs, pair_derivatives
from chemloop.model.potential import NetworkPotential, find_checkpoint, read_checkpoint
from chemloop.protocols import Batch, Prediction


class MorseNetwork(torch.nn.Module):
    """Depth (eV), bond length (A) and a constant per element (eV)."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = torch.nn.Parameter(torch.tensor(0.4))
        self.length = torch.nn.Parameter(torch.tensor(2.6))
        self.register_buffer("constants", torch.zeros(119))


@dataclass(frozen=True)
class MorseBackend:
    name: str = "Morse"
    cutoff: float = 5.0
    elements: Collection[int] = range(1, 95)

    def collate(self, structures: Sequence[Atoms], dtype: torch.dtype, device: torch.device) -> Pairs:
        return find_pairs(structures, self.cutoff, dtype, device)

    def predict(self, network: Any, batch: Batch, is_training: bool) -> Prediction:
        pairs: Pairs = batch.inputs
        vectors = pairs.vectors.detach().requires_grad_()
        lengths = torch.linalg.norm(vectors, dim=1)
        window = torch.clamp(1 - (lengths / self.cutoff) ** 2, min=0) ** 3
        wells = network.depth * ((1 - torch.exp(-1.5 * (lengths - network.length))) ** 2 - 1) * window
        energies = wells.new_zeros(len(pairs.volumes)).index_add(0, pairs.structure, wells)
        forces, stresses = pair_derivatives(energies, vectors, pairs, is_training)
        constants = network.constants[batch.numbers]
        return Prediction(energies.index_add(0, pairs.atom_structure, constants), forces, stresses)

    def shift_energies(self, network: Any, shifts: dict[int, float]) -> None:
        for number, shift in shifts.items():
            network.constants[number] += shift

    def checkpoint(self, network: Any) -> dict[str, Any]:
        return {"morse": network.state_dict()}


@dataclass
class MorseForceField:
    can_learn: ClassVar[bool] = True
    checkpoint: str = "default"
    backend: Any = MorseBackend()

    def load(self, device: str = "cpu", dtype: str = "float32") -> NetworkPotential:
        network = MorseNetwork().to(getattr(torch, dtype))
        if self.checkpoint != "default":
            path = find_checkpoint(self.checkpoint, {}, "morse")
            network.load_state_dict(read_checkpoint(path, "morse", ["morse"])["morse"])
        return NetworkPotential(network.to(device), self.backend)
