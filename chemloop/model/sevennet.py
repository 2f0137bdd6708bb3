"""SevenNet: an equivariant graph network in the NequIP family; 7net-0 and 7net-l3i5 come inside its package.

Source: doi:10.1021/acs.jctc.4c00190
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
class SevenNetForceField:
    """SevenNet as configured in `conf/model/sevennet.yaml`.

    checkpoint: `7net-0`, `7net-l3i5`, or the path of a file that SevenNet reads
    """

    checkpoint: str = "7net-0"

    def __post_init__(self) -> None:
        if not self.checkpoint:
            raise ConfigError(f"model.checkpoint is empty: give one of {', '.join(PACKAGED)} or the path of a file")

    def load(self, device: str = "cpu", dtype: str = "float32") -> NetworkPotential:
        """The potential.

        Raises: CheckpointError
        """
        import torch
        from sevenn.checkpoint import SevenNetCheckpoint

        from chemloop.model.potential import NetworkPotential

        path = self._path()
        try:
            checkpoint = SevenNetCheckpoint(path)
            network = checkpoint.build_model().to(getattr(torch, dtype))
            weights = checkpoint.model_state_dict
            if any(tensor.dtype == torch.float64 for tensor in weights.values()):
                # build_model has read them into single precision
                network.load_state_dict(weights)
        except (KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{path} holds weights that do not fit the architecture it names") from error
        config = checkpoint.config
        backend = SevenNetBackend(f"SevenNet {self.checkpoint}", config["cutoff"], config["_type_map"], config)
        return NetworkPotential(network.to(device), backend)

    def reference_calculator(self) -> Calculator:
        """SevenNet's own ASE calculator with the same weights, in single precision."""
        from sevenn.calculator import SevenNetCalculator

        return SevenNetCalculator(str(self._path()), device="cpu")

    def _path(self) -> Path:
        import sevenn
        from packaging.version import Version
        from sevenn.util import pretrained_name_to_path

        from chemloop.model.potential import find_checkpoint, read_checkpoint

        packaged = {name: Path(pretrained_name_to_path(name)) for name in PACKAGED}
        path = find_checkpoint(self.checkpoint, packaged, "sevenn")
        config = read_checkpoint(path, "sevenn", ["config", "model_state_dict"])["config"]
        if Version(config["version"]) > Version(sevenn.__version__):
            raise CheckpointError(
                f"{path} was written by sevenn {config['version']}, newer than the installed {sevenn.__version__}:"
                " install that version"
            )
        if config.get("use_modality"):
            raise CheckpointError(f"{path} is a multi-fidelity SevenNet, only single-fidelity ones are supported")
        return path


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
