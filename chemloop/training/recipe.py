"""How a force field is fine-tuned: the schema of `conf/training/*.yaml`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from chemloop.runtime.errors import ConfigError

SCHEDULES = ("constant", "exponential", "step", "cosine", "plateau")
HOLD_OUTS = ("frame", "parent")
CRITERIA = ("mse", "huber")
OPTIMIZERS = ("adam", "adamw")
STARTS = ("base", "previous")
FOLLOWED = ("learning_rate", "step")
PREFACTORS = ("energy_prefactor", "force_prefactor", "stress_prefactor")


@dataclass
class Recipe:
    """One fine-tuning.

    start_from: base continues from the checkpoint of the model's YAML, previous from that of the iteration before
    epochs, batch_size (structures): a last, smaller batch is trained too
    learning_rate, stop_learning_rate: first and last one; the last one counts for exponential and cosine
    schedule: constant | exponential (from first to last, in plateaus of decay_steps; 0: at every step) | cosine
        | step (times decay_factor every decay_epochs)
        | plateau (times decay_factor after more than decay_epochs without a better validation score)
    energy_prefactor, force_prefactor, stress_prefactor: [first, last]; a channel with [0, 0] is not trained
    prefactors_follow: they move from first to last with the learning rate (as DeePMD-kit's), or linearly in the step
    criterion: mse, or huber with huber_delta; residuals are energy per atom (eV), force (eV/A), virial per atom (eV)
    ema_decay: of the exponential moving average of the weights that is validated and kept; 0: no average
    gradient_clip: largest norm of the gradient; 0: unlimited
    early_stopping_patience: epochs without a better validation score before training stops; 0: never
    valid_fraction: of the frames, held out
    valid_by: parent holds out all frames of a structure, which shows how the model does on new ones; frame holds out
        single frames, which shows how it does on others of the same structures, as the test frames of the loop are
    max_force: eV/A, frames with a larger label force on an atom are left out and counted
    train_only: beginnings of weight names; others stay as they are; empty: all weights train
    max_minutes: training stops after the epoch in which this has passed; null: no limit
    save_every_steps: steps between two states that a killed training continues from; every epoch's end is one too
    accelerator, devices, strategy, precision: of Lightning's Trainer; accelerator auto follows the device asked for
    """

    start_from: str = "previous"
    epochs: int = 50
    batch_size: int = 4
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    stop_learning_rate: float = 1e-5
    weight_decay: float = 0.0
    schedule: str = "cosine"
    decay_steps: int = 0
    decay_factor: float = 0.8
    decay_epochs: int = 4
    energy_prefactor: list[float] = field(default_factory=lambda: [1.0, 1.0])
    force_prefactor: list[float] = field(default_factory=lambda: [1.0, 1.0])
    stress_prefactor: list[float] = field(default_factory=lambda: [1.0, 1.0])
    prefactors_follow: str = "step"
    criterion: str = "huber"
    huber_delta: float = 0.1
    ema_decay: float = 0.99
    gradient_clip: float = 10.0
    early_stopping_patience: int = 0
    valid_fraction: float = 0.1
    valid_by: str = "frame"
    max_force: float = 50.0
    train_only: list[str] = field(default_factory=list)
    max_minutes: float | None = None
    save_every_steps: int = 200
    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        for key, allowed in (
            ("valid_by", HOLD_OUTS),
            ("schedule", SCHEDULES),
            ("criterion", CRITERIA),
            ("optimizer", OPTIMIZERS),
            ("start_from", STARTS),
            ("prefactors_follow", FOLLOWED),
        ):
            self._require(key, getattr(self, key) in allowed, f"must be one of {', '.join(allowed)}")
        for key in ("epochs", "batch_size", "decay_epochs", "save_every_steps", "devices"):
            self._require(key, getattr(self, key) >= 1, "must be 1 or above")
        for key in ("learning_rate", "stop_learning_rate", "huber_delta", "max_force"):
            self._require(key, getattr(self, key) > 0, "must be above 0")
        for key in ("decay_steps", "weight_decay", "gradient_clip", "early_stopping_patience"):
            self._require(key, getattr(self, key) >= 0, "must be 0 or above")
        for key in ("decay_factor", "valid_fraction"):
            self._require(key, 0 < getattr(self, key) < 1, "must be between 0 and 1, both excluded")
        self._require("ema_decay", 0 <= self.ema_decay < 1, "must be 0 (no average) or above, and below 1")
        self._require("max_minutes", self.max_minutes is None or self.max_minutes > 0, "must be null or above 0")
        if self.schedule in ("exponential", "cosine"):
            self._require(
                "stop_learning_rate",
                self.stop_learning_rate <= self.learning_rate,
                f"must not be above training.learning_rate = {self.learning_rate:g}",
            )
        for key in PREFACTORS:
            value = getattr(self, key)
            is_pair = len(value) == 2 and min(value) >= 0
            self._require(key, is_pair, "must be two numbers, first and last, both 0 or above")
        self._require("force_prefactor", len(self.channels) > 0, f"one of {', '.join(PREFACTORS)} must be above 0")

    def _require(self, key: str, is_met: bool, rule: str) -> None:
        if not is_met:
            value: Any = getattr(self, key)
            raise ConfigError(f"training.{key} = {value}: {rule}")

    @property
    def channels(self) -> list[str]:
        """The trained ones of energy, force and stress."""
        return [key.removesuffix("_prefactor") for key in PREFACTORS if max(getattr(self, key)) > 0]
