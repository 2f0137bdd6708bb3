"""Checkpoints of MACE as plain content, and the conversion of MACE's own files, which are pickles of whole networks.

    {"mace_version": ..., "network": name of the class, "config": its arguments, "state_dict": weights}

Opening a pickle can run code. It is done once for a file, whose plain content is then kept in `weights_folder()`.
This module imports torch and mace: `mace.py` imports it inside its methods.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mace
import numpy as np
import torch
from ase import Atoms
from e3nn import nn, o3
from e3nn.util.codegen import CodeGenMixin

from chemloop.model.potential import MISFITS, NetworkPotential, check_version, misfit, read_checkpoint
from chemloop.model.weights import weights_folder
from chemloop.runtime.disk import file_hash, write_whole
from chemloop.runtime.errors import CheckpointError

with contextlib.redirect_stdout(io.StringIO()):
    # it prints that an accelerator is missing
    from mace import modules
from mace.tools.scripts_utils import extract_config_mace_model

log = logging.getLogger(__name__)

NETWORKS = {"MACE": modules.MACE, "ScaleShiftMACE": modules.ScaleShiftMACE}
KEYS = ("mace_version", "network", "config", "state_dict")


def build(kind: str, config: dict[str, Any], seed: int = 0) -> torch.nn.Module:
    """A network with random weights, in double precision: rounded constants would break symmetries."""
    arguments = dict(config)
    for key, values in (
        ("interaction_cls", modules.interaction_classes),
        ("interaction_cls_first", modules.interaction_classes),
        ("readout_cls", modules.readout_classes),
        ("gate", modules.gate_dict),
    ):
        if key in arguments:
            arguments[key] = values[arguments[key]]
    for key in ("hidden_irreps", "MLP_irreps", "edge_irreps"):
        if arguments.get(key) is not None:
            arguments[key] = o3.Irreps(arguments[key])
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return NETWORKS[kind](**arguments)
    finally:
        torch.set_default_dtype(before)


def restore(content: dict[str, Any], path: Path) -> torch.nn.Module:
    """The network of a checkpoint, in double precision; path: for messages.

    Raises: CheckpointError
    """
    try:
        network = build(content["network"], content["config"])
        network.load_state_dict(content["state_dict"])
    except MISFITS as error:
        versions = f"written by mace-torch {content['mace_version']}, installed is {mace.__version__}"
        raise misfit(path, versions) from error
    return network


def content_of(kind: str, config: dict[str, Any], network: torch.nn.Module) -> dict[str, Any]:
    """What a checkpoint holds."""
    # copies and pickles of e3nn's compiled modules hold their constants a second time, no other network takes them
    weights = {key: tensor for key, tensor in network.state_dict().items() if "._tensor_constant" not in key}
    return {"mace_version": mace.__version__, "network": kind, "config": config, "state_dict": weights}


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, or of a `.model` file, which is converted when it is first seen.

    Raises: CheckpointError
    """
    source = path
    if _is_pickled_network(path):
        source = weights_folder() / f"mace-{file_hash(path)[:20]}.pt"
        if not source.exists():
            _keep(_converted(path), source)
    content = read_checkpoint(source, "mace", KEYS)
    check_version(path, "mace-torch", content["mace_version"], mace.__version__)
    return content


def write_pickle(checkpoint: Path, target: Path) -> None:
    """Write a checkpoint as the pickle that mace's own tools read.

    Raises: CheckpointError
    """
    content = read(checkpoint)
    network = restore(content, checkpoint).to(content["state_dict"]["r_max"].dtype)
    write_whole(target, _saved(network))


def _saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _keep(content: dict[str, Any], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, _saved(content))
    except OSError as error:
        raise CheckpointError(
            f"converted weights cannot be kept in {path.parent} ({error.strerror}):"
            " set CHEMLOOP_WEIGHTS to a folder that can be written"
        ) from error


def _is_pickled_network(path: Path) -> bool:
    """Whether a file wants to build objects of MACE's classes; nothing in it is executed."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:
        # nothing that torch wrote: read_checkpoint will say so
        return False
    return any(name.startswith("mace.modules.") for name in names)


def _converted(path: Path) -> dict[str, Any]:
    """The plain content of a pickle, whichever e3nn wrote it; all weights are in it and energies stay the same.

    Raises: CheckpointError
    """
    try:
        with _old_e3nn_is_readable():
            old = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise CheckpointError(
            f"{path} is damaged, or of another version than the installed mace-torch {mace.__version__}: {error}"
        ) from error
    kind = type(old).__name__
    if type(old) not in NETWORKS.values():
        raise CheckpointError(f"{path} holds a {kind}; only {' and '.join(NETWORKS)} are supported")
    heads = getattr(old, "heads", None) or ["default"]
    if len(heads) > 1:
        raise CheckpointError(
            f"{path} has the heads {', '.join(heads)}, only files with one are supported: take one out with"
            f" python -m mace.cli.select_head --head_name {heads[0]} {path}"
        )
    content = content_of(kind, _plain_config(old, path), old)
    found = _probe_energy(restore(content, path))
    try:
        expected = _probe_energy(_made_runnable(old))
    except Exception as error:
        log.warning("%s cannot compute here (%s): only its weights, not its energies, were compared", path, error)
        expected = found
    if not abs(found - expected) < 1e-6:
        raise CheckpointError(
            f"{path} could not be converted to mace-torch {mace.__version__} and the installed e3nn: the energy of a"
            f" test crystal became {found:g} eV, it was {expected:g} eV"
        )
    return content


@contextlib.contextmanager
def _old_e3nn_is_readable() -> Iterator[None]:
    """e3nn 0.4 pickled compiled functions as bytes, newer ones add what kind of bytes they are."""
    original = CodeGenMixin.__setstate__

    def set_state(self: Any, state: dict[str, Any]) -> None:
        compiled = state.get("__codegen__") or {}
        named = {name: ("torchscript", code) if isinstance(code, bytes) else code for name, code in compiled.items()}
        original(self, state | {"__codegen__": named} if named else state)

    CodeGenMixin.__setstate__ = set_state
    try:
        yield
    finally:
        CodeGenMixin.__setstate__ = original


def _plain_config(network: Any, path: Path) -> dict[str, Any]:
    """The arguments of a network's class as numbers, strings and lists."""
    has_no_scale = type(network) is modules.MACE
    if has_no_scale:
        # mace takes apart only the other class, which differs by one layer
        network.scale_shift = modules.ScaleShiftBlock(1.0, 0.0)
        network.__class__ = modules.ScaleShiftMACE
    config = extract_config_mace_model(network)
    if has_no_scale:
        network.__class__ = modules.MACE
        del network.scale_shift, config["atomic_inter_scale"], config["atomic_inter_shift"]
    for key in ("embedding_specs", "cueq_config"):
        if config.pop(key) is not None:
            raise CheckpointError(f"{path} was made with {key}, which is not supported")
    config["gate"] = {gate: name for name, gate in modules.gate_dict.items()}[config["gate"]]
    for key, value in config.items():
        if isinstance(value, type):
            config[key] = value.__name__
        elif isinstance(value, o3.Irreps):
            config[key] = str(value)
        elif hasattr(value, "tolist"):
            config[key] = value.tolist()
    return config


def _made_runnable(network: Any) -> Any:
    """A network of an old e3nn that can compute, with its own weights and compiled functions.

    Only parts that have neither, and whose attributes got other names, are made anew from what they say themselves.
    """
    for name, part in list(network.named_modules()):
        if isinstance(part, o3.SphericalHarmonics):
            network.set_submodule(name, o3.SphericalHarmonics(part.irreps_out, part.normalize, part.normalization))
        elif isinstance(part, nn.Activation):
            functions = [act if act is None else act.f for act in part.acts]
            network.set_submodule(name, nn.Activation(part.irreps_in, functions))
    return network.double()


def _probe_energy(network: Any) -> float:
    """eV, of a distorted crystal with up to four of the network's elements."""
    from chemloop.model.mace import MACEBackend

    numbers = network.atomic_numbers.tolist()
    probe = Atoms(
        [numbers[k] for k in np.linspace(0, len(numbers) - 1, 4).round().astype(int)],
        scaled_positions=[[0.01, 0.02, 0.0], [0.5, 0.47, 0.03], [0.52, 0.0, 0.48], [0.0, 0.55, 0.51]],
        cell=[4.4, 4.6, 4.8],
        pbc=True,
    )
    potential = NetworkPotential(network, MACEBackend("MACE", float(network.r_max), numbers, "", {}))
    return float(potential(potential.collate([probe])).energies[0])
