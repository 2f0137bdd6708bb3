"""MatterSim: M3GNet, a graph network with three-body terms, pretrained on structures far from equilibrium.

Source: doi:10.48550/arXiv.2405.04967, doi:10.1038/s43588-022-00349-3
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from chemloop.runtime.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import torch
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from chemloop.model.pairs import Pairs
    from chemloop.model.potential import NetworkPotential
    from chemloop.protocols import Batch, Prediction

# name -> file and its id in the repository microsoft/mattersim, which publishes no other checksum
PUBLISHED = {
    "MatterSim-v1.0.0-5M": ("mattersim-v1.0.0-5M.pth", "7641430c8b1a4877eaed73c11920c6ad7f3846d6"),
    "MatterSim-v1.0.0-1M": ("mattersim-v1.0.0-1M.pth", "812737ca1933fb8860195a5376986fb82f697212"),
}


@dataclass
class MatterSimArchitecture:
    """A network from scratch; the sizes of MatterSim-v1.0.0-5M are in brackets.

    num_blocks: interactions [4]
    units: channels per atom and pair [256]
    max_l, max_n: degrees and radial functions of the three-body terms, each 1 to 4 [4, 4]
    cutoff: A [5]
    threebody_cutoff: A, of pairs that form angles [4]
    seed: of the random weights
    """

    num_blocks: int = 2
    units: int = 48
    max_l: int = 3
    max_n: int = 3
    cutoff: float = 5.0
    threebody_cutoff: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        for key, is_met, rule in (
            ("num_blocks", self.num_blocks >= 1, "must be 1 or above"),
            ("units", self.units >= 1, "must be 1 or above"),
            ("max_l", 1 <= self.max_l <= 4, "must be 1 to 4"),
            ("max_n", 1 <= self.max_n <= 4, "must be 1 to 4"),
            ("cutoff", self.cutoff > 0, "must be above 0 A"),
            ("threebody_cutoff", 0 < self.threebody_cutoff <= self.cutoff, "must be above 0 A and at most the cutoff"),
            ("seed", self.seed >= 0, "must be 0 or above"),
        ):
            if not is_met:
                raise ConfigError(f"model.architecture.{key} = {getattr(self, key)}: {rule}")

    def build(self) -> Any:
        """The network, in single precision; its energies per element are 0, fine-tuning begins with fitting them."""
        sizes = {key: getattr(self, key) for key in ("num_blocks", "units", "max_l", "max_n")}
        cutoffs = {key: float(getattr(self, key)) for key in ("cutoff", "threebody_cutoff")}
        return _build(self.seed, **sizes, **cutoffs)


@dataclass
class MatterSimForceField:
    """MatterSim as configured in `conf/model/mattersim.yaml`.

    checkpoint: `MatterSim-v1.0.0-5M`, `MatterSim-v1.0.0-1M`, or the path of a file that MatterSim reads; null: random
        weights
    architecture: of the network where checkpoint is null; other checkpoints know their own
    """

    can_learn: ClassVar[bool] = True
    checkpoint: str | None = "MatterSim-v1.0.0-5M"
    architecture: MatterSimArchitecture = field(default_factory=MatterSimArchitecture)

    def __post_init__(self) -> None:
        if self.checkpoint == "":
            raise ConfigError(
                f"model.checkpoint is empty: give one of {', '.join(PUBLISHED)}, the path of a file, or null"
            )

    def load(self, device: str = "cpu", dtype: str = "float32") -> NetworkPotential:
        """The potential.

        Raises: WeightsUnavailable, CheckpointError
        """
        from chemloop.model.potential import NetworkPotential

        network = self._network(dtype)
        backend = MatterSimBackend(
            name=str(self.checkpoint)
            if self.checkpoint in PUBLISHED
            else f"MatterSim {self.checkpoint or 'from scratch'}",
            cutoff=float(network.model_args["cutoff"]),
            angle_cutoff=float(network.model_args["threebody_cutoff"]),
            elements=range(1, network.max_z + 1),
        )
        return NetworkPotential(network.to(device), backend)

    def reference_calculator(self) -> Calculator:
        """MatterSim's own ASE calculator with the same weights, in single precision."""
        network = self._network("float32").eval()
        from mattersim.forcefield import MatterSimCalculator, Potential

        return MatterSimCalculator(Potential(network, device="cpu"), device="cpu")

    def _network(self, dtype: str) -> Any:
        import torch

        from chemloop.model.potential import read_checkpoint

        if self.checkpoint is None:
            return self.architecture.build().to(getattr(torch, dtype))
        path = self._path(self.checkpoint)
        content = read_checkpoint(path, "mattersim", ["model_name", "model", "model_args"])
        if content["model_name"] != "m3gnet":
            raise CheckpointError(f"{path} holds a {content['model_name']}; only MatterSim's m3gnet is allowed")
        try:
            network = _build(0, **content["model_args"]).to(getattr(torch, dtype))
            missing, unknown = network.load_state_dict(content["model"], strict=False)
        except (AssertionError, AttributeError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{path} holds weights that do not fit the architecture it names") from error
        # constants come with the network; files of older versions lack some of them
        parts = {name for name, _ in network.named_children()} - {"rbf", "sbf"}
        if wrong := [key for key in (*missing, *unknown) if key.partition(".")[0] in parts]:
            raise CheckpointError(f"{path} holds weights that do not fit the architecture it names: {wrong[0]}")
        return network

    @staticmethod
    def _path(checkpoint: str) -> Path:
        from chemloop.model.potential import find_checkpoint
        from chemloop.model.weights import fetch_weights

        if checkpoint not in PUBLISHED:
            return find_checkpoint(checkpoint, dict.fromkeys(PUBLISHED, Path()), "mattersim")
        file_name, published = PUBLISHED[checkpoint]
        path = fetch_weights(checkpoint, file_name, ["raw.githubusercontent.com"], partial(_download, file_name))
        content = path.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        if found != published:
            raise CheckpointError(
                f"{path} has the git id {found}, the published weights of {checkpoint} have {published}:"
                " delete the file to fetch it again"
            )
        return path


def _download(file_name: str, path: Path) -> None:
    from mattersim.utils.download_utils import download_checkpoint

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        download_checkpoint(file_name, save_folder=folder)
        (Path(folder) / file_name).replace(path)


def _build(seed: int, **arguments: Any) -> Any:
    import torch
    from mattersim.utils import logger_utils

    # the import would change the filters for warnings and, but for this entry, send loguru's log to stdout
    logger_utils.handlers.setdefault("console", None)
    with warnings.catch_warnings():
        from mattersim.forcefield.m3gnet.m3gnet import M3Gnet
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return M3Gnet(**arguments, device="cpu")


class Inputs(NamedTuple):
    """One batch of graphs.

    short: (n_short,) indices of the pairs that form angles
    """

    pairs: Pairs
    short: torch.Tensor


@dataclass(frozen=True)
class MatterSimBackend:
    """Batches and predictions of an M3GNet.

    MatterSim lists every angle, works through them in every block, and differentiates by positions and strain. Here
    the neighbours of an atom are summed up before they meet the pairs (`_three_body`), so that the cost grows with the
    number of pairs, not of angles, and energies are differentiated by the pairs' vectors. The numbers are the same.
    """

    name: str
    cutoff: float
    angle_cutoff: float
    elements: Collection[int]

    def collate(self, structures: Sequence[Atoms], dtype: torch.dtype, device: torch.device) -> Inputs:
        """Graphs; atoms without neighbours are allowed, they have no force."""
        import torch

        from chemloop.model.pairs import find_pairs

        pairs = find_pairs(structures, self.cutoff, dtype, device)
        lengths = torch.linalg.norm(pairs.vectors, dim=1)
        return Inputs(pairs, torch.nonzero(lengths < self.angle_cutoff).flatten())

    def predict(self, network: Any, batch: Batch, is_training: bool) -> Prediction:
        import torch

        from chemloop.model.pairs import pair_derivatives
        from chemloop.protocols import Prediction

        pairs, short = batch.inputs
        vectors = pairs.vectors.detach().requires_grad_()
        lengths = torch.linalg.norm(vectors, dim=1)
        first, second = torch.cat([pairs.first, pairs.second]), torch.cat([pairs.second, pairs.first])
        short_both = torch.cat([short, short + len(vectors)])
        angular = self._three_body(network, batch.inputs, vectors[short], lengths[short])
        # the same for both directions of a pair
        radial = network.rbf(lengths).repeat(2, 1)
        edges = network.edge_encoder(radial)
        atoms = network.atom_embedding(network.one_hot_atoms(batch.numbers).to(vectors.dtype))
        for block in network.graph_conv:
            gates = block.three_body.atom_mlp(atoms).index_select(0, first[short_both])
            edges = edges.index_add(0, short_both, block.three_body.edge_gate_mlp(angular * gates))
            edges = edges + _gated(block.gated_mlp_edge, atoms, edges, first, second) * block.edge_layer_edge(radial)
            messages = _gated(block.gated_mlp_atom, atoms, edges, first, second) * block.edge_layer_atom(radial)
            atoms = atoms.index_add(0, first, messages)
        atom_energies = network.normalizer(network.final(atoms).flatten(), batch.numbers)
        energies = vectors.new_zeros(len(pairs.volumes)).index_add(0, pairs.atom_structure, atom_energies)
        forces, stresses = pair_derivatives(energies, vectors, pairs, is_training)
        return Prediction(energies, forces, stresses)

    def _three_body(self, network: Any, inputs: Inputs, vectors: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """(2 n_short, max_l max_n): for every directed short pair ij the sum over k of R(r_ik) P_l(cos theta_jik).

        By the addition theorem P_l(cos theta_jik) is the sum over m of Y_lm(r_ij) Y_lm(r_ik), so that the sum over k is
        taken once per atom; k = j, which is no angle, is taken off again.
        """
        import torch
        from e3nn.o3 import spherical_harmonics
        from mattersim.forcefield.m3gnet.modules.message_passing import polynomial

        max_n = network.sbf.max_n
        window = polynomial(lengths, self.angle_cutoff)[:, None]
        # the layer multiplies its radial functions with P_l(cos theta), which is 1 where theta is 0
        radial = network.sbf(lengths, torch.zeros_like(lengths)) * window
        centers = torch.cat([inputs.pairs.first[inputs.short], inputs.pairs.second[inputs.short]])
        others = []
        for degree, own in enumerate(radial.repeat(2, 1).split(max_n, dim=1)):
            half = spherical_harmonics(degree, vectors, normalize=True, normalization="norm")
            harmonics = torch.cat([half, half if degree % 2 == 0 else -half])[:, :, None]
            sums = own.new_zeros(len(inputs.pairs.atom_structure), 2 * degree + 1, max_n)
            sums = sums.index_add(0, centers, harmonics * own[:, None, :])
            others.append((sums.index_select(0, centers) * harmonics).sum(dim=1) - own)
        return torch.cat(others, dim=1) * window.repeat(2, 1)

    def shift_energies(self, network: Any, shifts: dict[int, float]) -> None:
        for number, shift in shifts.items():
            network.normalizer.shift[number] += shift

    def checkpoint(self, network: Any) -> dict[str, Any]:
        return {"model_name": "m3gnet", "model": network.state_dict(), "model_args": dict(network.model_args)}


def _gated(
    layers: Any, atoms: torch.Tensor, edges: torch.Tensor, first: torch.Tensor, second: torch.Tensor
) -> torch.Tensor:
    """A `GatedMLP` of first atom, second atom and pair; its first layer sees every atom once, not once per pair."""
    import torch
    from torch.nn.functional import linear, silu

    inner, outer = zip(*((part[0].linear, part[1].linear) for part in (layers.g, layers.sigma)), strict=True)
    of_first, of_second, of_pair = torch.cat([layer.weight for layer in inner]).chunk(3, dim=1)
    bias = torch.cat([layer.bias for layer in inner])
    ends = linear(atoms, of_first).index_select(0, first) + linear(atoms, of_second).index_select(0, second)
    hidden = silu(ends + linear(edges, of_pair, bias))
    value, gate = hidden.chunk(2, dim=1)
    return silu(outer[0](value)) * torch.sigmoid(outer[1](gate))
