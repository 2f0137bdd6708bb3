"""Training a MatterGen on the structures of a campaign, and the choice among the checkpoints that it leaves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms

from chemloop.generator import mattergen_package as package
from chemloop.generator.mattergen_checkpoint import Checkpoint, read_checkpoint
from chemloop.generator.mattergen_config import CONDITIONS, Config, model_config, with_conditions
from chemloop.generator.mattergen_data import MAX_ATOMS, TrainedOn, learnable
from chemloop.runtime.disk import write_json
from chemloop.runtime.errors import ConfigError

if TYPE_CHECKING:
    from chemloop.generator.mattergen import MatterGenGenerator

METRICS, CHOICE = "metrics.json", "choice.json"
LEAST = 4
SCORED_ENERGY = 0.0
"""eV/atom above the hull of the samples that are scored."""


class Training:
    """One fine-tuning, or one training from scratch where the generator has no checkpoint."""

    def __init__(self, generator: MatterGenGenerator, structures: Sequence[Atoms], workdir: Path, seed: int) -> None:
        """Raises: ConfigError where there is too little to learn from"""
        self.generator, self.workdir, self.seed = generator, workdir, seed
        chosen = [atoms for atoms in structures if atoms.info.get("role", "label") == "label"]
        if generator.learns_from_candidates:
            chosen = [atoms for atoms in structures if atoms.info.get("role") != "lost"]
        self.cells, self.energies = learnable(chosen)
        if len(self.cells) < LEAST:
            raise ConfigError(
                f"MatterGen learns from converged structures of at most {MAX_ATOMS} atoms per primitive cell, and there"
                f" are {len(self.cells)} of {len(structures)}; it needs {LEAST}, so give more references or labels, or"
                " set generator.learns_from_candidates=true"
            )

    def run(self) -> Path:
        """The folder of the checkpoint that was chosen."""
        before = None if self.generator.checkpoint is None else read_checkpoint(self.generator.checkpoint)
        seen = TrainedOn.of(self.cells, self.energies)
        seen = seen if before is None else before.trained_on.joined(seen)
        begin = time.process_time()
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            candidates, report = self._train(before, seen)
        seconds = time.process_time() - begin
        if before is not None and not before.lacking:
            candidates = {"before": Checkpoint(with_conditions(before.config), before.weights, seen), **candidates}
        chosen, scores = self._choose(candidates)
        folder = self.workdir / "checkpoint"
        candidates[chosen].write(folder)
        write_json(self.workdir / METRICS, report)
        write_json(self.workdir / CHOICE, {"chosen": chosen, "scores": scores, "training_cpu_seconds": seconds})
        return folder

    def _train(self, before: Checkpoint | None, seen: TrainedOn) -> tuple[dict[str, Checkpoint], dict[str, Any]]:
        """Checkpoints by the step after which they were kept, first to last."""
        generator = self.generator
        schedule = generator.scratch if before is None else generator.finetuning
        n_steps, batch_size = schedule.for_data(len(self.cells))
        dataset = package.dataset_of(self.cells, self.energies)
        if before is None:
            config, new = self._config(), list(CONDITIONS)
            network = package.build(config).to(generator.device)
        else:
            config, new = with_conditions(before.config), before.lacking
            network = before.network(generator.device)
        package.fit_scalers(network, dataset, new)
        kept: dict[str, Checkpoint] = {}

        def keeper(step: int) -> Any:
            return lambda weights: kept.update({f"step {step}": Checkpoint(config, weights, seen)})

        steps = np.unique(np.linspace(0, n_steps, generator.n_checkpoints + 1).round().astype(int))[1:]
        hidden = config["lightning_module"]["diffusion_module"]["model"]["hidden_dim"]
        rate = schedule.rate_for(hidden)
        losses = package.train(network, dataset, n_steps, batch_size, rate, {int(k): keeper(int(k)) for k in steps})
        last = max(1, n_steps // 10)
        report = {
            "n_structures": len(self.cells),
            "n_steps": n_steps,
            "batch_size": batch_size,
            "learning_rate": rate,
            "loss_first": float(losses[:last].mean()),
            "loss_last": float(losses[-last:].mean()),
        }
        return kept, report

    def _config(self) -> Config:
        sizes = self.generator.architecture
        volumes = [atoms.cell.volume / len(atoms) for atoms in self.cells]
        return model_config(
            sizes.hidden,
            sizes.blocks,
            sizes.cutoff,
            sizes.neighbours,
            sizes.diffusion_steps,
            1 / float(np.mean(volumes)),
        )

    def _choose(self, candidates: dict[str, Checkpoint]) -> tuple[str, dict[str, Any]]:
        """The name of the checkpoint whose samples are best, and the scores of all; the last where nobody scores.

        Most stable, unique and novel samples win, then the lowest mean energy of their better half: validation loss
        says little of samples.
        """
        generator = self.generator
        if generator.scorer is None or len(candidates) == 1:
            return list(candidates)[-1], {}
        elements = sorted({symbol for atoms in self.cells for symbol in atoms.symbols})
        scores: dict[str, Any] = {}
        for name, checkpoint in candidates.items():
            # all from the same noise, so that they differ by the network alone
            crystals, rejected = generator.sample(
                checkpoint,
                generator.n_scored,
                elements,
                {"energy_above_hull": SCORED_ENERGY},
                self.seed,
                generator.n_scored,
            )
            energies, is_sun = generator.scorer(crystals) if crystals else (np.zeros(0), np.zeros(0, dtype=bool))
            known = np.sort(np.asarray(energies, dtype=float)[np.isfinite(energies)])
            # of as many as were asked for, so that losing the worse ones does not pay
            half = known[: max(1, generator.n_scored // 2)]
            scores[name] = {
                "n_valid": len(crystals),
                "n_sun": int(np.sum(is_sun)),
                "best_half_ev_per_atom": float(half.mean()) if len(half) >= max(1, generator.n_scored // 2) else None,
                "rejected": dict(rejected),
            }
        return best(scores), scores


def best(scores: dict[str, Any]) -> str:
    """Most S.U.N., then the lowest energies; of equals the last, which has learned most."""

    def key(name: str) -> tuple[int, float]:
        energy = scores[name]["best_half_ev_per_atom"]
        return scores[name]["n_sun"], -np.inf if energy is None else -energy

    return max(reversed(list(scores)), key=key)
