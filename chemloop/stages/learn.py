"""A new checkpoint of the generator, from what the campaign has found so far."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ase import Atoms

from chemloop.physics.structures import read_structures
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import CheckpointError
from chemloop.runtime.item import Item
from chemloop.runtime.ledger import Ledger
from chemloop.stages.achieved import achieved
from chemloop.stages.label import RELAXED
from chemloop.stages.relax import converged
from chemloop.stages.sample_score import with_scorer
from chemloop.stages.stage import FIT, METRICS, OUTPUT, Stage, current_generator

ACHIEVED = "achieved.json"


class Learn(Stage):
    """fit.json: the checkpoint of the generator, a path from here. Only generators that learn have this stage.

    achieved.json, which the generator finds in its folder, has timings and so differs from run to run: it is no output.
    """

    name = "learn"
    resource = "gpu"
    component = "generator"

    def plan(self) -> list[Item]:
        return [self.plan_item(0)]

    def run(self, item: Item) -> Sequence[str]:
        write_json(item.folder / ACHIEVED, achieved(self))
        pool = self.pool()
        learned = with_scorer(current_generator(self), self).finetune(pool, item.folder, item.task["seed"])
        checkpoint = self._located(Path(learned))
        n_labels = sum(atoms.info["role"] == "label" for atoms in pool)
        n_lost = sum(atoms.info["role"] == "lost" for atoms in pool)
        counts = {"n_labels": n_labels, "n_candidates": len(pool) - n_labels - n_lost, "n_lost": n_lost}
        write_json(item.folder / FIT, {"checkpoint": os.path.relpath(checkpoint, self.folder.resolve()), **counts})
        outputs = [FIT, *(os.path.relpath(path, item.folder.resolve()) for path in files_of(checkpoint))]
        return [*outputs, METRICS] if (item.folder / METRICS).exists() else outputs

    def pool(self) -> list[Atoms]:
        """What generators learn from, told apart by info["role"]: what the labeler relaxed to the end, with its energy
        above the hull of all labels, then all candidates, as they were screened, and those lost before.
        """
        labels = converged(self.earlier("curate", since=self.iteration)[0] / RELAXED)
        for atoms in labels:
            atoms.info["role"] = "label"
        return labels + self.candidates()

    def candidates(self) -> list[Atoms]:
        """Of all iterations, the converged ones first; the others are `lost`."""
        found = [atoms for path in self.earlier("screen") for atoms in converged(path / OUTPUT)]
        lost = [atoms for path in self.earlier("relax") for atoms in read_structures(path / OUTPUT) if is_lost(atoms)]
        for atoms in lost:
            atoms.info["role"] = "lost"
            atoms.info.pop("e_above_hull", None)
        return found + lost

    def _located(self, checkpoint: Path) -> Path:
        """The checkpoint where it really is.

        Raises: CheckpointError for one that would be lost or changed with a folder that is not the campaign's
        """
        path, campaign = checkpoint.resolve(), self.campaign.folder.resolve()
        if not path.exists() or not path.is_relative_to(campaign):
            raise CheckpointError(
                f"generator {self.settings.options['generator']} says that its new checkpoint is {checkpoint}: it must"
                f" be a file or folder below {campaign}"
            )
        return path

    def collect(self, items: Sequence[Item]) -> dict[str, float]:
        (item,) = items
        metrics = read_json(item.folder / FIT)
        write_json(self.folder / FIT, {"checkpoint": metrics.pop("checkpoint")})
        return metrics | (read_json(item.folder / METRICS) if (item.folder / METRICS).exists() else {})

    def final_files(self) -> list[Path]:
        checkpoint = self.folder / read_json(self.folder / FIT)["checkpoint"]
        return [self.folder / METRICS, self.folder / FIT, *files_of(checkpoint)]

    def record_in(self, ledger: Ledger) -> None:
        """Nothing: learning finds out nothing about structures."""


def is_lost(atoms: Atoms) -> bool:
    """Whether the relaxation of a candidate came to nothing, or was given up."""
    return atoms.info["role"] == "candidate" and ("dropped" in atoms.info or not atoms.info["converged"])


def files_of(checkpoint: Path) -> list[Path]:
    """The file itself, or all files of a folder."""
    return [checkpoint] if checkpoint.is_file() else sorted(path for path in checkpoint.rglob("*") if path.is_file())
