"""Averages of weights while they train: exponential over the steps, or equal over epochs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn


class MovingAverage:
    """Average of the training weights; its memory grows with the step, so that a short training is not held back
    by the weights that it began with.

    Lightning's own callback copies the whole module, which not every backend's network survives.
    weights: those that train
    decay: 0 follows the weights without averaging
    """

    def __init__(self, weights: Sequence[torch.Tensor], decay: float):
        self.weights = list(weights)
        self.decay = decay
        self.n_updates = 0
        self.average = [weight.detach().clone() for weight in self.weights]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of one more step."""
        decay = min(self.decay, (1 + self.n_updates) / (10 + self.n_updates))
        self.n_updates += 1
        get_ema_multi_avg_fn(decay)(self.average, self.weights, self.n_updates)

    def follow(self) -> None:
        """Move to where the weights are now."""
        self.average = [saved.to(weight.device) for saved, weight in zip(self.average, self.weights, strict=True)]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model computes with the average inside, with its own weights again afterwards."""
        own = [weight.detach().clone() for weight in self.weights]
        self._write(self.average)
        yield
        self._write(own)

    @torch.no_grad()
    def _write(self, values: Sequence[torch.Tensor]) -> None:
        for weight, value in zip(self.weights, values, strict=True):
            weight.copy_(value)

    def state_dict(self) -> dict:
        return {"average": self.average, "n_updates": self.n_updates}

    def load_state_dict(self, state: dict) -> None:
        self.n_updates = state["n_updates"]
        self.average = state["average"]
        self.follow()


class EqualAverage(MovingAverage):
    """Stochastic weight averaging: all weights taken in count the same, those that it was made with do not.

    Source: arXiv:1803.05407
    """

    def __init__(self, weights: Sequence[torch.Tensor]):
        super().__init__(weights, decay=0.0)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of one more epoch."""
        if self.n_updates == 0:
            self.average = [weight.detach().clone() for weight in self.weights]
        else:
            get_swa_multi_avg_fn()(self.average, self.weights, self.n_updates)
        self.n_updates += 1
