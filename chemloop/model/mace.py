"""MACE: equivariant message passing of many-body features; MACE-MPA-0 is published as a file, not inside the package.

MACE's own files are pickles of whole networks, which only the version of e3nn that wrote them reads and which can run
code. What `save` writes is plain content instead (`chemloop.model.mace_checkpoint`), read without executing anything.
MACE's own tools (`MACECalculator`, `mace_run_train --foundation_model`, LAMMPS) want the pickle:

    from chemloop.model.mace import export
    export("finetuned.pt", "finetuned.model")

A `.model` file is converted to plain content when it is first used, after its SHA-256 was found to be the published
one, or because `model.checkpoint` is its path: give only files that you trust.

Source: doi:10.48550/arXiv.2206.07697; doi:10.48550/arXiv.2401.00096 (pretrained ones)
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ase.data import atomic_numbers

from chemloop.runtime.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from chemloop.model.pairs import Pairs
    from chemloop.model.potential import NetworkPotential
    from chemloop.protocols import Batch, Prediction

# names as in mace.calculators.foundations_models -> SHA-256 of the published file
PUBLISHED = {"medium-mpa-0": "75428afe3a1d7d8062e19bcaabd5c433623cabf308242ec9fb493e38604fb638"}


@dataclass
class MACEArchitecture:
    """A ScaleShiftMACE from scratch; the sizes of medium-mpa-0 are in brackets, names are those of `mace_run_train`.

    r_max: A, the cutoff [6]
    num_channels: features of each degree [128]
    max_L: highest degree of the features [1]
    max_ell: highest degree of the spherical harmonics of neighbours' directions [3]
    correlation: neighbours that act together in one layer [3]
    num_interactions: layers [2]
    num_radial_basis: functions of a distance [10]
    MLP_irreps: hidden scalars of the last readout [16x0e]
    avg_num_neighbors: what an atom receives is divided by this, about the average of the training set
    atomic_inter_scale: eV, scale of the learned energies, about the RMS force of the training set in eV/A
    seed: of the random weights
    """

    r_max: float = 5.0
    num_channels: int = 16
    max_L: int = 1
    max_ell: int = 2
    correlation: int = 2
    num_interactions: int = 2
    num_radial_basis: int = 8
    MLP_irreps: str = "16x0e"
    avg_num_neighbors: float = 25.0
    atomic_inter_scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        number, _, kind = self.MLP_irreps.partition("x")
        for key, is_met, rule in (
            ("r_max", self.r_max > 0, "must be above 0 A"),
            ("num_channels", self.num_channels >= 1, "must be 1 or above"),
            ("max_L", self.max_L >= 0, "must be 0 or above"),
            ("max_ell", self.max_ell >= self.max_L, "must not be below model.architecture.max_L"),
            ("correlation", 1 <= self.correlation <= 4, "must be 1 to 4"),
            ("num_interactions", self.num_interactions >= 2, "must be 2 or above"),
            ("num_radial_basis", self.num_radial_basis >= 1, "must be 1 or above"),
            ("MLP_irreps", number.isdigit() and int(number) > 0 and kind == "0e", "must be like 16x0e"),
            ("avg_num_neighbors", self.avg_num_neighbors > 0, "must be above 0"),
            ("atomic_inter_scale", self.atomic_inter_scale > 0, "must be above 0 eV"),
            ("seed", self.seed >= 0, "must be 0 or above"),
        ):
            if not is_met:
                raise ConfigError(f"model.architecture.{key} = {getattr(self, key)}: {rule}")

    def config(self, elements: Sequence[str]) -> dict[str, Any]:
        """The arguments of ScaleShiftMACE, as plain data; its energies per element are 0, fine-tuning fits them."""
        numbers = sorted({atomic_numbers[symbol] for symbol in elements})
        block = "RealAgnosticResidualInteractionBlock"
        return {
            "r_max": float(self.r_max),
            "num_bessel": self.num_radial_basis,
            "num_polynomial_cutoff": 5,
            "max_ell": self.max_ell,
            "interaction_cls": block,
            "interaction_cls_first": block,
            "num_interactions": self.num_interactions,
            "num_elements": len(numbers),
            "hidden_irreps": "+".join(f"{self.num_channels}x{k}{'eo'[k % 2]}" for k in range(self.max_L + 1)),
            "MLP_irreps": self.MLP_irreps,
            "gate": "silu",
            "atomic_energies": [0.0] * len(numbers),
            "avg_num_neighbors": float(self.avg_num_neighbors),
            "atomic_numbers": numbers,
            "correlation": self.correlation,
            "atomic_inter_scale": float(self.atomic_inter_scale),
            "atomic_inter_shift": 0.0,
        }


@dataclass
class MACEForceField:
    """MACE as configured in `conf/model/mace.yaml`.

    checkpoint: `medium-mpa-0`, the path of a file that `save` wrote, or of a `.model` file; null: random weights
    architecture, elements: of the network where checkpoint is null; other checkpoints know their own
    """

    can_learn: ClassVar[bool] = True
    checkpoint: str | None = "medium-mpa-0"
    architecture: MACEArchitecture = field(default_factory=MACEArchitecture)
    elements: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.checkpoint == "":
            raise ConfigError(f"model.checkpoint is empty: give {', '.join(PUBLISHED)}, the path of a file, or null")
        if unknown := [symbol for symbol in self.elements if symbol == "X" or symbol not in atomic_numbers]:
            raise ConfigError(f"model.elements: {', '.join(unknown)} is not an element; give symbols like Li")
        if self.checkpoint is None and not self.elements:
            raise ConfigError("model.elements is empty: without a checkpoint MACE must be told its elements")

    def load(self, device: str = "cpu", dtype: str = "float32") -> NetworkPotential:
        """The potential.

        Raises: WeightsUnavailable, CheckpointError
        """
        from chemloop.model.potential import NetworkPotential
        from chemloop.model.tensor_products import split_inputs

        kind, config, network = self._network(dtype)
        split_inputs(network)
        name = f"MACE {self.checkpoint or 'from scratch'}"
        backend = MACEBackend(name, config["r_max"], config["atomic_numbers"], kind, config)
        return NetworkPotential(network.to(device), backend)

    def reference_calculator(self) -> Calculator:
        """MACE's own ASE calculator with the same weights, in single precision."""
        network = self._network("float32")[2]
        from mace.calculators import MACECalculator

        return MACECalculator(models=network, device="cpu", default_dtype="float32")

    def _network(self, dtype: str) -> tuple[str, dict[str, Any], torch.nn.Module]:
        """Name of the class, its arguments, and the network."""
        import torch

        from chemloop.model.mace_checkpoint import build, read, restore

        if self.checkpoint is None:
            kind, config = "ScaleShiftMACE", self.architecture.config(self.elements)
            network = build(kind, config, self.architecture.seed)
        else:
            path = self._path(self.checkpoint)
            content = read(path)
            kind, config, network = content["network"], content["config"], restore(content, path)
        return kind, config, network.to(getattr(torch, dtype))

    def _path(self, checkpoint: str) -> Path:
        from chemloop.model.potential import find_checkpoint
        from chemloop.model.weights import fetch_weights, weights_folder

        if checkpoint not in PUBLISHED:
            return find_checkpoint(checkpoint, dict.fromkeys(PUBLISHED, weights_folder()), "mace")
        return fetch_weights(
            f"MACE {checkpoint}",
            f"mace-{checkpoint}.model",
            ["github.com"],
            lambda target: _download(checkpoint, target),
            PUBLISHED[checkpoint],
        )


def _download(name: str, target: Path) -> None:
    """The published file, through mace's own downloader, which keeps a copy in its own cache."""
    import shutil

    with contextlib.redirect_stdout(io.StringIO()):
        from mace.calculators.foundations_models import download_mace_mp_checkpoint

        shutil.copyfile(download_mace_mp_checkpoint(name), target)


def export(checkpoint: Path | str, target: Path | str) -> None:
    """Write a checkpoint as the `.model` file that mace's own tools read; it holds for the installed e3nn.

    Raises: CheckpointError
    """
    from chemloop.model.mace_checkpoint import write_pickle

    write_pickle(Path(checkpoint), Path(target))


@dataclass(frozen=True)
class MACEBackend:
    """Batches and predictions of a MACE.

    elements: atomic numbers
    kind, config: class of the network and its arguments, needed to write checkpoints
    """

    name: str
    cutoff: float
    elements: Collection[int]
    kind: str
    config: dict[str, Any]

    def collate(self, structures: Sequence[Atoms], dtype: torch.dtype, device: torch.device) -> Pairs:
        from chemloop.model.pairs import find_pairs

        return find_pairs(structures, self.cutoff, dtype, device)

    def predict(self, network: Any, batch: Batch, is_training: bool) -> Prediction:
        """The network's own forward with all atoms at the origin, so that what it adds for periodic images are the
        pair vectors; one differentiation with respect to these gives forces and stresses of the whole batch.
        """
        import torch

        from chemloop.model.pairs import pair_derivatives
        from chemloop.protocols import Prediction

        pairs: Pairs = batch.inputs
        vectors = pairs.vectors.detach().requires_grad_()
        senders, receivers = torch.cat([pairs.first, pairs.second]), torch.cat([pairs.second, pairs.first])
        data = {
            "node_attrs": (batch.numbers[:, None] == network.atomic_numbers).to(vectors.dtype),
            "edge_index": torch.stack([senders, receivers]),
            "positions": vectors.new_zeros(len(batch.numbers), 3),
            "shifts": torch.cat([vectors, -vectors]),
            "cell": vectors.new_zeros(3 * len(batch.n_atoms), 3),
            "batch": pairs.atom_structure,
            "ptr": torch.nn.functional.pad(batch.n_atoms.cumsum(0), (1, 0)),
        }
        energies = network(data, compute_force=False)["energy"]
        return Prediction(energies, *pair_derivatives(energies, vectors, pairs, is_training))

    def shift_energies(self, network: Any, shifts: dict[int, float]) -> None:
        for number, shift in shifts.items():
            network.atomic_energies_fn.atomic_energies[..., network.atomic_numbers == number] += shift

    def checkpoint(self, network: Any) -> dict[str, Any]:
        from chemloop.model.mace_checkpoint import content_of

        return content_of(self.kind, self.config, network)
