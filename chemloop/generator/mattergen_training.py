"""Training a MatterGen on the structures of a campaign, and the choice among the checkpoints that it leaves."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms

from chemloop.generator import mattergen_package as package
from chemloop.generator.mattergen_checkpoint import Checkpoint, read_checkpoint
from chemloop.generator.mattergen_config import CONDITIONS, Config, model_config, with_conditions
from chemloop.generator.mattergen_data import MAX_ATOMS, TrainedOn, learnable
from chemloop.generator.mattergen_steps import Steps
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import ConfigError

if TYPE_CHECKING:
    from chemloop.generator.mattergen import MatterGenGenerator

METRICS, CHOICE, PROGRESS = "metrics.json", "choice.json", "progress.json"
STATE, SCORES = "state", "scores.json"
BEFORE = "before"
PROGRESS_INTERVAL_S = 0.5
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
        self.states = workdir / f"training-{self._digest()}"

    def run(self) -> Path:
        """The folder of the checkpoint that was chosen. A training that was killed goes on from what it has left."""
        folder = self.workdir / "checkpoint"
        if not self._is_finished:
            self.states.mkdir(parents=True, exist_ok=True)
            self._run(folder)
        shutil.rmtree(self.states, ignore_errors=True)
        return folder

    def _run(self, folder: Path) -> None:
        before = None if self.generator.checkpoint is None else read_checkpoint(self.generator.checkpoint)
        seen = TrainedOn.of(self.cells, self.energies)
        seen = seen if before is None else before.trained_on.joined(seen)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            names, report, seconds = self._train(before, seen)

        def load(name: str) -> Checkpoint:
            if name == BEFORE and before is not None:
                return Checkpoint(with_conditions(before.config), before.weights, seen)
            return read_checkpoint(str(self._kept(name)))

        if before is not None and not before.lacking:
            names = [BEFORE, *names]
        chosen, scores = self._choose(names, load)
        load(chosen).write(folder)
        write_json(self.workdir / METRICS, report)
        choice = {"chosen": chosen, "scores": scores, "training_cpu_seconds": seconds, "training": self.states.name}
        write_json(self.workdir / CHOICE, choice)

    @property
    def _is_finished(self) -> bool:
        path = self.workdir / CHOICE
        return path.exists() and read_json(path).get("training") == self.states.name

    def _kept(self, name: str) -> Path:
        return self.states / name.replace(" ", "-")

    def _digest(self) -> str:
        """Of all that the training follows from, so that it does not go on with what another one has left."""
        settings = {key: str(value) for key, value in vars(self.generator).items() if key != "scorer"}
        content = [
            f"{settings} {self.seed} {self.generator.scorer is not None}".encode(),
            np.array(self.energies).tobytes(),
        ]
        for atoms in self.cells:
            content += [atoms.numbers.tobytes(), atoms.positions.tobytes(), atoms.cell.array.tobytes()]
        return hashlib.sha256(b"".join(content)).hexdigest()[:12]

    def _train(self, before: Checkpoint | None, seen: TrainedOn) -> tuple[list[str], dict[str, Any], float]:
        """Names of the kept checkpoints, first to last; how it went; CPU seconds."""
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
        stops = np.unique(np.linspace(0, n_steps, generator.n_checkpoints + 1).round().astype(int))[1:].tolist()
        hidden = config["lightning_module"]["diffusion_module"]["model"]["hidden_dim"]
        rate = schedule.rate_for(hidden)
        steps = Steps(network, dataset, n_steps, batch_size, rate, self.seed)
        n_scored = 0 if generator.scorer is None else len(stops) + 1
        self.progress = Progress(self.workdir / PROGRESS, n_steps + n_scored)

        def keep(step: int) -> None:
            Checkpoint(config, steps.weights(), seen).write(self._kept(f"step {step}"))

        steps.run(self.states / STATE, stops, keep, self.progress.report)
        last = max(1, n_steps // 10)
        report = {
            "n_structures": len(self.cells),
            "n_steps": n_steps,
            "batch_size": batch_size,
            "learning_rate": rate,
            "loss_first": float(np.mean(steps.losses[:last])),
            "loss_last": float(np.mean(steps.losses[-last:])),
        }
        return [f"step {step}" for step in stops], report, steps.cpu_seconds

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

    def _choose(self, names: Sequence[str], load: Callable[[str], Checkpoint]) -> tuple[str, dict[str, Any]]:
        """The name of the checkpoint whose samples are best, and the scores of all; the last where nobody scores.

        Most stable, unique and novel samples win, then the lowest mean energy of their better half: validation loss
        says little of samples. Each score is written when it is known.
        """
        if self.generator.scorer is None or len(names) == 1:
            return names[-1], {}
        path = self.states / SCORES
        known: dict[str, Any] = read_json(path) if path.exists() else {}
        for name in names:
            if name not in known:
                known[name] = self._score(load(name))
                write_json(path, known)
            self.progress.report(self.progress.total - len(names) + len(known), is_due=True)
        scores = {name: known[name] for name in names}
        return best(scores), scores

    def _score(self, checkpoint: Checkpoint) -> dict[str, Any]:
        generator = self.generator
        elements = sorted({symbol for atoms in self.cells for symbol in atoms.symbols})
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
        return {
            "n_valid": len(crystals),
            "n_sun": int(np.sum(is_sun)),
            "best_half_ev_per_atom": float(half.mean()) if len(half) >= max(1, generator.n_scored // 2) else None,
            "rejected": dict(rejected),
        }


class Progress:
    """progress.json: steps done and in all; a network that is scored counts as a step."""

    def __init__(self, path: Path, total: int) -> None:
        self.path, self.total, self.last = path, total, 0.0

    def report(self, done: int, is_due: bool = False) -> None:
        if is_due or time.monotonic() - self.last > PROGRESS_INTERVAL_S:
            self.last = time.monotonic()
            write_json(self.path, {"done": done, "total": self.total})


def best(scores: dict[str, Any]) -> str:
    """Most S.U.N., then the lowest energies; of equals the last, which has learned most."""

    def key(name: str) -> tuple[int, float]:
        energy = scores[name]["best_half_ev_per_atom"]
        return scores[name]["n_sun"], -np.inf if energy is None else -energy

    return max(reversed(list(scores)), key=key)
