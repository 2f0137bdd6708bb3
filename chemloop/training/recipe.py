"""How a force field is fine-tuned: the schema of `conf/training/*.yaml`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from chemloop.runtime.errors import ConfigError

SCHEDULES = ("constant", "exponential", "step", "cosine", "plateau")
HOLD_OUTS = ("frame", "parent")
CRITERIA = ("mse", "huber")
OPTIMIZERS = ("adam", "adamw", "amsgrad")
LOSSES = ("per_atom", "stress", "deepmd")
STARTS = ("base", "previous")
FOLLOWED = ("learning_rate", "step")
AUTO = "auto"
PACKAGED = "package:general"
"""Perturbed prototypes of many chemistries, as structures to replay."""
# Lightning's, which would refuse others only at the first training; importing it takes seconds
ACCELERATORS = (AUTO, "cpu", "cuda", "gpu", "mps", "tpu")
FULL = "32-true"
PRECISIONS = (FULL, "bf16-mixed", "16-mixed")
"""Of Lightning's, those that leave the weights as they are, which are loaded, averaged and compared in their own."""
CHANNELS = ("energy", "force", "stress")
PREFACTORS = tuple(f"{channel}_prefactor" for channel in CHANNELS)


@dataclass
class Recipe:
    """One fine-tuning.

    start_from: base continues from the checkpoint of the model's YAML, previous from that of the iteration before,
        or from the base while that has random weights and no fit was better
    epochs: passes over the training frames
    batch_size: structures, a last, smaller batch is trained too; auto: so many that a batch has 32 atoms on average
    optimizer: adam | adamw | amsgrad (Adam, with the largest second moment so far)
    learning_rate, stop_learning_rate: first and last one; the last one counts for exponential and cosine
    schedule: constant | exponential (from first to last, in plateaus of decay_steps; 0: at every step) | cosine
        | step (times decay_factor every decay_epochs)
        | plateau (times decay_factor after more than decay_epochs without a better validation score)
    energy_prefactor, force_prefactor, stress_prefactor: [first, last]; a channel with [0, 0] is not trained
    prefactors_follow: they move from first to last with the learning rate (as DeePMD-kit's), or linearly in the step
    loss: per_atom has residuals of energy per atom (eV), force (eV/A) and virial per atom (eV); stress has the stress
        (eV/A^3) instead of the virial, as MACE's; deepmd is DeePMD-kit's loss, whose energy and virial terms are the
        squares of whole cells divided by the number of atoms
    criterion: mse, or huber with huber_delta; stress and deepmd have mse alone
    ema_decay: of the exponential moving average of the weights that is validated and kept; 0: no average
    swa_epochs: a last phase of so many epochs, after `epochs`, at the constant swa_learning_rate, in which the
        equal-weight mean of the weights at the ends of its epochs is validated and kept (stochastic weight averaging);
        0: none
    swa_prefactors: of energy, force and stress in that phase; null: the last ones
    gradient_clip: largest norm of the gradient; 0: unlimited
    early_stopping_patience: epochs without a better validation score before training stops; 0: never
    valid_fraction: of the frames, held out
    valid_by: parent holds out all frames of a structure, which shows how the model does on new ones; frame holds out
        single frames, which shows how it does on others of the same structures, as the test frames of the loop are
    max_force: eV/A, frames with a larger label force on an atom are left out and counted
    replay: structures of other chemistry, labelled by the base itself, on which forgetting is measured: package:general
        (perturbed AFLOW prototypes) or an extxyz file, whose labels are of no effect; null: none
    n_replay: structures taken of them; a fifth is held out to measure forgetting, the others may be replayed
    replay_fraction: of the structures in an epoch, replayed ones mixed into every batch; 0: no experience replay
    ewc_strength: lambda of elastic weight consolidation, the penalty lambda/2 sum F (w - w_base)^2; 0: none
    n_fisher: replayed structures with which the diagonal Fisher information F is estimated
    train_only: beginnings of weight names; others stay as they are; empty: all weights train
    max_minutes: training stops after the epoch in which this has passed; null: no limit
    save_every_steps: steps between two states that a killed training continues from; an epoch that ends long
        enough (states.SAVE_INTERVAL_S) after the last one leaves one too
    untrained: values of other keys that hold instead where the model began with random weights
    precision: 32-true, or bf16-mixed and 16-mixed for networks that compute in it (CHGNet, MatterSim, DPA-3)
    accelerator, devices, strategy: of Lightning's Trainer; accelerator auto follows the device asked for,
        strategy auto starts processes of its own where devices is above 1
    """

    start_from: str = "previous"
    epochs: int = 50
    batch_size: int | str = 4
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
    loss: str = "per_atom"
    criterion: str = "huber"
    huber_delta: float = 0.1
    ema_decay: float = 0.99
    swa_epochs: int = 0
    swa_learning_rate: float = 1e-3
    swa_prefactors: list[float] | None = None
    gradient_clip: float = 10.0
    early_stopping_patience: int = 0
    valid_fraction: float = 0.1
    valid_by: str = "frame"
    max_force: float = 50.0
    replay: str | None = None
    n_replay: int = 200
    replay_fraction: float = 0.0
    ewc_strength: float = 0.0
    n_fisher: int = 64
    train_only: list[str] = field(default_factory=list)
    max_minutes: float | None = None
    save_every_steps: int = 200
    untrained: dict[str, Any] = field(default_factory=dict)
    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    precision: str = FULL

    def __post_init__(self) -> None:
        self._check_ranges()
        self._check_prefactors()
        self._check_contradictions()
        self.for_untrained()

    def for_untrained(self) -> Recipe:
        """The recipe with the values that hold for a model that began with random weights.

        Raises: ConfigError
        """
        allowed = {key.name for key in fields(self)} - {"untrained"}
        if unknown := sorted(self.untrained.keys() - allowed):
            raise ConfigError(f"unknown key training.untrained.{unknown[0]}; allowed are {', '.join(sorted(allowed))}")
        return replace(self, **self.untrained, untrained={}) if self.untrained else self

    def _check_ranges(self) -> None:
        for key, allowed in (
            ("valid_by", HOLD_OUTS),
            ("schedule", SCHEDULES),
            ("loss", LOSSES),
            ("criterion", CRITERIA),
            ("optimizer", OPTIMIZERS),
            ("start_from", STARTS),
            ("prefactors_follow", FOLLOWED),
            ("accelerator", ACCELERATORS),
            ("precision", PRECISIONS),
        ):
            self._require(key, getattr(self, key) in allowed, f"must be one of {', '.join(allowed)}")
        is_size = isinstance(self.batch_size, int) and self.batch_size >= 1
        self._require("batch_size", is_size or self.batch_size == AUTO, "must be 1 or above, or auto")
        for key in ("epochs", "decay_epochs", "save_every_steps", "devices", "n_fisher"):
            self._require(key, getattr(self, key) >= 1, "must be 1 or above")
        for key in ("learning_rate", "stop_learning_rate", "swa_learning_rate", "huber_delta", "max_force"):
            self._require(key, getattr(self, key) > 0, "must be above 0")
        for key in ("decay_steps", "weight_decay", "gradient_clip", "early_stopping_patience", "swa_epochs"):
            self._require(key, getattr(self, key) >= 0, "must be 0 or above")
        for key in ("decay_factor", "valid_fraction"):
            self._require(key, 0 < getattr(self, key) < 1, "must be between 0 and 1, both excluded")
        self._require("n_replay", self.n_replay >= 2, "must be 2 or above, one to replay and one to hold out")
        self._require("replay_fraction", 0 <= self.replay_fraction < 1, "must be 0 (no replay) or above, and below 1")
        self._require("ewc_strength", self.ewc_strength >= 0, "must be 0 (no consolidation) or above")
        self._require("ema_decay", 0 <= self.ema_decay < 1, "must be 0 (no average) or above, and below 1")
        self._require("max_minutes", self.max_minutes is None or self.max_minutes > 0, "must be null or above 0")

    def _check_prefactors(self) -> None:
        for key in PREFACTORS:
            value = getattr(self, key)
            is_pair = len(value) == 2 and min(value) >= 0
            self._require(key, is_pair, "must be two numbers, first and last, both 0 or above")
        self._require("force_prefactor", len(self.channels) > 0, f"one of {', '.join(PREFACTORS)} must be above 0")
        if self.swa_prefactors is None:
            return
        rule = "must be null or three numbers, of energy, force and stress, all 0 or above and one above 0"
        values = self.swa_prefactors
        self._require("swa_prefactors", len(values) == 3 and min(values) >= 0 and max(values) > 0, rule)
        for key, value in zip(PREFACTORS, values, strict=True):
            is_allowed = value == 0 or key.removesuffix("_prefactor") in self.channels
            self._require("swa_prefactors", is_allowed, f"training.{key} = [0, 0] leaves that channel out")

    def _check_contradictions(self) -> None:
        if self.schedule in ("exponential", "cosine"):
            self._require(
                "stop_learning_rate",
                self.stop_learning_rate <= self.learning_rate,
                f"must not be above training.learning_rate = {self.learning_rate:g}",
            )
        if self.loss != "per_atom":
            rule = f"training.loss = {self.loss} has squares: set it to mse"
            self._require("criterion", self.criterion == "mse", rule)
        if self.swa_epochs:
            rule = f"must be 0 with training.swa_epochs = {self.swa_epochs}, a phase that it would keep from beginning"
            self._require("early_stopping_patience", self.early_stopping_patience == 0, rule)
        if self.replay is None:
            rule = f"needs structures: set training.replay to {PACKAGED} or an extxyz file"
            for key in ("replay_fraction", "ewc_strength"):
                self._require(key, getattr(self, key) == 0, rule)

    def check_files(self) -> None:
        """Look for the files that are needed before any work; not when a recipe is read, where old ones may be gone.

        Raises: ConfigError
        """
        if self.replay not in (None, PACKAGED):
            self._require("replay", Path(self.replay).is_file(), f"no such file; give {PACKAGED} or an extxyz file")

    def _require(self, key: str, is_met: bool, rule: str) -> None:
        if not is_met:
            value: Any = getattr(self, key)
            raise ConfigError(f"training.{key} = {value}: {rule}")

    @property
    def channels(self) -> list[str]:
        """The trained ones of energy, force and stress."""
        return [key.removesuffix("_prefactor") for key in PREFACTORS if max(getattr(self, key)) > 0]

    @property
    def all_epochs(self) -> int:
        """Epochs of both phases."""
        return self.epochs + self.swa_epochs

    @property
    def last_prefactors(self) -> dict[str, float]:
        """Of each trained channel, those at the end of the first phase."""
        return {channel: getattr(self, f"{channel}_prefactor")[1] for channel in self.channels}
