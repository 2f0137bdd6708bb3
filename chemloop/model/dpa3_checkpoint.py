"""deepmd-kit's networks and the files that hold them.

A `.pt` of deepmd-kit has its weights under `model.<head>.` and its parameters (the `model` part of an input file) under
`_extra_state`. A file with one head calls it `Default`; one trained on several data sets has a head for each of them.
This module imports torch and deepmd-kit inside its functions.
"""

from __future__ import annotations

import copy
import logging
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from chemloop.runtime.errors import CheckpointError

ONE_HEAD = "Default"
# weights of the networks, unlike buffers, of which versions of deepmd-kit have more and fewer
WEIGHTS = (".matrix", ".bias", ".idt")


def import_deepmd() -> None:
    """Import deepmd-kit's PyTorch backend without its compiled operators; leaves the process as it was.

    DPA-3 does not need them, and those of the published wheel load with one version of torch only. Networks are built
    on the CPU, where the same seed gives the same weights on every machine. The import would also force the start
    method of all processes to fork, and warn about threads and about Triton.
    """
    if "deepmd.pt" in sys.modules:
        return
    level, method = logging.root.manager.disable, multiprocessing.get_start_method(allow_none=True)
    environment = dict(os.environ)
    logging.disable(logging.WARNING)
    os.environ["DEVICE"] = "cpu"
    try:
        import deepmd.env

        deepmd.env.SHARED_LIB_DIR = Path("none")
        deepmd.env.GLOBAL_CONFIG["cibuildwheel"] = "0"
        import deepmd.pt.model.model  # noqa: F401 - what is imported here does not disturb later
    finally:
        os.environ.clear()
        os.environ.update(environment)
        logging.disable(level)
        multiprocessing.set_start_method(method, force=True)


def published() -> dict[str, dict[str, Any]]:
    """The DPA-3 weights that deepmd-kit downloads by name, each with filename, urls and sha256."""
    from deepmd.pretrained.registry import MODEL_REGISTRY

    return {name: entry for name, entry in MODEL_REGISTRY.items() if name.startswith(("DPA-3", "DPA3"))}


def find_file(checkpoint: str) -> Path:
    """The file that `model.checkpoint` means: published weights, fetched when first used, or a path.

    Raises: WeightsUnavailable, CheckpointError
    """
    from chemloop.model.potential import find_checkpoint
    from chemloop.model.weights import fetch_weights

    named = published()
    if checkpoint not in named:
        return find_checkpoint(checkpoint, dict.fromkeys(named, Path()), "deepmd-kit")
    entry = named[checkpoint]

    def download(path: Path) -> None:
        from deepmd.pretrained.download import download_model

        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            download_model(checkpoint, cache_dir=Path(folder)).replace(path)

    # the same file lies on several hosts, not all of which can be reached from everywhere
    hosts = list(dict.fromkeys(str(urlsplit(url).hostname) for url in entry["urls"]))
    return fetch_weights(checkpoint, entry["filename"], hosts, download, entry["sha256"])


def read_file(path: Path, head: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters and weights of one head, the latter named as in a network.

    head: its name or an alias; a file with a single head has nothing to choose
    Raises: CheckpointError
    """
    from chemloop.model.potential import read_checkpoint

    content = read_checkpoint(path, "deepmd-kit", [])
    state = content.get("model", content)
    extra = state.get("_extra_state") if isinstance(state, Mapping) else None
    if not isinstance(extra, Mapping) or not isinstance(extra.get("model_params"), Mapping):
        raise CheckpointError(f"{path} is the checkpoint of another architecture, not of deepmd-kit")
    parameters, name = extra["model_params"], ONE_HEAD
    if "model_dict" in parameters:
        name = _choose_head(path, parameters["model_dict"], head)
        parameters = parameters["model_dict"][name]
    beginning = f"model.{name}."
    weights = {key.removeprefix(beginning): value for key, value in state.items() if key.startswith(beginning)}
    check_parameters(path, parameters)
    return copy.deepcopy(dict(parameters)), weights


def _choose_head(path: Path, heads: Mapping[str, Any], head: str | None) -> str:
    names = {alias: name for name, values in heads.items() for alias in values.get("model_branch_alias", [])}
    names |= {name: name for name in heads}
    if head not in names:
        raise CheckpointError(
            f"model.head = {'null' if head is None else head}: {path} has several heads, one for each data set it was"
            f" trained on; give one of {', '.join(names)}"
        )
    return names[head]


def check_parameters(path: Path, parameters: Mapping[str, Any]) -> None:
    """Refuse what is not a DPA-3 of energies, and settings of one that would be ignored.

    Raises: CheckpointError
    """
    descriptor, fitting = parameters.get("descriptor") or {}, parameters.get("fitting_net") or {}
    kinds = (parameters.get("type", "standard"), descriptor.get("type"), fitting.get("type", "ener"))
    if kinds != ("standard", "dpa3", "ener"):
        raise CheckpointError(
            f"{path} holds a {kinds[0]} model with descriptor {kinds[1]} and output {kinds[2]}; model=dpa3 reads"
            " standard ones with descriptor dpa3 and output ener"
        )
    repflow = descriptor.get("repflow", {})
    ignored = [
        *(f"model.{key}" for key in ("spin", "use_srtab", "atom_exclude_types", "pair_exclude_types", "lora")),
        *(f"descriptor.{key}" for key in ("exclude_types", "add_chg_spin_ebd")),
        *(f"fitting_net.{key}" for key in ("exclude_types", "numb_fparam", "numb_aparam")),
    ]
    groups = {"model": parameters, "descriptor": descriptor, "fitting_net": fitting}
    used = [key for key in ignored if groups[key.partition(".")[0]].get(key.partition(".")[2])]
    if not (repflow.get("use_dynamic_sel") or repflow.get("smooth_edge_update")):
        used.append("descriptor.repflow.smooth_edge_update = false")
    if used:
        raise CheckpointError(f"{path} was trained with {', '.join(used)}, which model=dpa3 does not support")


def build_network(parameters: dict[str, Any], dtype: str, seed: int = 0) -> Any:
    """The network of these parameters in the precision asked for, with random weights.

    Weights without influence on energies are frozen. A fixed number of neighbours is a dynamic one with other
    normalizations (only the padding differs), so all networks take lists of edges.
    Raises: KeyError, TypeError, ValueError, RuntimeError, AssertionError for parameters that deepmd-kit does not know
    """
    import_deepmd()
    import torch
    from deepmd.pt.model.model import get_model

    parameters = copy.deepcopy(parameters)
    for part in ("descriptor", "fitting_net"):
        parameters.setdefault(part, {})["precision"] = dtype
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = get_model(parameters)
    block = network.atomic_model.descriptor.repflows
    for layer in block.layers:
        if not layer.use_dynamic_sel:
            layer.use_dynamic_sel, layer.dynamic_e_sel, layer.dynamic_a_sel = True, layer.nnei, layer.a_sel
    if not block.sequential_update:
        # the last edges and angles, and the angles that only they would see
        _freeze(block.layers[-1], ("edge_", "angle_", "a_compress_", "e_residual", "a_residual"))
        for layer in block.layers[-2:-1]:
            _freeze(layer, ("angle_", "a_residual"))
        if len(block.layers) == 1 or not block.update_angle:
            block.angle_embd.requires_grad_(False)
    return network


def _freeze(module: Any, beginnings: tuple[str, ...]) -> None:
    for name, weight in module.named_parameters():
        if name.startswith(beginnings):
            weight.requires_grad_(False)


def load_network(path: Path, head: str | None, dtype: str) -> tuple[Any, dict[str, Any]]:
    """The network of one head of a file, and its parameters.

    Raises: CheckpointError
    """
    import deepmd

    parameters, weights = read_file(path, head)
    try:
        network = build_network(parameters, dtype)
        missing, unknown = network.load_state_dict(weights, strict=False)
    except (AssertionError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} does not fit deepmd-kit {deepmd.__version__}, it may be from another version:"
            f" {str(error).splitlines()[0]}"
        ) from error
    if wrong := [key for key in (*missing, *unknown) if key.endswith(WEIGHTS)]:
        raise CheckpointError(f"{path} holds weights that do not fit the architecture it names: {wrong[0]}")
    return network, parameters


def file_content(network: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """What `torch.save` writes for deepmd-kit: one head, in the precision of the network.

    A file of deepmd-kit itself that was left by a training has the same under `model`, beside the state of an
    optimizer; `dp train --init-model` takes either.
    """
    precision = network.atomic_model.descriptor.precision
    parameters = copy.deepcopy(parameters)
    for part in ("descriptor", "fitting_net"):
        parameters.setdefault(part, {})["precision"] = precision
    state: dict[str, Any] = {f"model.{ONE_HEAD}.{key}": value for key, value in network.state_dict().items()}
    return state | {"_extra_state": {"model_params": parameters, "train_infos": {"lr": 0.0, "step": 0}}}
