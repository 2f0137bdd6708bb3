"""What all backends share: one network behind the `Potential` contract.

A backend module stays cheap to import and free of torch at its top; it brings a dataclass (the YAML) and a small
`Backend` class, whose methods import what they need. `NetworkPotential` makes a `torch.nn.Module` of the two.
This module imports torch: backends import it inside their methods.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from packaging.version import InvalidVersion, Version

from chemloop.protocols import Batch, Prediction
from chemloop.runtime.disk import write_whole
from chemloop.runtime.errors import CheckpointError

MISFITS = (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError)
"""What building a network from a damaged file, or one of an incompatible version, makes packages raise."""


class Backend(Protocol):
    """What one package does with its own network; everything else is shared.

    name: for messages, e.g. `CHGNet 0.3.0`
    cutoff: A
    elements: atomic numbers that the network knows
    """

    @property
    def name(self) -> str: ...

    @property
    def cutoff(self) -> float: ...

    @property
    def elements(self) -> Collection[int]: ...

    def collate(self, structures: Sequence[Atoms], dtype: torch.dtype, device: torch.device) -> Any:
        """The network's inputs for all structures together; no autograd state in them, batches are reused."""

    def predict(self, network: torch.nn.Module, batch: Batch, is_training: bool) -> Prediction:
        """Energies, forces and stresses; gradients of gradients are needed only where `is_training`."""

    def shift_energies(self, network: torch.nn.Module, shifts: dict[int, float]) -> None:
        """Add a constant (eV) per atom of each atomic number, in the weights."""

    def checkpoint(self, network: torch.nn.Module) -> Any:
        """What `torch.save` writes for `ForceField.load` and the backend's own tools."""


class NetworkPotential(torch.nn.Module):
    """A network and the functions that serve it, as a `Potential`; it starts in evaluation mode."""

    def __init__(self, network: torch.nn.Module, backend: Backend):
        super().__init__()
        self.network = network
        self.backend = backend
        self.cutoff = float(backend.cutoff)
        self.eval()

    def collate(self, structures: Sequence[Atoms]) -> Batch:
        """Structures as one batch.

        Raises: CheckpointError for an element that the network does not know
        """
        numbers = np.concatenate([atoms.numbers for atoms in structures])
        if unknown := sorted(set(numbers.tolist()) - set(self.backend.elements)):
            known = " ".join(chemical_symbols[z] for z in sorted(self.backend.elements))
            raise CheckpointError(
                f"{self.backend.name} does not know {' '.join(chemical_symbols[z] for z in unknown)};"
                f" its elements are {known}: choose another model or system"
            )
        weight = next(self.network.parameters())
        with torch.inference_mode(False):
            return Batch(
                inputs=self.backend.collate(structures, weight.dtype, weight.device),
                numbers=torch.as_tensor(numbers, dtype=torch.long, device=weight.device),
                n_atoms=torch.tensor([len(atoms) for atoms in structures], device=weight.device),
            )

    def forward(self, batch: Batch) -> Prediction:
        """Energies, forces and stresses; detached from the weights in evaluation mode."""
        with torch.inference_mode(False), torch.enable_grad():
            prediction = self.backend.predict(self.network, batch, is_training=self.training)
        return prediction if self.training else Prediction(*(tensor.detach() for tensor in prediction))

    def shift_energies(self, shifts: dict[int, float]) -> None:
        with torch.no_grad():
            self.backend.shift_energies(self.network, shifts)

    def save(self, path: Path) -> None:
        content = io.BytesIO()
        torch.save(self.backend.checkpoint(self.network), content)
        write_whole(Path(path), content.getvalue())


def find_checkpoint(checkpoint: str, packaged: Mapping[str, Path], package: str) -> Path:
    """The file that `model.checkpoint` means: the name of packaged weights, or a path.

    Raises: CheckpointError
    """
    if checkpoint in packaged:
        return packaged[checkpoint]
    if not Path(checkpoint).is_file():
        raise CheckpointError(
            f"model.checkpoint = {checkpoint}: no such file, and the weights that come with {package} are"
            f" {', '.join(packaged)}"
        )
    return Path(checkpoint)


def read_checkpoint(path: Path, package: str, keys: Collection[str]) -> dict[str, Any]:
    """The content of a file that `torch.save` wrote: tensors, arrays and plain data; code in it is not executed.

    keys: those that make it a checkpoint of this package
    Raises: CheckpointError when the file is damaged or of another architecture
    """
    from numpy._core.multiarray import _reconstruct, scalar

    kinds = [type(np.dtype(kind)) for kind in (float, int, bool, np.float32, np.int32)]
    allowed: list[Callable | tuple[Callable, str]] = [np.ndarray, np.dtype, _reconstruct, scalar, *kinds]
    # files written with numpy 1 name the module as it was called then
    allowed += [(_reconstruct, "numpy.core.multiarray._reconstruct"), (scalar, "numpy.core.multiarray.scalar")]
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is damaged or no checkpoint of {package}: {reason}") from error
    check_keys(content, path, package, keys)
    return content


def check_keys(content: Any, path: Path, package: str, keys: Collection[str]) -> None:
    """Raises: CheckpointError where a part of a file has not what makes it a checkpoint of this package"""
    if not isinstance(content, Mapping) or not set(keys) <= set(content):
        raise CheckpointError(f"{path} is the checkpoint of another architecture, not of {package}")


def check_version(path: Path, package: str, written_by: Any, installed: str) -> None:
    """Raises: CheckpointError where a file was written by a newer version, or names none"""
    try:
        is_newer = Version(str(written_by)) > Version(installed)
    except InvalidVersion as error:
        raise CheckpointError(
            f"{path} is damaged: it names {written_by!r} as the version of {package} that wrote it, which is none;"
            f" installed is {installed}"
        ) from error
    if is_newer:
        raise CheckpointError(
            f"{path} was written by {package} {written_by}, newer than the installed {installed}: install that version"
        )


def misfit(path: Path, versions: str) -> CheckpointError:
    """The error for a file from which no network could be built.

    versions: of the package, that of the file and the installed one, in words
    """
    return CheckpointError(f"{path} holds weights that do not fit the architecture it names ({versions})")
