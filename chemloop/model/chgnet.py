"""CHGNet: a graph network with explicit angles, pretrained on MPtrj; its weights come inside its package.

Source: doi:10.1038/s42256-023-00716-3
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from chemloop.runtime.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import torch
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from chemloop.model.pairs import Pairs
    from chemloop.model.potential import NetworkPotential
    from chemloop.protocols import Batch, Prediction

PACKAGED = {
    "0.3.0": "0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar",
    "0.2.0": "0.2.0/chgnet_0.2.0_e30f77s348m32.pth.tar",
    "r2scan": "r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",
}
OUT_BIAS = "atom_conv_layers.0.mlp_out.layers.1.bias"


@dataclass
class CHGNetArchitecture:
    """A network from scratch; the sizes of 0.3.0 are in brackets.

    channels: per atom, bond and angle [64]
    n_layers: interactions, 2 or above [4]
    n_basis: functions of a distance and of an angle, an odd number [31]
    cutoff: A [6]
    angle_cutoff: A, of bonds that form angles [3]
    seed: of the random weights
    """

    channels: int = 32
    n_layers: int = 3
    n_basis: int = 15
    cutoff: float = 5.0
    angle_cutoff: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        for key, is_met, rule in (
            ("channels", self.channels >= 1, "must be 1 or above"),
            ("n_layers", self.n_layers >= 2, "must be 2 or above"),
            ("n_basis", self.n_basis >= 3 and self.n_basis % 2 == 1, "must be an odd number, 3 or above"),
            ("cutoff", self.cutoff > 0, "must be above 0 A"),
            ("angle_cutoff", 0 < self.angle_cutoff <= self.cutoff, "must be above 0 A and at most the cutoff"),
            ("seed", self.seed >= 0, "must be 0 or above"),
        ):
            if not is_met:
                raise ConfigError(f"model.architecture.{key} = {getattr(self, key)}: {rule}")

    def build(self) -> Any:
        """The network, in single precision; its energies per element are 0, fine-tuning begins with fitting them."""
        import torch
        from chgnet.model import CHGNet

        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
            torch.default_generator.manual_seed(self.seed)
            network: Any = CHGNet(
                atom_fea_dim=self.channels,
                bond_fea_dim=self.channels,
                angle_fea_dim=self.channels,
                atom_conv_hidden_dim=self.channels,
                bond_conv_hidden_dim=self.channels,
                mlp_hidden_dims=[self.channels] * 3,
                num_radial=self.n_basis,
                num_angular=self.n_basis,
                n_conv=self.n_layers,
                atom_graph_cutoff=self.cutoff,
                bond_graph_cutoff=self.angle_cutoff,
            )
        torch.nn.init.zeros_(network.composition_model.fc.weight)
        return network


@dataclass
class CHGNetForceField:
    """CHGNet as configured in `conf/model/chgnet.yaml`.

    checkpoint: `0.3.0`, `0.2.0`, `r2scan`, or the path of a file that CHGNet reads; null: random weights
    architecture: of the network where checkpoint is null; other checkpoints know their own
    """

    can_learn: ClassVar[bool] = True

    checkpoint: str | None = "0.3.0"
    architecture: CHGNetArchitecture = field(default_factory=CHGNetArchitecture)

    def __post_init__(self) -> None:
        if self.checkpoint == "":
            raise ConfigError(
                f"model.checkpoint is empty: give one of {', '.join(PACKAGED)}, the path of a file, or null"
            )

    def load(self, device: str = "cpu", dtype: str = "float32") -> NetworkPotential:
        """The potential.

        Raises: CheckpointError
        """
        from chemloop.model.potential import NetworkPotential

        network = self._network(dtype)
        # no part in energies: the head for magnetic moments, and angles updated after their last use
        network.site_wise.requires_grad_(False)
        network.angle_layers[-1].requires_grad_(False)
        converter = network.graph_converter
        name = f"CHGNet {self.checkpoint or 'from scratch'}"
        backend = CHGNetBackend(name, float(converter.atom_graph_cutoff), float(converter.bond_graph_cutoff))
        return NetworkPotential(network.to(device), backend)

    def reference_calculator(self) -> Calculator:
        """CHGNet's own ASE calculator with the same weights, in single precision."""
        from chgnet.model.dynamics import CHGNetCalculator

        with contextlib.redirect_stdout(io.StringIO()):
            return CHGNetCalculator(self._network("float32"), use_device="cpu")

    def _network(self, dtype: str) -> Any:
        import torch

        precision = getattr(torch, dtype)
        if self.checkpoint is None:
            return self.architecture.build().to(precision)
        return _read(self.checkpoint, precision)


def _read(checkpoint: str, precision: torch.dtype) -> Any:
    import chgnet
    import torch
    from chgnet.model import CHGNet

    from chemloop.model.potential import MISFITS, check_keys, find_checkpoint, misfit, read_checkpoint

    folder = Path(chgnet.__file__).parent / "pretrained"
    path = find_checkpoint(checkpoint, {name: folder / file for name, file in PACKAGED.items()}, "chgnet")
    content = read_checkpoint(path, "chgnet", ["model"])["model"]
    # files of others have weights under that name
    check_keys(content, path, "chgnet", ["model_args", "state_dict"])
    try:
        # only 0.2.0 was trained with these biases, and does not say so
        arguments = {"mlp_out_bias": OUT_BIAS in content["state_dict"]} | content["model_args"]
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
            network = CHGNet(**arguments).to(precision)
        network.load_state_dict(content["state_dict"])
    except MISFITS as error:
        # such files do not name the version of the package that wrote them
        raise misfit(path, f"installed is chgnet {chgnet.__version__}") from error
    if not hasattr(network.composition_model, "fc"):
        raise CheckpointError(f"{path} has no linear reference energies; only such CHGNets are supported")
    return network


class Inputs(NamedTuple):
    """One batch of graphs.

    angles: (n_angles, 3) central atom and two directed bonds; bond k >= n_pairs is pair k - n_pairs reversed
    """

    pairs: Pairs
    angles: torch.Tensor


@dataclass(frozen=True)
class CHGNetBackend:
    """Batches and predictions of a CHGNet.

    CHGNet's own batching loops over structures in Python and differentiates twice (positions, strain); one
    differentiation with respect to the bond vectors of the whole batch gives the same numbers several times faster.
    """

    name: str
    cutoff: float
    angle_cutoff: float
    elements: Collection[int] = range(1, 95)

    def collate(self, structures: Sequence[Atoms], dtype: torch.dtype, device: torch.device) -> Inputs:
        """Graphs; atoms without neighbours are allowed, they have no force."""
        import torch

        from chemloop.model.pairs import find_pairs

        pairs = find_pairs(structures, self.cutoff, dtype, device)
        lengths = torch.linalg.norm(pairs.vectors, dim=1).cpu().numpy()
        centers = torch.cat([pairs.first, pairs.second]).cpu().numpy()
        angles = _find_angles(centers, np.tile(lengths <= self.angle_cutoff, 2))
        return Inputs(pairs, torch.as_tensor(angles, device=device))

    def predict(self, network: Any, batch: Batch, is_training: bool) -> Prediction:
        import torch
        from chgnet.model.model import BatchedGraph

        from chemloop.model.pairs import pair_derivatives
        from chemloop.protocols import Prediction

        pairs, angles = batch.inputs
        vectors = pairs.vectors.detach().requires_grad_()
        lengths = torch.linalg.norm(vectors, dim=1)
        directions = vectors / lengths[:, None]
        directions = torch.cat([directions, -directions])
        both = torch.arange(len(vectors), device=vectors.device).repeat(2)
        graph = BatchedGraph(
            atomic_numbers=batch.numbers,
            bond_bases_ag=network.bond_basis_expansion.rbf_expansion_ag(lengths),
            bond_bases_bg=network.bond_basis_expansion.rbf_expansion_bg(lengths),
            angle_bases=network.angle_basis_expansion(directions[angles[:, 1]], directions[angles[:, 2]]),
            batched_atom_graph=torch.stack(
                [torch.cat([pairs.first, pairs.second]), torch.cat([pairs.second, pairs.first])], dim=1
            ),
            batched_bond_graph=torch.stack([angles[:, 0], both[angles[:, 1]], both[angles[:, 2]]], dim=1),
            atom_owners=pairs.atom_structure,
            directed2undirected=both,
            atom_positions=[],
            strains=[],
            volumes=pairs.volumes,
        )
        constants = network.composition_model.fc.weight[0, batch.numbers - 1]
        # mixed precision computes in fewer bits, too few to add up constants of hundreds of eV
        energies = network._compute(graph)["e"].to(constants.dtype)
        if network.is_intensive:
            energies = energies * batch.n_atoms
        forces, stresses = pair_derivatives(energies, vectors, pairs, is_training)
        return Prediction(energies.index_add(0, pairs.atom_structure, constants), forces, stresses)

    def shift_energies(self, network: Any, shifts: dict[int, float]) -> None:
        for number, shift in shifts.items():
            network.composition_model.fc.weight[0, number - 1] += shift

    def checkpoint(self, network: Any) -> dict[str, Any]:
        return {"model": network.as_dict()}


def _find_angles(centers: np.ndarray, is_short: np.ndarray) -> np.ndarray:
    """(n_angles, 3): central atom and every ordered pair of different short bonds that start there."""
    bonds = np.flatnonzero(is_short)
    bonds = bonds[np.argsort(centers[bonds], kind="stable")]
    counts = np.bincount(centers[bonds])
    starts = np.concatenate([[0], np.cumsum(counts)])[centers[bonds]]
    partners = counts[centers[bonds]]
    one = np.repeat(np.arange(len(bonds)), partners)
    running = np.arange(len(one)) - np.repeat(np.cumsum(partners) - partners, partners)
    other = np.repeat(starts, partners) + running
    different = one != other
    one, other = bonds[one[different]], bonds[other[different]]
    return np.column_stack([centers[one], one, other])
