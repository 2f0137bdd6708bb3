"""Folders that hold a MatterGen: read, written as the package's own tools read them, fetched from the hub.

    config.yaml              what `mattergen_config` describes
    checkpoints/last.ckpt    the weights
    trained_on.json          what it has seen; not beside published ones, and without it unknown of others

Source: checksums and sizes are those that github.com/microsoft/mattergen records for its checkpoints
"""

from __future__ import annotations

import io
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from chemloop.generator import mattergen_package as package
from chemloop.generator.mattergen_config import CONDITIONS, Config, conditions_of, with_conditions
from chemloop.generator.mattergen_data import TrainedOn
from chemloop.model.weights import fetch_weights, weights_folder
from chemloop.runtime.disk import file_hash, read_json, write_json, write_whole
from chemloop.runtime.errors import CheckpointError

HUB = "microsoft/mattergen"
PUBLISHED = {
    "chemical_system_energy_above_hull": "50d4a51b109b178db98de82849d0ad14397b663526b2387caee3a643f27e326a",
    "mattergen_base": "81668ee12afc1ee1b037f362420730de3460bfd2d36e547585fdcb911a3dfdef",
}
CONFIG, WEIGHTS, TRAINED_ON = "config.yaml", "checkpoints/last.ckpt", "trained_on.json"


@dataclass
class Checkpoint:
    """config: of the network; weights: under the names of the package's LightningModule; trained_on: what it saw."""

    config: Config
    weights: dict[str, torch.Tensor]
    trained_on: TrainedOn

    def write(self, folder: Path) -> None:
        (folder / WEIGHTS).parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save({"state_dict": self.weights, "config": self.config}, content)
        write_whole(folder / CONFIG, yaml.safe_dump(self.config).encode())
        write_json(folder / TRAINED_ON, self.trained_on.to_json())
        write_whole(folder / WEIGHTS, content.getvalue())

    @property
    def lacking(self) -> list[str]:
        """Conditions that it was not trained on."""
        return [name for name in CONDITIONS if name not in conditions_of(self.config)]

    def network(self, device: str) -> Any:
        """The DiffusionModule on a device, with the element mask and both conditions; layers that it lacked are random.

        Raises: CheckpointError
        """
        diffusion = package.build(with_conditions(self.config))
        package.set_weights(diffusion, self.weights, self.lacking)
        return diffusion.to(device).eval()


def read_checkpoint(name: str) -> Checkpoint:
    """From a folder, or published under that name.

    Raises: CheckpointError, WeightsUnavailable
    """
    folder = fetch(name) if name in PUBLISHED else Path(name).expanduser()
    what = f"generator.checkpoint = {name}"
    config_path = _only(folder, CONFIG, what)
    weights_path = _only(folder, "last.ckpt", what)
    try:
        config = yaml.safe_load(config_path.read_text())
        config["lightning_module"]["diffusion_module"]["model"]["gemnet"]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{what}: its {CONFIG} does not describe a MatterGen ({error!r}); {_allowed()}"
        ) from error
    weights = _read_weights(weights_path, what)
    seen = folder / TRAINED_ON
    if seen.exists():
        trained_on = TrainedOn.from_json(read_json(seen))
    else:
        is_published = name in PUBLISHED or file_hash(weights_path) in PUBLISHED.values()
        trained_on = replace(package.seen_by_published(), is_known=is_published)
    return Checkpoint({"lightning_module": config["lightning_module"]}, weights, trained_on)


def _allowed() -> str:
    names = " or ".join(PUBLISHED)
    return (
        f"give a folder with {CONFIG} and {WEIGHTS}, {names}, or null to train one from scratch on the campaign's own"
        " structures"
    )


def _only(folder: Path, name: str, what: str) -> Path:
    found = sorted(folder.rglob(name)) if folder.is_dir() else []
    if not found:
        there_is = "no such folder" if not folder.is_dir() else f"no {name} in this folder"
        raise CheckpointError(f"{what}: there is {there_is}, or it is the checkpoint of another model; {_allowed()}")
    return found[0]


def _read_weights(path: Path, what: str) -> dict[str, torch.Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Unpickling may run code: only what its publisher vouches for.
        if file_hash(path) not in PUBLISHED.values():
            raise CheckpointError(
                f"{what}: {path.name} holds more than weights and plain data, or is damaged ({error.args[0][:80]!r});"
                f" {_allowed()}"
            ) from error
        package.import_mattergen()
        content = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # of a file that is damaged, torch may say anything
        raise CheckpointError(f"{what}: {path} cannot be read ({error!r:.80}); {_allowed()}") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        raise CheckpointError(f"{what}: {path} has no weights of a MatterGen; {_allowed()}")
    return dict(content["state_dict"])


def fetch(name: str) -> Path:
    """The folder of a published checkpoint, downloaded when it is not there.

    Raises: WeightsUnavailable, naming the path at which a file brought by hand is found; CheckpointError
    """
    folder = weights_folder() / "mattergen" / name
    for file_name, sha256 in ((CONFIG, None), (WEIGHTS, PUBLISHED[name])):

        def download(path: Path, file_name: str = file_name) -> None:
            from huggingface_hub import hf_hub_download

            copied = hf_hub_download(HUB, f"checkpoints/{name}/{file_name}", local_dir=path.with_name(f"{path.name}.d"))
            shutil.move(copied, path)
            shutil.rmtree(path.with_name(f"{path.name}.d"))

        fetch_weights(
            f"MatterGen ({name}: {file_name})",
            f"mattergen/{name}/{file_name}",
            ["huggingface.co"],
            download,
            sha256,
            setting="generator.checkpoint to a folder with both files, or to null, which trains one from scratch",
        )
    return folder
