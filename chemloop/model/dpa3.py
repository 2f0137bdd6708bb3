"""DPA-3: message passing on atoms, pairs and angles; deepmd-kit's network for large atomistic models.

Source: doi:10.48550/arXiv.2506.01686
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from chemloop.runtime.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from chemloop.model.pairs import Pairs
    from chemloop.model.potential import NetworkPotential
    from chemloop.protocols import Batch, Prediction


@dataclass
class DPA3Architecture:
    """A network from scratch, named as in deepmd-kit's input; the sizes of DPA-3.1-3M are in brackets.

    n_dim, e_dim, a_dim: channels per atom, pair and angle [128, 64, 32]
    nlayers: [16]
    e_rcut, e_rcut_smth: A, cutoff of pairs and where they begin to fade out [6, 5.3]
    a_rcut, a_rcut_smth: A, of pairs that form angles [4, 3.5]
    e_sel, a_sel: most neighbours of an atom within these cutoffs, others are left out [1200, 300]
    sel_reduce_factor: sums over neighbours are divided by e_sel and a_sel over this [10]
    fitting: neurons per hidden layer of the network for the energy of an atom [240, 240, 240]
    seed: of the random weights
    """

    n_dim: int = 32
    e_dim: int = 16
    a_dim: int = 8
    nlayers: int = 3
    e_rcut: float = 6.0
    e_rcut_smth: float = 5.3
    a_rcut: float = 4.0
    a_rcut_smth: float = 3.5
    e_sel: int = 240
    a_sel: int = 60
    sel_reduce_factor: float = 20.0
    fitting: list[int] = field(default_factory=lambda: [64, 64])
    seed: int = 0

    def __post_init__(self) -> None:
        for key, is_met, rule in (
            ("n_dim", self.n_dim >= 4, "must be 4 or above"),
            ("e_dim", self.e_dim >= 4, "must be 4 or above"),
            ("a_dim", self.a_dim >= 2 and self.a_dim % 2 == 0, "must be an even number of 2 or above"),
            ("a_dim", self.a_dim <= self.e_dim and self.a_dim <= self.n_dim, "must be at most e_dim and n_dim"),
            ("nlayers", self.nlayers >= 1, "must be 1 or above"),
            ("e_rcut_smth", 0 < self.e_rcut_smth < self.e_rcut, "must be above 0 A and below e_rcut"),
            ("a_rcut_smth", 0 < self.a_rcut_smth < self.a_rcut, "must be above 0 A and below a_rcut"),
            ("a_rcut", self.a_rcut <= self.e_rcut, "must be at most e_rcut"),
            ("a_sel", 1 <= self.a_sel <= self.e_sel, "must be 1 or above and at most e_sel"),
            ("sel_reduce_factor", self.sel_reduce_factor > 0, "must be above 0"),
            ("fitting", bool(self.fitting) and min(self.fitting) >= 1, "must be numbers of 1 or above"),
            ("seed", self.seed >= 0, "must be 0 or above"),
        ):
            if not is_met:
                raise ConfigError(f"model.architecture.{key} = {getattr(self, key)}: {rule}")

    def parameters(self, elements: Sequence[str]) -> dict[str, Any]:
        """The `model` part of an input file of deepmd-kit."""
        sizes = ("n_dim", "e_dim", "a_dim", "nlayers", "e_rcut", "e_rcut_smth", "a_rcut", "a_rcut_smth")
        repflow = {key: getattr(self, key) for key in (*sizes, "e_sel", "a_sel", "sel_reduce_factor")} | {
            # as in the inputs for DPA-3 that come with deepmd-kit
            "axis_neuron": 4,
            "update_angle": True,
            "smooth_edge_update": True,
            "use_dynamic_sel": True,
            "update_style": "res_residual",
            "update_residual": 0.1,
            "update_residual_init": "const",
            "a_compress_rate": 1,
            "a_compress_e_rate": 2,
            "a_compress_use_split": True,
            "skip_stat": True,
        }
        shared = {"activation_function": "silut:10.0", "precision": "float32", "seed": self.seed}
        return {
            "type_map": list(elements),
            "descriptor": shared
            | {"type": "dpa3", "repflow": repflow, "use_tebd_bias": False, "concat_output_tebd": False},
            "fitting_net": shared | {"neuron": list(self.fitting), "resnet_dt": True},
        }


@dataclass
class DPA3ForceField:
    """DPA-3 as configured in `conf/model/dpa3.yaml`.

    checkpoint: a name that `dp pretrained download` knows, e.g. `DPA-3.1-3M`, or the path of a .pt file that deepmd-kit
        reads; null: random weights
    head: of a file trained on several data sets, the one to use; otherwise without meaning
    elements, architecture: of the network where checkpoint is null; other checkpoints know their own
    """

    can_learn: ClassVar[bool] = True

    checkpoint: str | None = "DPA-3.1-3M"
    head: str | None = None
    elements: list[str] = field(default_factory=list)
    architecture: DPA3Architecture = field(default_factory=DPA3Architecture)

    def __post_init__(self) -> None:
        if self.checkpoint == "":
            raise ConfigError(
                "model.checkpoint is empty: give a name that deepmd-kit knows, e.g. DPA-3.1-3M, the path of a .pt file,"
                " or null"
            )
        if self.checkpoint is None and not self.elements:
            raise ConfigError("model.elements is empty: a DPA-3 from scratch needs them, e.g. [Li, P, S]")

    def load(self, device: str = "cpu", dtype: str = "float32") -> NetworkPotential:
        """The potential.

        Raises: WeightsUnavailable, CheckpointError
        """
        from ase.data import atomic_numbers

        from chemloop.model.dpa3_checkpoint import build_network, find_file, load_network
        from chemloop.model.potential import NetworkPotential

        if self.checkpoint is None:
            parameters = self.architecture.parameters(self.elements)
            network = build_network(parameters, dtype, self.architecture.seed)
        else:
            network, parameters = load_network(find_file(self.checkpoint), self.head, dtype)
        block = network.atomic_model.descriptor.repflows
        types = {atomic_numbers[name]: k for k, name in enumerate(parameters["type_map"]) if name in atomic_numbers}
        name = f"DPA-3 {self.checkpoint or 'from scratch'}"
        backend = DPA3Backend(name, block.e_rcut, block.a_rcut, sum(block.sel), block.a_sel, types, parameters)
        return NetworkPotential(network.to(device), backend)

    def reference_calculator(self) -> Calculator:
        """deepmd-kit's own ASE calculator with the same weights, in single precision."""
        from chemloop.model.dpa3_checkpoint import find_file, import_deepmd

        import_deepmd()
        from deepmd.calculator import DP

        with tempfile.TemporaryDirectory() as folder:
            # it knows the kind of a file by its name
            path = Path(folder) / "model.pt"
            if self.checkpoint is None:
                self.load("cpu", "float32").save(path)
            else:
                shutil.copyfile(find_file(self.checkpoint), path)
            return DP(path, head=self.head)


class Inputs(NamedTuple):
    """One batch of graphs.

    types: (n_atoms,) the network's index of each element
    edges: (n_edges,) directed pairs, by their first atom and their length; k >= n_pairs is pair k - n_pairs reversed
    angles: (2, n_angles) indices into edges: every ordered pair of short edges, also with themselves, of one atom
    """

    pairs: Pairs
    types: torch.Tensor
    edges: torch.Tensor
    angles: torch.Tensor


@dataclass(frozen=True)
class DPA3Backend:
    """Batches and predictions of a DPA-3.

    deepmd-kit pads structures, neighbours and angles to the same number, and repeats atoms as periodic images; lists of
    the pairs and angles that exist give the same numbers several times faster.

    n_neighbours, n_angle_neighbours: the nearest so many of an atom count, as in deepmd-kit
    elements: atomic number -> index of the type in the network
    parameters: deepmd-kit's own, needed to write checkpoints
    """

    name: str
    cutoff: float
    angle_cutoff: float
    n_neighbours: int
    n_angle_neighbours: int
    elements: dict[int, int]
    parameters: dict[str, Any]

    def collate(self, structures: Sequence[Atoms], dtype: torch.dtype, device: torch.device) -> Inputs:
        """Graphs; atoms without neighbours are allowed, they have no force."""
        import torch

        from chemloop.model.pairs import find_pairs

        pairs = find_pairs(structures, self.cutoff, dtype, device)
        centers = torch.cat([pairs.first, pairs.second]).cpu().numpy()
        lengths = np.tile(torch.linalg.norm(pairs.vectors, dim=1).cpu().numpy(), 2)
        edges = np.lexsort((lengths, centers))
        rank = _running(np.bincount(centers))
        edges, rank = edges[rank < self.n_neighbours], rank[rank < self.n_neighbours]
        short = np.flatnonzero((lengths[edges] < self.angle_cutoff) & (rank < self.n_angle_neighbours))
        types = [self.elements[int(number)] for atoms in structures for number in atoms.numbers]
        return Inputs(
            pairs,
            torch.tensor(types, device=device),
            torch.as_tensor(edges, device=device),
            torch.as_tensor(_find_angles(short, centers[edges]), device=device),
        )

    def predict(self, network: Any, batch: Batch, is_training: bool) -> Prediction:
        from chemloop.model.dpa3_network import atomic_energies
        from chemloop.model.pairs import pair_derivatives
        from chemloop.protocols import Prediction

        pairs = batch.inputs.pairs
        vectors = pairs.vectors.detach().requires_grad_()
        atomic = atomic_energies(network.atomic_model, vectors, batch.inputs)
        energies = atomic.new_zeros(len(pairs.volumes)).index_add(0, pairs.atom_structure, atomic).to(vectors.dtype)
        return Prediction(energies, *pair_derivatives(energies, vectors, pairs, is_training))

    def shift_energies(self, network: Any, shifts: dict[int, float]) -> None:
        for number, shift in shifts.items():
            network.atomic_model.out_bias[0, self.elements[number]] += shift

    def checkpoint(self, network: Any) -> dict[str, Any]:
        from chemloop.model.dpa3_checkpoint import file_content

        return file_content(network, self.parameters)


def _running(counts: np.ndarray) -> np.ndarray:
    """0, 1, ... count - 1 for each of the counts, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _find_angles(short: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """(2, n_angles): every ordered pair of the short edges of each center; edges are sorted by center."""
    counts = np.bincount(centers[short], minlength=1)
    partners = counts[centers[short]]
    starts = (np.cumsum(counts) - counts)[centers[short]]
    one = np.repeat(np.arange(len(short)), partners)
    return short[np.stack([one, np.repeat(starts, partners) + _running(partners)])]
