"""Which frames each training step sees: a function of (seed, step), so there is no state to lose in a kill."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

REPLAYED = 1
"""Sets the order of replayed frames apart from that of training frames."""


class Batches:
    """Training frames, and among them replayed ones, step by step.

    Frames are shuffled anew in every epoch and batches are collated anew at every step: with our neighbour lists
    that costs 1 % of a step, less than what fixed batches lose.
    n_shares: with several devices each takes every n_shares-th frame of a global batch
    replayed, replay_fraction: frames that are added to every batch, so many that they are this fraction of an epoch;
        they come in an order of their own, each once before any comes again
    """

    def __init__(
        self,
        frames: Sequence[Atoms],
        batch_size: int,
        seed: int,
        n_shares: int = 1,
        replayed: Sequence[Atoms] = (),
        replay_fraction: float = 0.0,
    ):
        self.frames = list(frames)
        self.batch_size = min(batch_size * n_shares, len(self.frames))
        self.seed = seed
        self.n_shares = n_shares
        self.replayed = list(replayed)
        self.replays_per_frame = replay_fraction / (1 - replay_fraction) if self.replayed else 0.0

    def __len__(self) -> int:
        """Steps per epoch; a rest too small to give each device a frame is left out of the epoch."""
        return len(self.frames) // self.batch_size + (len(self.frames) % self.batch_size >= self.n_shares)

    def at(self, step: int, share: int = 0) -> list[Atoms]:
        """The frames of a step, the first being 0."""
        epoch, batch = divmod(step, len(self))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.frames))
        chosen = [self.frames[k] for k in order[batch * self.batch_size : (batch + 1) * self.batch_size]]
        replays = [self._replay(k) for k in range(self._n_replayed_before(step), self._n_replayed_before(step + 1))]
        return chosen[share :: self.n_shares] + replays[share :: self.n_shares]

    def _n_replayed_before(self, step: int) -> int:
        epoch, batch = divmod(step, len(self))
        n_seen = epoch * len(self.frames) + min(batch * self.batch_size, len(self.frames))
        return int(n_seen * self.replays_per_frame)

    def _replay(self, position: int) -> Atoms:
        cycle, place = divmod(position, len(self.replayed))
        order = np.random.default_rng([self.seed, cycle, REPLAYED]).permutation(len(self.replayed))
        return self.replayed[order[place]]
