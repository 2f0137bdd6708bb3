"""Learning rates and loss prefactors as functions of the step: nothing to restore after a kill."""

from __future__ import annotations

import math
from dataclasses import dataclass

from chemloop.training.recipe import CHANNELS, Recipe


@dataclass(frozen=True)
class Schedule:
    """The course of one training.

    steps_per_epoch: batches in an epoch
    """

    recipe: Recipe
    steps_per_epoch: int

    @property
    def n_steps(self) -> int:
        """Of the first phase, whose course the schedules are."""
        return self.recipe.epochs * self.steps_per_epoch

    def is_averaging(self, step: int) -> bool:
        """Whether a step, the first being 0, belongs to the phase of stochastic weight averaging."""
        return self.recipe.swa_epochs > 0 and step >= self.n_steps

    def learning_rate(self, step: int) -> float:
        """At a step, the first being 0; for `plateau`, which depends on the validation score, the first one.

        The exponential schedule is DeePMD-kit's: a plateau as long as the whole training would never decay, it is
        replaced by 100 steps, or n_steps // 100 + 1 where n_steps is below 1010.
        Source: deepmd.dpmodel.utils.learning_rate.LearningRateExp
        """
        recipe, first, last = self.recipe, self.recipe.learning_rate, self.recipe.stop_learning_rate
        if self.is_averaging(step):
            return recipe.swa_learning_rate
        done = step / self.n_steps
        if recipe.schedule == "step":
            return first * recipe.decay_factor ** (step // self.steps_per_epoch // recipe.decay_epochs)
        if recipe.schedule == "cosine":
            return last + (first - last) * (1 + math.cos(math.pi * done)) / 2
        if recipe.schedule == "exponential":
            shorter = 100 if self.n_steps // 10 > 100 else self.n_steps // 100 + 1
            plateau = recipe.decay_steps if recipe.decay_steps < self.n_steps else shorter
            held = step // plateau * plateau if plateau else step
            return first * (last / first) ** (held / self.n_steps)
        return first

    def prefactors(self, step: int, learning_rate: float) -> dict[str, float]:
        """Of each trained channel; last + (first - last) x, x falling from 1 with the learning rate or the step.

        In the phase of stochastic weight averaging they are constant.

        Source: doi:10.1103/PhysRevLett.120.143001, loss prefactors
        """
        recipe = self.recipe
        if self.is_averaging(step):
            if recipe.swa_prefactors is None:
                return recipe.last_prefactors
            named = dict(zip(CHANNELS, recipe.swa_prefactors, strict=True))
            return {channel: named[channel] for channel in recipe.channels}
        follows_rate = recipe.prefactors_follow == "learning_rate"
        left = learning_rate / recipe.learning_rate if follows_rate else 1 - step / self.n_steps
        moved = {}
        for channel in recipe.channels:
            first, last = getattr(recipe, f"{channel}_prefactor")
            moved[channel] = last + (first - last) * left
        return moved
