"""MatterGen: a diffusion model of crystals, conditioned on elements and energy above the hull.

Source: doi:10.1038/s41586-025-08628-5
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase import Atoms

from chemloop.generator.mattergen_data import Architecture, Schedule
from chemloop.generator.random import whole_number
from chemloop.runtime.disk import write_json
from chemloop.runtime.errors import ConfigError

if TYPE_CHECKING:
    from chemloop.generator.mattergen_checkpoint import Checkpoint

log = logging.getLogger(__name__)


@dataclass
class MatterGenGenerator:
    """MatterGen as configured: `conf/generator/mattergen.yaml`.

    scorer: not in the YAML; who fine-tunes may set it to a function of structures that returns their eV/atom above the
        hull (n,), nan where unknown, and whether they are stable, unique and novel (n,). It chooses the checkpoint
    """

    can_learn: ClassVar[bool] = True
    understands: ClassVar[tuple[str, ...]] = ("energy_above_hull", "n_atoms")

    checkpoint: str | None = "chemical_system_energy_above_hull"
    device: str = "cpu"
    guidance: float = 2.0
    batch_size: int = 64
    attempts_per_crystal: int = 3
    volume_margin: float = 1.3
    learns_from_candidates: bool = False
    architecture: Architecture = field(default_factory=Architecture)
    scratch: Schedule = field(default_factory=Schedule)
    finetuning: Schedule = field(default_factory=lambda: Schedule(400, 100, 24, 2e-5))
    n_checkpoints: int = 3
    n_scored: int = 16
    scorer: Any = None

    def __post_init__(self) -> None:
        for key in ("batch_size", "attempts_per_crystal", "n_checkpoints", "n_scored"):
            self._require(key, getattr(self, key) >= 1, "1 or above")
        self._require("guidance", 0 <= self.guidance < math.inf, "0 or above")
        self._require("volume_margin", 1 <= self.volume_margin < math.inf, "1 or above")
        self._require("checkpoint", self.checkpoint != "", "a folder, the name of a published one, or null")

    def _require(self, key: str, is_met: bool, allowed: str) -> None:
        if not is_met:
            raise ConfigError(f"generator.{key} = {getattr(self, key)}: must be {allowed}")

    def generate(
        self, n: int, elements: Sequence[str], conditions: dict[str, float], seed: int, workdir: Path
    ) -> list[Atoms]:
        """At most n crystals, fewer where `attempts_per_crystal` * n samples do not yield them.

        `yield.json` in `workdir` counts samples and why they were rejected, and holds the warnings.
        Raises: ConfigError where there is no checkpoint yet, or it lacks a condition; CheckpointError;
            WeightsUnavailable
        """
        checkpoint = self._trained()
        warnings = checkpoint.trained_on.warnings(elements, conditions)
        for warning in warnings:
            log.warning(warning)
        begin = time.process_time()
        crystals, rejected = self.sample(checkpoint, n, elements, conditions, seed, self.attempts_per_crystal * n)
        counts = {
            "attempts": len(crystals) + rejected.total(),
            "rejected": dict(rejected),
            "cpu_seconds": time.process_time() - begin,
            "warnings": warnings,
        }
        write_json(workdir / "yield.json", counts)
        return crystals

    def _trained(self) -> Checkpoint:
        from chemloop.generator.mattergen_checkpoint import read_checkpoint

        if self.checkpoint is None:
            raise ConfigError(
                "generator.checkpoint = null: a MatterGen from scratch generates nothing before it has learned; run the"
                " loop from iteration 0, or workflow=train_generator and give the folder that it leaves"
            )
        checkpoint = read_checkpoint(self.checkpoint)
        if checkpoint.lacking:
            raise ConfigError(
                f"generator.checkpoint = {self.checkpoint} was not trained on {', '.join(checkpoint.lacking)};"
                " fine-tune it first, or give chemical_system_energy_above_hull"
            )
        return checkpoint

    def sample(
        self,
        checkpoint: Checkpoint,
        n: int,
        elements: Sequence[str],
        conditions: dict[str, float],
        seed: int,
        n_attempts: int,
    ) -> tuple[list[Atoms], Counter[str]]:
        """At most n crystals out of at most n_attempts samples, and why others were rejected."""
        import torch

        wanted: dict[str, str | float] = {
            "chemical_system": "-".join(elements),
            "energy_above_hull": float(conditions.get("energy_above_hull", 0.0)),
        }
        rng, seen = np.random.default_rng(seed), checkpoint.trained_on
        crystals: list[Atoms] = []
        rejected: Counter[str] = Counter()
        with torch.random.fork_rng():
            network = checkpoint.network(self.device)
            while len(crystals) < n and (left := n_attempts - len(crystals) - rejected.total()) > 0:
                sizes = seen.draw_sizes(min(self.batch_size, n - len(crystals), left), rng)
                if "n_atoms" in conditions:
                    sizes[:] = whole_number(conditions["n_atoms"])
                torch.manual_seed(int(rng.integers(2**63)))
                made = self._batch(network, sizes.tolist(), wanted, seen.stretch)
                reasons = [self.flaw(atoms, elements, seen.volume) for atoms in made]
                crystals += [atoms for atoms, reason in zip(made, reasons, strict=True) if reason is None]
                rejected.update(reason for reason in reasons if reason is not None)
                rejected["sampling failed"] += len(sizes) - len(made)
        for atoms in crystals:
            atoms.wrap()
        return crystals, +rejected

    def _batch(
        self, network: Any, sizes: list[int], wanted: dict[str, str | float], stretches: Sequence[float]
    ) -> list[Atoms]:
        """One sample of each size; none where a cell blew up and the batch was lost with it.

        Raises: ConfigError where they do not fit into memory
        """
        import torch

        from chemloop.generator import mattergen_package as package

        try:
            return package.sample(network, sizes, wanted, self.guidance, stretches)
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"generator.batch_size = {self.batch_size}: the samples do not fit into memory; lower it"
            ) from error
        except (RuntimeError, IndexError, ValueError) as error:
            if not package.is_blow_up(error):
                raise
            log.warning("a batch of %d samples was lost: %s", len(sizes), error)
            return []

    def flaw(self, atoms: Atoms, elements: Sequence[str], volumes: Sequence[float]) -> str | None:
        """Why a sample is no crystal of the system; None where it is one.

        volumes: A^3/atom, lowest and highest that the network has seen
        """
        if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
            return "not finite"
        low, high = volumes[0] / self.volume_margin, volumes[1] * self.volume_margin
        if not low <= atoms.cell.volume / len(atoms) <= high:
            return "volume out of range"
        if not set(atoms.symbols) <= set(elements):
            return "outside the system"
        return None

    def finetune(self, structures: Sequence[Atoms], workdir: Path, seed: int) -> str:
        """Learn from structures that carry `e_above_hull`; returns the folder of the new checkpoint.

        Without a checkpoint, a network from scratch. In `workdir`, `metrics.json` says how it went and `choice.json`
        which of the kept checkpoints was taken.
        Raises: ConfigError where there is nothing to learn from; CheckpointError, WeightsUnavailable
        """
        from chemloop.generator.mattergen_training import Training

        return str(Training(self, structures, workdir, seed).run())
