"""SevenNet: an equivariant graph network in the NequIP family; 7net-0 and 7net-l3i5 come inside its package.

Source: doi:10.1021/acs.jctc.4c00190
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from chemloop.runtime.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import torch
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from chemloop.model.pairs import Pairs
    from chemloop.model.potential import NetworkPotential
    from chemloop.protocols import Batch, Prediction

PACKAGED = ("7net-0", "7net-l3i5")


@dataclass
class SevenNetArchitecture:
    """A network from scratch; the sizes of 7net-l3i5 are in brackets.

    channels: per irreducible representation [128 scalars, 64, 32, 32]
    lmax: highest degree of the spherical harmonics [3]
    n_layers: interactions [5]
    n_basis: functions of a distance [8]
    hidden: neurons per hidden layer of the networks that weight neighbours by their distance [64, 64]
    cutoff: A [5]
    n_neighbours: usual number within the cutoff, by which sums over neighbours are divided [36]
    energy_scale: eV, that of the energy per atom that a fresh network gives; usual is the RMS force in eV/A [0.8]
    seed: of the random weights
    """

    channels: int = 32
    lmax: int = 2
    n_layers: int = 3
    n_basis: int = 8
    hidden: list[int] = field(default_factory=lambda: [64, 64])
    cutoff: float = 5.0
    n_neighbours: float = 25.0
    energy_scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("channels", "lmax", "n_layers", "n_basis"):
            if getattr(self, key) < 1:
                raise ConfigError(f"model.architecture.{key} = {getattr(self, key)}: must be 1 or above")
        for key in ("cutoff", "n_neighbours", "energy_scale"):
            if getattr(self, key) <= 0:
                raise ConfigError(f"model.architecture.{key} = {getattr(self, key):g}: must be above 0")
        if not self.hidden or min(self.hidden) < 1:
            raise ConfigError(f"model.architecture.hidden = {self.hidden}: must be numbers of 1 or above")
        if self.seed < 0:
            raise ConfigError(f"model.architecture.seed = {self.seed}: must be 0 or above")

    def build(self, elements: Sequence[str]) -> tuple[Any, dict[str, Any]]:
        """The network, in single precision, and the configuration that SevenNet keeps in a checkpoint of it."""
        import sevenn._keys as keys
        import torch
        from sevenn import __version__
        from sevenn._const import DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG, NUM_UNIV_ELEMENT
        from sevenn.model_build import build_E3_equivariant_model
        from sevenn.util import chemical_species_preprocess

        config = (
            copy.deepcopy(DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG)
            | chemical_species_preprocess(list(elements))
            | {
                keys.NODE_FEATURE_MULTIPLICITY: self.channels,
                keys.LMAX: self.lmax,
                keys.NUM_CONVOLUTION: self.n_layers,
                keys.CONVOLUTION_WEIGHT_NN_HIDDEN_NEURONS: list(self.hidden),
                keys.CUTOFF: self.cutoff,
                keys.RADIAL_BASIS: {keys.RADIAL_BASIS_NAME: "bessel", keys.BESSEL_BASIS_NUM: self.n_basis},
                keys.CONV_DENOMINATOR: self.n_neighbours,
                keys.SHIFT: [0.0] * NUM_UNIV_ELEMENT,
                keys.SCALE: [self.energy_scale] * NUM_UNIV_ELEMENT,
                # as all published ones
                keys.IS_PARITY: False,
                keys.SELF_CONNECTION_TYPE: "linear",
                "version": __version__,
            }
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            return build_E3_equivariant_model(copy.deepcopy(config)), config


@dataclass
class SevenNetForceField:
    """SevenNet as configured in `conf/model/sevennet.yaml`.

    checkpoint: `7net-0`, `7net-l3i5`, or the path of a file that SevenNet reads; null: random weights
    elements, architecture: of the network where checkpoint is null; other checkpoints know their own
    """

    can_learn: ClassVar[bool] = True

    checkpoint: str | None = "7net-0"
    elements: list[str] = field(default_factory=list)
    architecture: SevenNetArchitecture = field(default_factory=SevenNetArchitecture)

    def __post_init__(self) -> None:
        if self.checkpoint == "":
            raise ConfigError(
                f"model.checkpoint is empty: give one of {', '.join(PACKAGED)}, the path of a file, or null"
            )
        if self.checkpoint is None and not self.elements:
            raise ConfigError("model.elements is empty: a SevenNet from scratch needs them, e.g. [Li, P, S]")

    def load(self, device: str = "cpu", dtype: str = "float32") -> NetworkPotential:
        """The potential.

        Raises: CheckpointError
        """
        import torch

        from chemloop.model.potential import NetworkPotential
        from chemloop.model.tensor_products import split_inputs

        precision = getattr(torch, dtype)
        if self.checkpoint is None:
            network, config = self.architecture.build(self.elements)
            network = network.to(precision)
        else:
            network, config = _read(*self._file(self.checkpoint), precision)
        split_inputs(network)
        name = f"SevenNet {self.checkpoint or 'from scratch'}"
        backend = SevenNetBackend(name, config["cutoff"], config["_type_map"], config)
        return NetworkPotential(network.to(device), backend)

    def reference_calculator(self) -> Calculator:
        """SevenNet's own ASE calculator with the same weights, in single precision."""
        from sevenn.calculator import SevenNetCalculator

        if self.checkpoint is None:
            network, _ = self.architecture.build(self.elements)
            return SevenNetCalculator(network, file_type="model_instance", device="cpu")
        path, _ = self._file(self.checkpoint)
        return SevenNetCalculator(str(path), device="cpu")

    def _file(self, checkpoint: str) -> tuple[Path, str]:
        """The file and the version of SevenNet that wrote it."""
        import sevenn
        from sevenn.util import pretrained_name_to_path

        from chemloop.model.potential import check_keys, check_version, find_checkpoint, read_checkpoint

        packaged = {name: Path(pretrained_name_to_path(name)) for name in PACKAGED}
        path = find_checkpoint(checkpoint, packaged, "sevenn")
        config = read_checkpoint(path, "sevenn", ["config", "model_state_dict"])["config"]
        check_keys(config, path, "sevenn", [])
        check_version(path, "sevenn", config.get("version"), sevenn.__version__)
        if config.get("use_modality"):
            raise CheckpointError(f"{path} is a multi-fidelity SevenNet, only single-fidelity ones are supported")
        return path, config["version"]


def _read(path: Path, written_by: str, precision: torch.dtype) -> tuple[Any, dict[str, Any]]:
    import sevenn
    import torch
    from sevenn.checkpoint import SevenNetCheckpoint

    from chemloop.model.potential import MISFITS, misfit

    try:
        checkpoint = SevenNetCheckpoint(path)
        with torch.random.fork_rng(devices=[]):
            network = checkpoint.build_model().to(precision)
        weights = checkpoint.model_state_dict
        if any(tensor.dtype == torch.float64 for tensor in weights.values()):
            # build_model has read them into single precision
            network.load_state_dict(weights)
    except MISFITS as error:
        raise misfit(path, f"written by sevenn {written_by}, installed is {sevenn.__version__}") from error
    return network, checkpoint.config


@dataclass(frozen=True)
class SevenNetBackend:
    """Batches and predictions of a SevenNet.

    elements: atomic number -> index of the type in the network
    config: SevenNet's own, needed to write checkpoints
    """

    name: str
    cutoff: float
    elements: dict[int, int]
    config: dict[str, Any]

    def collate(self, structures: Sequence[Atoms], dtype: torch.dtype, device: torch.device) -> Pairs:
        from chemloop.model.pairs import find_pairs

        return find_pairs(structures, self.cutoff, dtype, device)

    def predict(self, network: Any, batch: Batch, is_training: bool) -> Prediction:
        """The network layer by layer: it would convert species to single precision, and lists every pair twice."""
        import sevenn._keys as keys
        import torch

        from chemloop.model.pairs import pair_derivatives
        from chemloop.protocols import Prediction

        pairs: Pairs = batch.inputs
        vectors = pairs.vectors.detach().requires_grad_()
        data = {
            keys.NODE_FEATURE: network.z_to_onehot_tensor.to(batch.numbers.device)[batch.numbers],
            keys.EDGE_IDX: torch.stack(
                [torch.cat([pairs.first, pairs.second]), torch.cat([pairs.second, pairs.first])]
            ),
            keys.EDGE_VEC: torch.cat([vectors, -vectors]),
            keys.BATCH: pairs.atom_structure,
        }
        for name, layer in network.named_children():
            if name == "force_output":
                break
            data = layer(data)
            if name == "onehot_idx_to_onehot":
                data |= {key: data[key].to(vectors.dtype) for key in (keys.NODE_FEATURE, keys.NODE_ATTR)}
        energies = data[keys.PRED_TOTAL_ENERGY]
        return Prediction(energies, *pair_derivatives(energies, vectors, pairs, is_training))

    def shift_energies(self, network: Any, shifts: dict[int, float]) -> None:
        for number, shift in shifts.items():
            network.rescale_atomic_energy.shift[self.elements[number]] += shift

    def checkpoint(self, network: Any) -> dict[str, Any]:
        import sevenn

        # copies and pickles of e3nn's compiled modules hold their constants a second time, no other network takes them
        weights = {key: tensor for key, tensor in network.state_dict().items() if "._tensor_constant" not in key}
        # files of versions before 0.11 get their convolution weights sorted when they are read; these are sorted
        return {
            "model_state_dict": weights,
            "optimizer_state_dict": {},
            "scheduler_state_dict": {},
            "config": self.config | {"version": sevenn.__version__},
            "epoch": None,
        }
