"""Fine-tunes the potential of any force field on labelled frames, and checks the result."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from chemloop.protocols import ForceField, Potential
from chemloop.runtime.errors import ConfigError
from chemloop.training.batches import Batches
from chemloop.training.checks import check_same
from chemloop.training.consolidation import Consolidation, fisher_information, with_noise
from chemloop.training.data import (
    batch_structures,
    check_frames,
    label,
    labelled_channels,
    split,
    without_outliers,
)
from chemloop.training.evaluation import UNITS, fit_shifts, mae, predict, rmse
from chemloop.training.loss import choose_weights
from chemloop.training.module import Baseline, FineTuning
from chemloop.training.recipe import Recipe
from chemloop.training.replay import GeneralSet, forgetting, general_set
from chemloop.training.trainer import check_device, check_precision, train

log = logging.getLogger(__name__)
N_CHECKED = 8
"""Frames on which predictions are compared with those of the base and of the reloaded checkpoint."""
CHECKPOINT = "finetuned.pt"


@dataclass
class Fit:
    """checkpoint: of the fine-tuned force field, or that of the base where nothing was better; null: its random weights
    kept_base: True where the weights are the base's, at most with shifted energies
    metrics: by their names with units, `finetune/...`
    curves: file of one JSON line per epoch
    """

    checkpoint: str | None
    kept_base: bool
    metrics: dict[str, float]
    curves: Path


def finetune(
    force_field: ForceField,
    frames: Sequence[Atoms],
    recipe: Recipe,
    workdir: Path,
    seed: int,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Fine-tune on frames that carry labels; run again after a kill, it continues, and ends with the same weights.

    First a constant energy per element is fitted, then the weights. What is kept are the averaged weights of the
    epoch with the best validation score among those whose validation RMSE is better than the base's: on average over
    the trained channels more than 1 % below that with the constants, and in none, unless the base's weights are random,
    more than 5 % above that without (`checks.is_better`). Where there is none, the base stays, with the constants if
    they lower its energy error.
    workdir: gets finetuned.pt, curves.jsonl, progress.json and the states of the training
    Raises: StructureError, EnergyFrameError, CheckpointError, ConfigError, FitCheckFailed
    """
    if not force_field.can_learn:
        raise ConfigError("this model cannot be fine-tuned: it has no weights here; choose one that learns")
    check_device(recipe, device)
    check_frames(frames, recipe.channels)
    kept = without_outliers(frames, recipe.max_force)
    train_frames, valid = split(kept, recipe.valid_fraction, recipe.valid_by)
    recipe = _for_these(recipe, force_field, train_frames)
    batch_size = int(recipe.batch_size)
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)

    potential = force_field.load(device, dtype)
    probes = [*valid, *train_frames][:N_CHECKED]
    check_same(probes, potential, force_field.load(device, dtype), "zero training steps change the base model")
    assert isinstance(potential, torch.nn.Module)
    identity = _identity(potential, kept, recipe, seed)
    baseline = _shift(potential, train_frames, valid, batch_size, is_random=force_field.checkpoint is None)

    general = general_set(recipe, potential, seed, batch_size)
    weights = choose_weights(potential, recipe.train_only)
    check_precision(potential, weights, probes, recipe, device)
    for atoms in general.replayed:
        _add_geometry(identity, atoms)
    consolidation = _consolidation(potential, weights, general, recipe, seed)
    batches = Batches(train_frames, batch_size, seed, recipe.devices, general.replayed, recipe.replay_fraction)
    module = FineTuning(potential, weights, batches, valid, recipe, baseline, workdir / "curves.jsonl", consolidation)
    states = workdir / f"states-{identity.hexdigest()[:12]}"
    train(module, recipe, workdir, states, device, progress)
    # without lines where it stopped in its first epoch, and never those of another training
    module.curves.write()

    metrics = {
        "n_frames_fitted": float(len(train_frames)),
        "n_frames_valid": float(len(valid)),
        "n_outliers": float(len(frames) - len(kept)),
        "n_epochs": float(len(module.curves.rows)),
        "best_epoch": float(module.best["epoch"]),
    }
    checkpoint, kept_base, after = _keep_better(force_field, module, workdir / CHECKPOINT, device, dtype)
    metrics |= _errors(baseline, after) | _forgotten(general, module.potential, kept_base, batch_size)
    named = {f"finetune/{name}": value for name, value in metrics.items()}
    return Fit(checkpoint, kept_base, named, module.curves.path)


def _for_these(recipe: Recipe, force_field: ForceField, train_frames: Sequence[Atoms]) -> Recipe:
    """The recipe with its batch size as a number, and without remembering where the base has learned nothing yet."""
    recipe = dataclasses.replace(recipe, batch_size=batch_structures(recipe.batch_size, train_frames, recipe.devices))
    if recipe.replay is None or force_field.checkpoint is not None:
        return recipe
    log.warning(
        "the model begins with random weights, which hold nothing to forget: training.replay = %s,"
        " training.replay_fraction and training.ewc_strength are of no effect in this training",
        recipe.replay,
    )
    return dataclasses.replace(recipe, replay=None, replay_fraction=0.0, ewc_strength=0.0)


def _shift(
    potential: Potential, train_frames: Sequence[Atoms], valid: Sequence[Atoms], batch_size: int, is_random: bool
) -> Baseline:
    """Fit a constant energy per element on the training frames and add it to the potential."""
    before = rmse(valid, predict(valid, potential, batch_size))
    shifts: dict[int, float] = {}
    if "energy" in labelled_channels(train_frames):
        labels = np.array([label(atoms, "energy") for atoms in train_frames])
        shifts = fit_shifts(train_frames, labels - predict(train_frames, potential, batch_size).energies)
        potential.shift_energies(shifts)
    predictions = predict(valid, potential, batch_size)
    return Baseline(shifts, before, rmse(valid, predictions), mae(valid, predictions), is_random)


def _consolidation(
    potential: torch.nn.Module, weights: list[torch.nn.Parameter], general: GeneralSet, recipe: Recipe, seed: int
) -> Consolidation | None:
    if recipe.ewc_strength == 0:
        return None
    frames = with_noise(general.replayed[: recipe.n_fisher], seed)
    return Consolidation(weights, fisher_information(potential, weights, frames, recipe), recipe.ewc_strength)


def _errors(baseline: Baseline, after: dict[str, float]) -> dict[str, float]:
    errors = {}
    for channel, value in after.items():
        errors[f"valid_{channel}_rmse_before_{UNITS[channel]}"] = 1000 * baseline.before[channel]
        errors[f"valid_{channel}_rmse_shifted_{UNITS[channel]}"] = 1000 * baseline.shifted[channel]
        errors[f"valid_{channel}_rmse_{UNITS[channel]}"] = 1000 * value
    return errors


def _forgotten(general: GeneralSet, potential: Potential, kept_base: bool, batch_size: int) -> dict[str, float]:
    """Forgetting, which is 0 by definition before a fit and where the base was kept."""
    if not general.held_out:
        return {}
    found = forgetting(general.held_out, potential, batch_size)
    return {
        "n_replayed": float(len(general.replayed)),
        "n_general_held_out": float(len(general.held_out)),
        **(dict.fromkeys(found, 0.0) if kept_base else found),
    }


def _identity(potential: torch.nn.Module, frames: Sequence[Atoms], recipe: Recipe, seed: int) -> Any:
    """A hash that changes with anything that decides the result, so a training never goes on from the state of another.

    Of what is given alone, the base's weights and the labels: what is computed from these differs in the last bit
    between processors, and on a GPU from run to run.
    """
    content = hashlib.sha256(f"{recipe} {seed}".encode())
    for weight in potential.state_dict().values():
        content.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    for atoms in frames:
        _add_geometry(content, atoms)
        for channel in labelled_channels([atoms]):
            content.update(np.asarray(label(atoms, channel)).tobytes())
    return content


def _add_geometry(content: Any, atoms: Atoms) -> None:
    for values in (atoms.numbers, atoms.positions, atoms.cell.array):
        content.update(np.asarray(values).tobytes())


def _keep_better(
    force_field: ForceField, module: FineTuning, path: Path, device: str, dtype: str
) -> tuple[str | None, bool, dict[str, float]]:
    """Save the fine-tuned weights if they are better than the base, else the shifted base if that is, else nothing."""
    valid, recipe, baseline = module.valid, module.recipe, module.baseline
    before = baseline.before
    batch_size = int(recipe.batch_size)
    potential: Any = module.potential.to(device)
    kept_base = True
    after = before
    if module.best["weights"] is not None:
        potential.load_state_dict(module.best["weights"])
        after = rmse(valid, predict(valid, potential, batch_size))
        kept_base = not baseline.is_worse_than(after, recipe.channels)
    if kept_base:
        log.warning("the fine-tuned weights are not better than the base with shifted energies, which is kept")
        after = baseline.shifted
        if not after.get("energy", 0.0) < before.get("energy", 0.0):
            return force_field.checkpoint, True, before
        potential = force_field.load(device, dtype)
        potential.shift_energies(baseline.shifts)
    potential.save(path)
    reloaded = dataclasses.replace(force_field, checkpoint=str(path)).load(device, dtype)  # type: ignore[type-var]  # every ForceField is a dataclass
    check_same(valid[:N_CHECKED], potential, reloaded, f"{path} does not reload to the predictions that were saved")
    return str(path), kept_base, after
