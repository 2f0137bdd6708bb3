"""Fine-tunes the potential of any force field on labelled frames, and checks the result."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.plugins.environments import LightningEnvironment

from chemloop.protocols import ForceField, Potential
from chemloop.training.checks import channels_not_improved, check_same
from chemloop.training.data import Batches, check_frames, split, without_outliers
from chemloop.training.evaluation import UNITS, fit_shifts, mae, predict, rmse
from chemloop.training.module import Baseline, FineTuning, TrainingDiverged
from chemloop.training.recipe import Recipe
from chemloop.training.states import HashedCheckpointIO, ReportProgress, SaveStates, newest_intact

log = logging.getLogger(__name__)
N_CHECKED = 8
"""Frames on which predictions are compared with those of the base and of the reloaded checkpoint."""
CHECKPOINT = "finetuned.pt"


@dataclass
class Fit:
    """checkpoint: of the fine-tuned force field, or that of the base where nothing was better
    kept_base: True where the weights are the base's, at most with shifted energies
    metrics: by their names with units, `finetune/...`
    curves: file of one JSON line per epoch
    """

    checkpoint: str
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
    epoch with the best validation score among those in which every trained channel is better than the base was;
    where there is none, the base stays, with the constants if they lower its energy error.
    workdir: gets finetuned.pt, curves.jsonl, progress.json and the states of the training
    Raises: StructureError, EnergyFrameError, CheckpointError, ConfigError, FitCheckFailed
    """
    check_frames(frames)
    kept = without_outliers(frames, recipe.max_force)
    if len(kept) < len(frames):
        log.warning("%d frames with forces above %g eV/A left out", len(frames) - len(kept), recipe.max_force)
    train, valid = split(kept, recipe.valid_fraction, recipe.valid_by)
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)

    potential = force_field.load(device, dtype)
    probes = [*valid, *train][:N_CHECKED]
    check_same(probes, potential, force_field.load(device, dtype), "zero training steps change the base model")
    before = rmse(valid, predict(valid, potential, recipe.batch_size))
    shifts = _shifts(train, potential, recipe.batch_size)
    potential.shift_energies(shifts)
    predictions = predict(valid, potential, recipe.batch_size)
    baseline = Baseline(shifts, before, rmse(valid, predictions), mae(valid, predictions))

    assert isinstance(potential, torch.nn.Module)
    batches = Batches(train, recipe.batch_size, seed, recipe.devices)
    module = FineTuning(potential, batches, valid, recipe, baseline, workdir / "curves.jsonl")
    states = workdir / f"states-{_fingerprint(potential, kept, recipe, seed)}"
    _train(module, recipe, workdir, states, device, progress)

    metrics = {
        "n_frames_fitted": float(len(train)),
        "n_frames_valid": float(len(valid)),
        "n_outliers": float(len(frames) - len(kept)),
        "n_epochs": float(len(module.curves.rows)),
        "best_epoch": float(module.best["epoch"]),
    }
    checkpoint, kept_base, after = _keep_better(force_field, module, workdir / CHECKPOINT, device, dtype)
    for channel, unit in UNITS.items():
        metrics[f"valid_{channel}_rmse_before_{unit}"] = 1000 * before[channel]
        metrics[f"valid_{channel}_rmse_shifted_{unit}"] = 1000 * baseline.shifted[channel]
        metrics[f"valid_{channel}_rmse_{unit}"] = 1000 * after[channel]
    named = {f"finetune/{name}": value for name, value in metrics.items()}
    return Fit(checkpoint, kept_base, named, module.curves.path)


def _shifts(train: Sequence[Atoms], potential: Potential, batch_size: int) -> dict[int, float]:
    labels = np.array([atoms.info["label_energy"] for atoms in train])
    return fit_shifts(train, labels - predict(train, potential, batch_size).energies)


def _fingerprint(potential: torch.nn.Module, frames: Sequence[Atoms], recipe: Recipe, seed: int) -> str:
    """Changes with anything that decides the result, so a training never goes on from the state of another."""
    content = hashlib.sha256(f"{recipe} {seed}".encode())
    for weight in potential.state_dict().values():
        content.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    for atoms in frames:
        label = [atoms.info["label_energy"]], atoms.info["label_stress"]
        arrays: list[Any] = [atoms.numbers, atoms.positions, atoms.cell.array, atoms.arrays["label_forces"], *label]
        for values in arrays:
            content.update(np.asarray(values).tobytes())
    return content.hexdigest()[:12]


def _train(
    module: FineTuning,
    recipe: Recipe,
    workdir: Path,
    states: Path,
    device: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    callbacks: list[Any] = [
        ReportProgress(workdir / "progress.json", recipe.epochs, progress),
        SaveStates(states, recipe.save_every_steps),
    ]
    if recipe.max_minutes is not None:
        callbacks.append(Timer(timedelta(minutes=recipe.max_minutes), interval="epoch", verbose=False))
    accelerator = {"cpu": "cpu", "cuda": "gpu"}.get(device.partition(":")[0], "auto")
    with _quiet():
        trainer = Trainer(
            accelerator=accelerator if recipe.accelerator == "auto" else recipe.accelerator,
            devices=recipe.devices,
            strategy=recipe.strategy,
            precision=recipe.precision,  # type: ignore[arg-type]  # Lightning checks it
            max_epochs=recipe.epochs,
            gradient_clip_val=recipe.gradient_clip or None,
            callbacks=callbacks,
            # inside a SLURM job Lightning would take over signals, requeueing and the number of processes
            plugins=[HashedCheckpointIO(), LightningEnvironment()],
            default_root_dir=workdir,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        try:
            trainer.fit(module, ckpt_path=newest_intact(states))
        except TrainingDiverged as error:
            log.warning("training stopped, the best weights so far are kept: %s", error)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's banners, tips and warnings about loaders."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(level)


def _keep_better(
    force_field: ForceField, module: FineTuning, path: Path, device: str, dtype: str
) -> tuple[str, bool, dict[str, float]]:
    """Save the fine-tuned weights if they are better than the base, else the shifted base if that is, else nothing."""
    valid, recipe, before = module.valid, module.recipe, module.baseline.before
    potential: Any = module.potential.to(device)
    kept_base = True
    after = before
    if module.best["weights"] is not None:
        potential.load_state_dict(module.best["weights"])
        after = rmse(valid, predict(valid, potential, recipe.batch_size))
        kept_base = bool(channels_not_improved(recipe.channels, before, after))
    if kept_base:
        log.warning("the fine-tuned weights are not better than the base in every trained channel, the base is kept")
        after = before | {"energy": module.baseline.shifted["energy"]}
        if after["energy"] >= before["energy"]:
            return force_field.checkpoint, True, before
        potential = force_field.load(device, dtype)
        potential.shift_energies(module.baseline.shifts)
    potential.save(path)
    reloaded = dataclasses.replace(force_field, checkpoint=str(path)).load(device, dtype)  # type: ignore[type-var]  # every ForceField is a dataclass
    check_same(valid[:N_CHECKED], potential, reloaded, f"{path} does not reload to the predictions that were saved")
    return str(path), kept_base, after
