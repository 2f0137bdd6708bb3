"""The state of a training on disk, from which a killed one goes on."""

from __future__ import annotations

import hashlib
import io
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from chemloop.runtime.disk import write_json, write_whole

log = logging.getLogger(__name__)
DIGEST_BYTES = 32
KEPT = 2
PROGRESS_INTERVAL_S = 0.5
SAVE_INTERVAL_S = 30.0
"""An epoch that ends within this time after a state was saved is not worth another one, unless it has many steps."""


class HashedCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, behind a hash of their content and written whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        data = content.getvalue()
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(Path(path), hashlib.sha256(data).digest() + data)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        data = memoryview(Path(path).read_bytes())[DIGEST_BYTES:]
        return torch.load(io.BytesIO(data), map_location=map_location, weights_only=True)


def newest_intact(folder: Path) -> Path | None:
    """The last state of a training that is undamaged; damaged ones, and what a kill left half written, are removed."""
    if not folder.is_dir():
        return None
    for leftover in folder.glob(".*"):
        leftover.unlink()
    for path in sorted(folder.glob("step-*.ckpt"), reverse=True):
        content = path.read_bytes()
        if hashlib.sha256(content[DIGEST_BYTES:]).digest() == content[:DIGEST_BYTES]:
            return path
        log.warning("%s is damaged; the training goes on from an earlier state", path)
        path.unlink()
    return None


class SaveStates(Checkpoint):
    """Saves the training every so many steps, at the end of an epoch where some time has passed since, and at the
    very end; the newest two states stay.

    With several processes a state is also the only way in which the one that started them learns of better weights,
    so an epoch that brings some ends with one.
    """

    def __init__(self, folder: Path, every_steps: int):
        self.folder = folder
        self.every_steps = every_steps
        self.saved_step = 0
        self.saved_at = 0.0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._note(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # not after the last step of an epoch: a state from there would skip its validation
        if self._is_due(trainer) and batch_idx + 1 < trainer.num_training_batches:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        has_time_passed = time.monotonic() - self.saved_at > SAVE_INTERVAL_S
        has_better_weights = trainer.world_size > 1 and module.best["epoch"] == trainer.current_epoch
        # all processes take part in saving, so all must decide alike
        is_wanted = trainer.strategy.reduce_boolean_decision(has_time_passed or has_better_weights, all=False)
        if self._is_due(trainer) or is_wanted or self._is_last(trainer):
            self._save(trainer)

    def _is_due(self, trainer: Trainer) -> bool:
        return trainer.global_step - self.saved_step >= self.every_steps

    def _is_last(self, trainer: Trainer) -> bool:
        return trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.folder / f"step-{trainer.global_step:09d}.ckpt")
        if trainer.is_global_zero:
            for path in sorted(self.folder.glob("step-*.ckpt"))[:-KEPT]:
                path.unlink()
        self._note(trainer)

    def _note(self, trainer: Trainer) -> None:
        self.saved_step, self.saved_at = trainer.global_step, time.monotonic()


class ReportProgress(Callback):
    """progress.json: steps done and in all, epoch (the first is 1) and epochs; also to `progress(done, total)`."""

    def __init__(self, path: Path, epochs: int, progress: Callable[[int, int], None] | None):
        self.path = path
        self.epochs = epochs
        self.progress = progress
        self.last = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        total = int(trainer.num_training_batches) * self.epochs
        if self.progress is not None:
            self.progress(trainer.global_step, total)
        if trainer.is_global_zero and time.monotonic() - self.last > PROGRESS_INTERVAL_S:
            self.last = time.monotonic()
            position = {"done": trainer.global_step, "total": total}
            write_json(self.path, position | {"epoch": trainer.current_epoch + 1, "epochs": self.epochs})
