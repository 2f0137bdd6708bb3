"""From YAML to typed components: a component is a dataclass, its signature is the schema, and there is no registry."""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from chemloop.compute import Compute
from chemloop.loop import LoopSettings
from chemloop.protocols import ForceField, Generator, Labeler, Selector
from chemloop.runtime.errors import ChemLoopError, ConfigError
from chemloop.system import System
from chemloop.tracker import Tracker
from chemloop.training.recipe import Recipe
from chemloop.workflow import Workflow


@dataclass(frozen=True)
class Settings:
    """The whole configuration of a campaign, checked; the same in the driver and in every worker.

    options: the option chosen in each group, e.g. {"model": "chgnet"}
    pythons: the interpreter of another environment that a component's `python` names for its workers, by group
    outputs: folder of all campaigns
    label_cache: folder of the labels that campaigns share; label_cache_gb: what it may hold, None: everything
    """

    system: System
    generator: Generator
    model: ForceField
    training: Recipe
    candidates: Selector
    frames: Selector
    labeler: Labeler
    loop: LoopSettings
    compute: Compute
    tracker: Tracker
    workflow: Workflow
    seed: int
    outputs: str
    label_cache: str
    label_cache_gb: float | None
    options: dict[str, str]
    pythons: dict[str, str]


RECIPE = "training/recipe@training"
"""The group of what one model does differently from `training=default`."""

COMPONENTS = (
    "system",
    "generator",
    "model",
    "training",
    "candidates",
    "frames",
    "labeler",
    "loop",
    "compute",
    "tracker",
    "workflow",
)


def load(config: dict[str, Any]) -> Settings:
    """Build and check everything that a resolved configuration names; nothing heavy is imported.

    Raises: ConfigError, naming the key, what it is and what is allowed
    """
    allowed = {field.name for field in fields(Settings)} - {"pythons"} | {"campaign", "n_train"}
    for key in config.keys() - allowed:
        raise ConfigError(f"unknown key {key}; {suggestion(key, sorted(allowed))}")
    seed = config["seed"]
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"seed = {seed!r}: must be an integer, 0 or above")
    bound = config["label_cache_gb"]
    if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int | float) or not bound > 0):
        raise ConfigError(f"label_cache_gb = {bound!r}: must be above 0, or null for no bound")
    built = {group: build(config[group], group) for group in COMPONENTS}
    settings = Settings(
        **built,
        seed=seed,
        outputs=str(config["outputs"]),
        label_cache=str(config["label_cache"]),
        label_cache_gb=config["label_cache_gb"],
        options=dict(config["options"]),
        pythons={
            group: interpreter(config[group]["python"], group) for group in COMPONENTS if has_python(config[group])
        },
    )
    check_together(settings)
    return settings


def build(node: dict[str, Any], group: str) -> Any:
    """The component that a node names by `_target_`, its other keys checked against the fields of that dataclass.

    Raises: ConfigError
    """
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(f"{group} must name its component by _target_, got {node!r}")
    module, _, name = str(node["_target_"]).rpartition(".")
    try:
        component = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{group}._target_ = {node['_target_']}: no such component ({error})") from error
    values = {key: value for key, value in node.items() if key not in ("_target_", "python")}
    try:
        return OmegaConf.to_object(cast(DictConfig, OmegaConf.merge(OmegaConf.structured(component), values)))
    except ConfigError as error:
        raise ConfigError(str(error).replace("selector.", f"{group}.")) from error
    except ConfigKeyError as error:
        parent = error.parent_node if isinstance(error.parent_node, DictConfig) else {}
        allowed = sorted(str(key) for key in parent) or [field.name for field in fields(component)]
        key = str(error.full_key or error.key)
        raise ConfigError(f"unknown key {group}.{key}; {suggestion(key.rpartition('.')[2], allowed)}") from error
    except MissingMandatoryValue as error:
        raise ConfigError(f"{group}.{error.full_key} has no value; set it with {group}.{error.full_key}=...") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{group}.{error.full_key}: {str(error).splitlines()[0]}") from error


def has_python(node: Any) -> bool:
    """Whether a component's node names an interpreter of its own."""
    return isinstance(node, dict) and "python" in node and node["python"] is not None


def interpreter(path: Any, group: str) -> str:
    """The interpreter of another environment that holds ChemLoop and what the component needs.

    Raises: ConfigError
    """
    if not isinstance(path, str) or not os.access(path, os.X_OK) or not os.path.isfile(path):
        raise ConfigError(
            f"{group}.python = {path!r}: must be the path of a Python interpreter, e.g. /opt/mace/bin/python, or null"
            " for the one that runs this command"
        )
    return os.path.abspath(path)


def suggestion(key: str, allowed: list[str]) -> str:
    """What to write instead of a key that does not exist."""
    close = difflib.get_close_matches(key, allowed, n=1)
    return (f"did you mean {close[0]}? " if close else "") + f"allowed are {', '.join(allowed)}"


def check_together(settings: Settings) -> None:
    """Check what no single component can know.

    Raises: ConfigError for quotas above the pool, and for options that contradict each other
    """
    quota = sum(getattr(settings.candidates, "quotas", []))
    if quota > settings.loop.generate.n:
        raise ConfigError(
            f"candidates.quotas add up to {quota}, more than the {settings.loop.generate.n} structures that"
            " loop.generate.n proposes in an iteration; lower loop.hull_quotas or raise loop.generate.n"
        )
    if settings.loop.generate.topology != "off" and settings.system.topology is None:
        raise ConfigError(
            f"loop.generate.topology = {settings.loop.generate.topology}, but system.topology is null: give the rules"
            " there, or choose off"
        )
    learned, teacher = getattr(settings.model, "checkpoint", None), getattr(settings.labeler, "checkpoint", None)
    if teacher is not None and learned == teacher:
        raise ConfigError(
            f"model.checkpoint and labeler.checkpoint are both {teacher}: a model that is its own teacher has nothing"
            " to learn; choose another labeler.checkpoint or another model"
        )


def chosen_options(hydra_config: Any, conf: Path) -> dict[str, str]:
    """The option of each group.

    conf: the folder of all groups
    Raises: ConfigError for a recipe that was asked for and does not exist; a model without one is no error
    """
    choices = hydra_config.runtime.choices
    recipe, folder = choices[RECIPE], conf / RECIPE.partition("@")[0]
    is_asked_for = any(override.startswith(f"{RECIPE}=") for override in hydra_config.overrides.task)
    if is_asked_for and not (folder / f"{recipe}.yaml").exists():
        known = sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))
        raise ConfigError(f"{RECIPE}={recipe}: no such recipe; there are {', '.join(known)}")
    return {key: choices[key] for key in choices if not key.startswith("hydra/")}


def prefer_command_line(config: dict[str, Any], overrides: Sequence[str]) -> None:
    """Leave out of training.untrained what the command line says of training: a key given there holds for all models.

    overrides: as given, e.g. `training.epochs=3`
    """
    given = {override.lstrip("+").partition("=")[0] for override in overrides}
    training = config["training"]
    if isinstance(training, dict) and isinstance(training.get("untrained"), dict):
        training["untrained"] = {
            key: value
            for key, value in training["untrained"].items()
            if f"training.{key}" not in given or given & {"training.untrained", f"training.untrained.{key}"}
        }


def campaign_name(name: str | None, settings: Settings) -> str:
    """The campaign's folder: as given, as its workflow says, or <system>_<generator>_<model>_<labeler>_s<seed>.

    Raises: ConfigError for a name that is not one folder
    """
    if name is None and hasattr(settings.workflow, "folder_name"):
        return settings.workflow.folder_name(settings)
    if name is None:
        options = settings.options
        parts = (settings.system.name, options["generator"], options["model"], options["labeler"], f"s{settings.seed}")
        return "_".join(map(str, parts))
    if not name or "/" in name or name.startswith("."):
        raise ConfigError(
            f"campaign = {name!r}: must be the name of one folder, without / and not beginning with a dot"
        )
    return name


def explain(error: BaseException) -> str:
    """The message of an error; for a key that does not exist, also those that do."""
    if isinstance(error, OverrideParseException):
        return f"{error.override} is no KEY=VALUE; put a value that holds =, ~ or the like in quotes: 'KEY=\"VALUE\"'"
    cause = error.__cause__
    if (
        not isinstance(error, ChemLoopError)
        and isinstance(cause, ConfigKeyError | ConfigAttributeError)
        and isinstance(cause.parent_node, DictConfig)
    ):
        allowed = sorted(str(key) for key in cause.parent_node if key != "_target_")
        return f"unknown key {cause.full_key}; {suggestion(str(cause.key), allowed)}"
    return str(error)
