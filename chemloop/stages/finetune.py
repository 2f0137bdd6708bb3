"""A new checkpoint of the force field, and its errors on frames that it has never seen, before and after."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from chemloop.physics.structures import energies_per_atom, read_structures
from chemloop.protocols import ForceField
from chemloop.runtime.disk import file_hash, read_json, write_json, write_whole
from chemloop.runtime.item import Item
from chemloop.runtime.ledger import Ledger
from chemloop.stages.curate import SPLIT, Curate
from chemloop.stages.stage import FIT, METRICS, OUTPUT, Stage, base_model, current_model, load_potential
from chemloop.tracker import Point

PARITY = "parity.npz"
CURVES = "curves.jsonl"
N_PARITY = 30000
"""Force components kept for the parity plot."""
UNITS = {"energy": "mev_per_atom", "force": "mev_per_ang", "stress": "mev_per_ang3"}


class Finetune(Stage):
    """fit.json: the checkpoint (a path from here, or a name of pretrained weights) and its energy frame."""

    name = "finetune"
    resource = "gpu"
    component = "model"

    def plan(self) -> list[Item]:
        return [self.plan_item(0)]

    def run(self, item: Item) -> Sequence[str]:
        curated = self.earlier("curate", since=self.iteration)[0]
        train = read_structures(curated / OUTPUT)
        pool = Curate(self.campaign, self.settings, self.iteration).pool()
        test = [pool[id] for id in read_json(curated / SPLIT)["test"]]
        before, frame = current_model(self)
        after, metrics = before, {"n_train": float(len(train)), "n_test": float(len(test))}
        outputs = [FIT, PARITY]
        if before.can_learn and self._has_new_frames(len(train)):
            after, frame, fitted = self._fit(before, frame, train, item)
            metrics |= fitted
            outputs.append(CURVES)
        device = self.settings.compute.gpu.device
        models = {"base": base_model(self)[0], "before": before, "after": after}
        errors, parity = compare(test, models, device)
        write_whole(item.folder / PARITY, parity)
        if after.checkpoint is not None and Path(after.checkpoint).is_relative_to(item.folder):
            outputs.append(str(Path(after.checkpoint).relative_to(item.folder)))
        write_json(item.folder / FIT, {"checkpoint": after.checkpoint, "energy_frame": frame, **metrics, **errors})
        return outputs

    def _has_new_frames(self, n_train: int) -> bool:
        earlier = self.earlier("curate", since=self.iteration - 1) if self.iteration else []
        return len(earlier) < 2 or n_train > len(read_json(earlier[0] / SPLIT)["train"])

    def _fit(
        self, current: ForceField, frame: str, train: Sequence[Atoms], item: Item
    ) -> tuple[ForceField, str, dict[str, float]]:
        """The force field after a fit, its energy frame, and what was measured."""
        from chemloop.training.finetune import finetune

        settings = self.settings
        base, base_frame = base_model(self)
        goes_on = settings.training.start_from == "previous" and (base.checkpoint is not None or self._has_learned())
        start, start_frame = (current, frame) if goes_on else (base, base_frame)
        recipe = settings.training if base.checkpoint is not None else settings.training.for_untrained()
        fit = finetune(start, train, recipe, item.folder, item.task["seed"], settings.compute.gpu.device)
        metrics = {key.removeprefix("finetune/"): value for key, value in fit.metrics.items()}
        metrics["kept_base"] = float(fit.kept_base)
        if fit.checkpoint is None or fit.checkpoint == start.checkpoint:
            return start, start_frame, metrics
        frame = f"{settings.options['model']}-{file_hash(Path(fit.checkpoint))[:8]}"
        return replace(start, checkpoint=fit.checkpoint), frame, metrics  # type: ignore[type-var]  # every ForceField is a dataclass

    def _has_learned(self) -> bool:
        """Whether a fit before this one kept more than the weights that it started from."""
        metrics = [read_json(folder / METRICS) for folder in self.earlier("finetune")]
        return any(found.get("finetune/kept_base") == 0 for found in metrics)

    def collect(self, items: Sequence[Item]) -> dict[str, float]:
        (item,) = items
        metrics = read_json(item.folder / FIT)
        checkpoint, frame = metrics.pop("checkpoint"), metrics.pop("energy_frame")
        if checkpoint is not None and self._is_of_campaign(Path(checkpoint)):
            checkpoint = os.path.relpath(checkpoint, self.folder)
        write_json(self.folder / FIT, {"checkpoint": checkpoint, "energy_frame": frame})
        for name in (PARITY, CURVES):
            if (item.folder / name).exists():
                write_whole(self.folder / name, (item.folder / name).read_bytes())
        return metrics

    def final_files(self) -> list[Path]:
        files = [self.folder / name for name in (METRICS, FIT, PARITY, CURVES)]
        checkpoint = read_json(self.folder / FIT)["checkpoint"]
        # a name, or a file that others may write to, is no product of this stage
        is_ours = checkpoint is not None and self._is_of_campaign(self.folder / checkpoint)
        return [*files, self.folder / checkpoint] if is_ours else files

    def _is_of_campaign(self, path: Path) -> bool:
        return path.is_file() and path.resolve().is_relative_to(self.campaign.folder.resolve())

    def record_in(self, ledger: Ledger) -> None:
        """Nothing: fine-tuning finds out nothing about structures."""

    def points(self) -> list[Point]:
        """The curves of the fit, epoch by epoch, then the metrics."""
        path = self.folder / CURVES
        lines = path.read_text().splitlines() if path.exists() else []
        curves = [Point(self.iteration, _curve_metrics(json.loads(line))) for line in lines]
        return [*curves, *super().points()]


def _curve_metrics(line: dict[str, Any]) -> dict[str, float]:
    return {f"curves/{key.removeprefix('finetune/')}": value for key, value in line.items()}


def compare(test: Sequence[Atoms], models: dict[str, ForceField], device: str) -> tuple[dict[str, float], bytes]:
    """RMSE of force fields on the test frames, and the numbers for parity plots as the bytes of an npz file.

    models: `base`, `before` and `after` the fit
    """
    if not test:
        return {}, b""
    arrays = {f"label_{channel}": values for channel, values in labels(test).items()}
    errors = {}
    evaluated: dict[str | None, dict[str, np.ndarray]] = {}
    for when, model in models.items():
        if model.checkpoint not in evaluated:
            evaluated[model.checkpoint] = predictions(test, model, device)
        for channel, values in evaluated[model.checkpoint].items():
            rmse = np.sqrt(np.mean((values - arrays[f"label_{channel}"]) ** 2))
            errors[f"test_{channel}_rmse_{when}_{UNITS[channel]}"] = float(rmse * 1000)
            arrays[f"{when}_{channel}"] = values
    n_forces = len(arrays["label_force"])
    kept = np.linspace(0, n_forces - 1, min(N_PARITY, n_forces)).astype(int)
    arrays["n_forces"] = np.array(n_forces)
    file = io.BytesIO()
    shown = {name: x[kept] if name.endswith("force") else x for name, x in arrays.items()}
    np.savez_compressed(file, **shown)  # type: ignore[arg-type]  # numpy types all keywords as allow_pickle
    return errors, file.getvalue()


def labels(frames: Sequence[Atoms]) -> dict[str, np.ndarray]:
    """energy (n,) eV/atom, force (3 n_atoms,) eV/A, stress (9 n,) eV/A^3."""
    return {
        "energy": energies_per_atom(frames, "label"),
        "force": np.concatenate([atoms.arrays["label_forces"] for atoms in frames]).ravel(),
        "stress": np.concatenate([np.ravel(atoms.info["label_stress"]) for atoms in frames]),
    }


def predictions(frames: Sequence[Atoms], model: ForceField, device: str) -> dict[str, np.ndarray]:
    """What `labels` gives, by a force field."""
    from chemloop.physics.calculator import evaluate

    results = evaluate(frames, load_potential(model, device))
    return {
        "energy": np.array([result.energy for result in results]) / [len(atoms) for atoms in frames],
        "force": np.concatenate([result.forces for result in results]).ravel(),
        "stress": np.concatenate([np.ravel(result.stress) for result in results]),
    }
