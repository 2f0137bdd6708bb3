"""The optimiser steps of a MatterGen's training, and the state from which a killed one goes on."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from chemloop.generator import mattergen_package as package
from chemloop.runtime.disk import write_whole
from chemloop.runtime.errors import CheckpointError
from chemloop.runtime.item import derived_seed

log = logging.getLogger(__name__)
GRADIENT_LIMIT = 0.5
DIGEST_BYTES = 32
SAVE_INTERVAL_S = 300.0


class Steps:
    """A training in place. Batches and noise of a step derive from the seed and its number, so a training that was
    killed ends as one that was not.

    losses: of the steps so far; cpu_seconds: that they took
    """

    def __init__(
        self, network: Any, dataset: Any, n_steps: int, batch_size: int, learning_rate: float, seed: int
    ) -> None:
        self.network, self.dataset, self.n_steps = network, dataset, n_steps
        self.batch_size, self.seed = batch_size, seed
        weights = [x for x in network.parameters() if x.requires_grad]
        self.optimiser = torch.optim.Adam(weights, lr=learning_rate)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, learning_rate, total_steps=n_steps, pct_start=0.1
        )
        self.average = {name: x.detach().clone() for name, x in network.state_dict().items()}
        self.losses: list[float] = []
        self.cpu_seconds = 0.0

    def run(
        self,
        path: Path,
        stops: Collection[int],
        at_stop: Callable[[int], None],
        at_step: Callable[[int], None],
    ) -> None:
        """Go on to the last step, saving the state now and then.

        path: of the state; stops: after which steps it is saved in any case, and `at_stop` called with their number
        at_step: called with the number of steps done
        Raises: CheckpointError where the loss is no number any more
        """
        self._load(path)
        begin, before, saved_at = time.process_time(), self.cpu_seconds, time.monotonic()
        self.network.train()
        for step in range(len(self.losses), self.n_steps):
            torch.manual_seed(derived_seed(self.seed, "noise", step))
            self._step(step)
            at_step(step + 1)
            if step + 1 in stops:
                at_stop(step + 1)
            if step + 1 in stops or time.monotonic() - saved_at > SAVE_INTERVAL_S:
                self.cpu_seconds = before + time.process_time() - begin
                self._save(path)
                saved_at = time.monotonic()
        self.network.eval()

    def weights(self) -> dict[str, torch.Tensor]:
        """Averaged over about the last twentieth of all steps, under the names of the package's LightningModule."""
        return {f"diffusion_module.{name}": x.cpu().clone() for name, x in self.average.items()}

    def _step(self, step: int) -> None:
        batch = package.collated([self.dataset[index] for index in self._indices(step)])
        loss, _ = self.network.calc_loss(batch.to(next(self.network.parameters()).device))
        self.losses.append(float(loss.detach()))
        if not math.isfinite(self.losses[-1]):
            raise CheckpointError(f"training of MatterGen diverged in step {step}; lower its learning_rate")
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_value_(self.optimiser.param_groups[0]["params"], GRADIENT_LIMIT)
        self.optimiser.step()
        self.schedule.step()
        share = min(max(20 / self.n_steps, 9 / (10 + step)), 1.0)
        for name, x in self.network.state_dict().items():
            self.average[name].lerp_(x, share) if x.is_floating_point() else self.average[name].copy_(x)

    def _indices(self, step: int) -> list[int]:
        """Of the structures of a step: every epoch has another order, and leaves out what fills no batch."""
        # the package's loss fails for a batch that is one atom, which what is left of an epoch may be
        epoch, number = divmod(step, len(self.dataset) // self.batch_size)
        order = torch.Generator().manual_seed(derived_seed(self.seed, "order", epoch))
        drawn = torch.randperm(len(self.dataset), generator=order).tolist()
        return drawn[number * self.batch_size : (number + 1) * self.batch_size]

    def _save(self, path: Path) -> None:
        state = {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average,
            "losses": self.losses,
            "cpu_seconds": self.cpu_seconds,
        }
        content = io.BytesIO()
        torch.save(state, content)
        data = content.getvalue()
        write_whole(path, hashlib.sha256(data).digest() + data)

    def _load(self, path: Path) -> None:
        """Take over the state on disk where there is one; a damaged one is left, and the training begins anew."""
        if not path.exists():
            return
        content = path.read_bytes()
        data = content[DIGEST_BYTES:]
        if hashlib.sha256(data).digest() != content[:DIGEST_BYTES]:
            log.warning("%s is damaged; the training of MatterGen begins anew", path)
            return
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        for name, x in self.average.items():
            x.copy_(state["average"][name])
        self.losses, self.cpu_seconds = list(state["losses"]), state["cpu_seconds"]
        n_done = len(self.losses)
        # what is left of the schedule follows from its place; the rates themselves are the optimiser's
        self.schedule.load_state_dict({"last_epoch": n_done, "_step_count": n_done + 1})
