"""The LightningModule that fine-tunes any `Potential`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from lightning.pytorch import LightningModule
from torch.optim.lr_scheduler import ReduceLROnPlateau

from chemloop.runtime.errors import ChemLoopError
from chemloop.training.averaging import EqualAverage, MovingAverage
from chemloop.training.batches import Batches
from chemloop.training.checks import is_better
from chemloop.training.consolidation import Consolidation
from chemloop.training.curves import Curves
from chemloop.training.data import name, targets
from chemloop.training.evaluation import mae, predict, rmse
from chemloop.training.loss import channel_losses
from chemloop.training.recipe import Recipe
from chemloop.training.schedule import Schedule


class TrainingDiverged(ChemLoopError):
    """The loss, or its gradient, is not a finite number."""


class Baseline(NamedTuple):
    """The base on the validation frames.

    shifts: eV per atom of each element, fitted on the training frames
    before: RMSE of energy (eV/atom), force (eV/A) and stress (eV/A^3) without these shifts
    shifted, shifted_mae: RMSE and mean absolute errors with them
    is_random: it has random weights
    """

    shifts: dict[int, float]
    before: dict[str, float]
    shifted: dict[str, float]
    shifted_mae: dict[str, float]
    is_random: bool

    def is_worse_than(self, after: dict[str, float], channels: Sequence[str]) -> bool:
        """Whether weights of these RMSEs are worth keeping, see `is_better`."""
        return is_better(channels, self.before, self.shifted, after, self.is_random)


class FineTuning(LightningModule):
    """One fine-tuning: loss, schedule, averaged weights, validation after each epoch and the best weights so far.

    Everything that decides the result is a function of the step or part of the state that Lightning saves, so a
    training that was killed ends with the weights of one that was not. That is why data order, learning rate,
    average, early stopping and best weights are here and not Lightning's: some of its own do not survive a kill
    within an epoch (loader position), at its end (plateau schedule) or after the last one (early stopping).

    The validation score is the mean over the trained channels of the mean absolute error in units of that of the
    shifted base, so 1 before the first step. (In RMSE the few frames with the largest forces would choose the epoch.)
    Only weights that `checks.is_better` finds better than the base, by RMSE, can be best.
    In the phase of stochastic weight averaging it is the equal average over its epochs that is validated.
    """

    def __init__(
        self,
        potential: Any,
        weights: list[torch.nn.Parameter],
        batches: Batches,
        valid: Sequence[Atoms],
        recipe: Recipe,
        baseline: Baseline,
        curves: Path,
        consolidation: Consolidation | None = None,
    ):
        super().__init__()
        self.potential: Any = potential
        self.batches = batches
        self.valid = valid
        self.recipe = recipe
        self.baseline = baseline
        self.curves = Curves(curves)
        self.schedule = Schedule(recipe, len(batches))
        self.best: dict[str, Any] = {"score": float("inf"), "epoch": -1, "weights": None}
        self.plateau: ReduceLROnPlateau | None = None
        self.restored_plateau: dict[str, Any] | None = None
        self.weights = weights
        self.average = MovingAverage(self.weights, recipe.ema_decay)
        self.equal_average = EqualAverage(self.weights if recipe.swa_epochs else [])
        self.consolidation = consolidation

    def configure_optimizers(self) -> torch.optim.Optimizer:
        kind = torch.optim.AdamW if self.recipe.optimizer == "adamw" else torch.optim.Adam
        is_amsgrad = self.recipe.optimizer == "amsgrad"
        # a fused step takes a quarter of the time; Lightning does not clip gradients of mixed precision before one
        is_fused = "mixed" not in self.recipe.precision
        rate, decay = self.recipe.learning_rate, self.recipe.weight_decay
        optimizer = kind(self.weights, lr=rate, weight_decay=decay, amsgrad=is_amsgrad, fused=is_fused)
        if self.recipe.schedule == "plateau":
            self.plateau = ReduceLROnPlateau(
                optimizer, factor=self.recipe.decay_factor, patience=self.recipe.decay_epochs, threshold=0
            )
            if self.restored_plateau is not None:
                self.plateau.load_state_dict(self.restored_plateau)
        return optimizer

    def train_dataloader(self) -> list[int]:
        """One number per step of an epoch; the frames follow from the global step."""
        return list(range(len(self.batches)))

    def on_train_start(self) -> None:
        # potentials are loaded in evaluation mode, and Lightning leaves the mode as it is
        self.potential.train()
        self.average.follow()
        self.equal_average.follow()
        self.trainer.should_stop |= self._is_exhausted()

    def on_train_batch_start(self, batch: int, batch_idx: int) -> None:
        # networks with random layers: what they draw follows from seed and step
        torch.manual_seed(hash((self.batches.seed, self.global_step)))
        if self.plateau is None or self._is_averaging():
            for group in self._optimizer().param_groups:
                group["lr"] = self.schedule.learning_rate(self.global_step)

    def training_step(self, batch: int, batch_idx: int) -> torch.Tensor:
        frames = self.batches.at(self.global_step, self.global_rank)
        batch_of_frames = self.potential.collate(frames)
        labels = targets(frames, self.weights[0])
        losses = channel_losses(self.potential(batch_of_frames), labels, batch_of_frames.n_atoms, self.recipe)
        prefactors = self.schedule.prefactors(self.global_step, self._learning_rate())
        loss = torch.stack([prefactor * losses[channel] for channel, prefactor in prefactors.items()]).sum()
        if self.consolidation is not None:
            losses["ewc"] = self.consolidation(self.weights)
            loss = loss + losses["ewc"]
        self._check_finite("loss", loss, frames)
        self.curves.add_step({"loss": float(loss)} | {key: float(value) for key, value in losses.items()})
        return loss

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the gradient by its norm, which is checked before any weight moves: a finite loss may have none."""
        limit = float("inf") if gradient_clip_val is None else gradient_clip_val
        norm = torch.nn.utils.clip_grad_norm_(self.weights, limit)
        # the scaler of 16-mixed leaves out steps that are not finite, and finds its scale by them
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:
            # the gradient is a mean over all processes
            shares = range(self.batches.n_shares)
            frames = [atoms for share in shares for atoms in self.batches.at(self.global_step, share)]
            self._check_finite("gradient", norm, frames)

    def _check_finite(self, what: str, number: torch.Tensor, frames: Sequence[Atoms]) -> None:
        is_finite = bool(torch.isfinite(number))
        if self.trainer.world_size > 1:
            # all processes must stop, or the others would wait for this one
            is_finite = self.trainer.strategy.reduce_boolean_decision(is_finite, all=True)
        if not is_finite:
            raise TrainingDiverged(
                f"the {what} was {float(number)} in epoch {self.current_epoch + 1}, step {self.global_step}, on frames"
                f" {', '.join(name(atoms) for atoms in frames)}: look at these, lower training.learning_rate or"
                " training.max_force"
            )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        is_averaging = self._is_averaging()
        super().optimizer_step(*args, **kwargs)
        if not is_averaging:
            self.average.update()

    def on_train_epoch_end(self) -> None:
        # the step that comes next may be the first of the second phase already
        is_averaging = self.current_epoch >= self.recipe.epochs
        if is_averaging:
            self.equal_average.update()
        with (self.equal_average if is_averaging else self.average).applied():
            predictions = predict(self.valid, self.potential, self._batch_size())
            valid = rmse(self.valid, predictions)
            score = self._score(mae(self.valid, predictions))
            if self.baseline.is_worse_than(valid, self.recipe.channels) and score < self.best["score"]:
                weights = {key: value.detach().clone() for key, value in self.potential.state_dict().items()}
                self.best = {"score": score, "epoch": self.current_epoch, "weights": weights}
        if self.plateau is not None and not is_averaging:
            self.plateau.step(score)
        self.curves.end_epoch(self.current_epoch, valid, score, self._learning_rate())
        if self.trainer.is_global_zero:
            self.curves.write()
        self.trainer.should_stop |= self._is_exhausted()

    def _is_averaging(self) -> bool:
        return self.schedule.is_averaging(self.global_step)

    def _batch_size(self) -> int:
        return max(1, self.batches.batch_size // self.batches.n_shares)

    def _score(self, valid: dict[str, float]) -> float:
        shifted = self.baseline.shifted_mae
        # a base without any error has nothing to gain, but must not divide by it
        return float(np.mean([valid[channel] / max(shifted[channel], 1e-9) for channel in self.recipe.channels]))

    def _is_exhausted(self) -> bool:
        patience = self.recipe.early_stopping_patience
        return patience > 0 and self.curves.epochs_without_progress() >= patience

    def _optimizer(self) -> torch.optim.Optimizer:
        return self.trainer.optimizers[0]

    def _learning_rate(self) -> float:
        return self._optimizer().param_groups[0]["lr"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["chemloop"] = {
            "average": self.average.state_dict(),
            "equal_average": self.equal_average.state_dict(),
            "best": self.best,
            "curves": self.curves.state_dict(),
            "plateau": self.plateau and self.plateau.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["chemloop"]
        self.average.load_state_dict(state["average"])
        self.equal_average.load_state_dict(state["equal_average"])
        self.best = state["best"]
        self.curves.load_state_dict(state["curves"])
        self.restored_plateau = state["plateau"]
