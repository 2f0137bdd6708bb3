"""Lightning's Trainer as every fine-tuning uses it: devices, processes, states, silence."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch.multiprocessing.spawn import ProcessRaisedException

from chemloop.runtime.device import n_visible_gpus, no_gpu
from chemloop.runtime.errors import ConfigError
from chemloop.training.module import FineTuning, TrainingDiverged
from chemloop.training.recipe import AUTO, FULL, Recipe
from chemloop.training.states import HashedCheckpointIO, ReportProgress, SaveStates, newest_intact

log = logging.getLogger(__name__)
GPUS = ("gpu", "cuda")


def accelerator(recipe: Recipe, device: str) -> str:
    """Lightning's accelerator: the recipe's, or for `auto` that of the device asked for."""
    follows = {"cpu": "cpu", "cuda": "gpu"}.get(device.partition(":")[0], "auto")
    return follows if recipe.accelerator == AUTO else recipe.accelerator


def check_device(recipe: Recipe, device: str) -> None:
    """Check that the devices asked for are there.

    Raises: ConfigError
    """
    if accelerator(recipe, device) not in GPUS:
        return
    asked = f"training.accelerator = {recipe.accelerator}, on device {device}"
    n_visible = n_visible_gpus()
    if n_visible == 0:
        raise no_gpu(asked, "training.accelerator=auto and compute.gpu.device=cpu")
    if recipe.devices > n_visible:
        raise ConfigError(f"training.devices = {recipe.devices}: {n_visible} are visible here; lower it to {n_visible}")


def devices(recipe: Recipe, device: str) -> int | list[int]:
    """Lightning's devices: how many, or the one GPU of the number asked for."""
    number = device.partition(":")[2]
    is_one = recipe.devices == 1 and number and accelerator(recipe, device) in GPUS
    return [int(number)] if is_one else recipe.devices


def check_precision(
    potential: Any, weights: list[torch.nn.Parameter], frames: Sequence[Atoms], recipe: Recipe, device: str
) -> None:
    """Check that the network computes in the precision asked for, on two frames.

    Raises: ConfigError
    """
    if recipe.precision == FULL:
        return
    dtype = torch.bfloat16 if recipe.precision.startswith("bf16") else torch.float16
    try:
        with torch.autocast(device.partition(":")[0], dtype):
            prediction = potential.train()(potential.collate(frames[:2]))
            torch.autograd.grad(prediction.forces.square().sum(), weights, allow_unused=True)
    except RuntimeError as error:
        raise ConfigError(
            f"training.precision = {recipe.precision}: this network does not compute in mixed precision ({error});"
            f" choose {FULL}"
        ) from error
    finally:
        potential.eval()


class EpochTimer(Timer):
    """Ends a training after the epoch in which its time has passed, also one that was killed in that epoch."""

    def on_fit_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Lightning's would end it here, in the middle of the epoch, with nothing validated."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.global_step and trainer.global_step % len(pl_module.batches) == 0:
            self._check_time_remaining(trainer)


def strategy(recipe: Recipe) -> str:
    """Lightning's strategy: the recipe's, or for `auto` with several devices processes that this one starts.

    The usual `ddp` starts the whole command again, which in a worker would be the item. A fork would take no time, but
    is impossible once a GPU is in use, and hangs in the first parallel region of torch (as in Adam's fused step) where
    its parent has run one; a spawned process imports everything anew.
    """
    if recipe.strategy != AUTO or recipe.devices == 1:
        return recipe.strategy
    # some networks have weights that energies do not depend on, such as those of magnetic moments
    return "ddp_spawn_find_unused_parameters_true"


def train(
    module: FineTuning,
    recipe: Recipe,
    workdir: Path,
    states: Path,
    device: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Train to the end, or until the loss is no number; module then holds the best weights and the curves.

    states: folder of the states that it continues from and leaves
    """
    callbacks: list[Any] = [
        ReportProgress(workdir / "progress.json", recipe.all_epochs, progress),
        SaveStates(states, recipe.save_every_steps),
    ]
    if recipe.max_minutes is not None:
        callbacks.append(EpochTimer(timedelta(minutes=recipe.max_minutes), interval="epoch", verbose=False))
    if recipe.devices > 1:
        # each process moves it to a device of its own
        module.cpu()
    with _quiet():
        trainer = Trainer(
            accelerator=accelerator(recipe, device),
            devices=devices(recipe, device),
            strategy=strategy(recipe),
            precision=recipe.precision,  # type: ignore[arg-type]  # Lightning checks it
            max_epochs=recipe.all_epochs,
            gradient_clip_val=recipe.gradient_clip or None,
            callbacks=callbacks,
            # inside a SLURM job Lightning would take over signals, requeueing and the number of processes
            plugins=[HashedCheckpointIO(), LightningEnvironment()],
            default_root_dir=workdir,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        _fit(trainer, module, states)
    if recipe.devices > 1:
        _take_over(module, states)


def _fit(trainer: Trainer, module: FineTuning, states: Path) -> None:
    message = "training stopped, the best weights so far are kept: %s"
    try:
        trainer.fit(module, ckpt_path=newest_intact(states))
    except TrainingDiverged as error:
        log.warning(message, error)
    except ProcessRaisedException as error:
        # from another process errors come as text, the traceback first
        raised, _, reason = str(error).rpartition(f"{TrainingDiverged.__name__}: ")
        if not raised:
            raise
        log.warning(message, reason.strip())


def _take_over(module: FineTuning, states: Path) -> None:
    """What the other processes have found out, from their last state."""
    newest = newest_intact(states)
    if newest is not None:
        module.on_load_checkpoint(HashedCheckpointIO().load_checkpoint(newest))


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
