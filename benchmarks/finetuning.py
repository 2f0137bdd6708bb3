"""Fine-tuning frames per second and the errors after equal epochs: ChemLoop against the backend's own trainer.

    python -m benchmarks.finetuning --model chgnet --epochs 5
    python -m benchmarks.finetuning --model mace --frames pool.extxyz --epochs 30 --seeds 0 1 2

Both start from the same weights, with energies per element already fitted, and see the same frames, batches of the
same size, Adam at the same constant rate, and squared residuals of energy per atom, forces and virial per atom with
the same prefactors. Both run at the same time, each in a process with one thread. Frames per second are those of the
epochs after the first, with validation and whatever else a trainer does between steps; seconds are those of its whole
call, in which ours also loads, checks the base and the result, and saves states to continue from.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inputs import FROM_SCRATCH, MODELS, configured, in_process, labelled_frames
from benchmarks.trainers import AVERAGED, TRAINERS, Clock, Task, Trained
from chemloop.physics.structures import read_structures, write_structures


def prepare(force_field: Any, recipe: Any, frames: Path, folder: Path) -> tuple[list, list, str]:
    """Frames to train and to validate with, and the base with its energies per element fitted to the former."""
    from chemloop.training.data import split, without_outliers
    from chemloop.training.evaluation import fit_shifts, predict

    kept = without_outliers(read_structures(frames), recipe.max_force)
    train, valid = split(kept, recipe.valid_fraction, recipe.valid_by)
    potential = force_field.load("cpu", "float32")
    labels = [atoms.info["label_energy"] for atoms in train]
    potential.shift_energies(fit_shifts(train, labels - predict(train, potential).energies))
    base = folder / "base.pt"
    potential.save(base)
    return train, valid, str(base)


def train_ours(task: Task, frames: Path, seed: int) -> dict[str, Trained]:
    """The weights after the last epoch, and those that are kept: of the best epoch in which none is much worse."""
    from chemloop.training.evaluation import errors
    from chemloop.training.finetune import finetune

    with Clock(task.recipe.epochs) as clock:
        fit = finetune(task.start, read_structures(frames), task.recipe, task.folder, seed=seed)
    fitted = dataclasses.replace(task.start, checkpoint=fit.checkpoint).load("cpu", "float32")
    kept = errors(task.valid, fitted)
    last = json.loads(fit.curves.read_text().splitlines()[-1])
    return {
        "ChemLoop, last epoch": clock.trained(task, {key: last[f"valid_{key}"] for key in kept}),
        "ChemLoop, kept": clock.trained(task, kept),
    }


def errors_of(force_field: Any, valid: list) -> dict[str, float]:
    from chemloop.training.evaluation import errors

    return errors(valid, force_field.load("cpu", "float32"))


def compare(model: str, options: argparse.Namespace, seed: int) -> dict[str, Trained]:
    scratch = model in FROM_SCRATCH and not any(key.startswith("model.checkpoint=") for key in options.overrides)
    overrides = [*options.overrides, "model.checkpoint=null"] if scratch else options.overrides
    force_field, recipe = configured(model, overrides)
    recipe = dataclasses.replace(
        recipe,
        epochs=options.epochs,
        batch_size=options.batch_size,
        optimizer="adam",
        learning_rate=options.learning_rate,
        weight_decay=0.0,
        schedule="constant",
        criterion="mse",
        energy_prefactor=[options.prefactors[0]] * 2,
        force_prefactor=[options.prefactors[1]] * 2,
        stress_prefactor=[options.prefactors[2]] * 2,
        ema_decay=0.99 if model in AVERAGED else 0.0,
        gradient_clip=10.0,
        early_stopping_patience=0,
        max_minutes=None,
        train_only=[],
        save_every_steps=10**6,
    )
    folder = options.workdir / f"finetuning-{model}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder.mkdir(parents=True)
    frames = folder / "frames.extxyz"
    write_structures(frames, chosen_frames(options, seed))
    train, valid, base = in_process(prepare, force_field, recipe, frames, folder)
    start = dataclasses.replace(force_field, checkpoint=base)
    print(
        f"\n{model}: {len(train)} frames train, {len(valid)} validate, {options.epochs} epochs, seed {seed}", flush=True
    )
    task = Task(start, train, valid, recipe, folder / "own")
    task.folder.mkdir()
    # at the same time, so that whatever else the machine does slows down both
    with ThreadPoolExecutor(2) as pool:
        ours = pool.submit(in_process, train_ours, task._replace(folder=folder / "ours"), frames, seed)
        own = pool.submit(in_process, TRAINERS[model], task)
    rows = {
        "base, shifted": Trained(math.nan, math.nan, math.nan, math.nan, in_process(errors_of, start, valid)),
        **ours.result(),
        f"own ({TRAINERS[model].__doc__})": own.result(),
    }
    print_table(rows)
    return rows


def chosen_frames(options: argparse.Namespace, seed: int) -> list:
    """All frames, or so many of them drawn at random."""
    frames = read_structures(options.frames or labelled_frames(options.workdir, options.teacher))
    order = np.random.default_rng(seed).permutation(len(frames))[: options.n_frames]
    return [frames[k] for k in sorted(order)]


def print_table(rows: dict[str, Trained]) -> None:
    print(f"{'':34s} seconds  frames/s  per CPU s  " + "  ".join(rows["ChemLoop, kept"].errors))
    for name, row in rows.items():
        speeds = row.frames_per_step / row.step_s, row.frames_per_step / row.step_cpu_s
        values = "  ".join(f"{value:{len(key)}.1f}" for key, value in row.errors.items())
        print(f"{name:34s} {row.seconds:7.1f}  {speeds[0]:8.1f}  {speeds[1]:9.1f}  {values}", flush=True)
    _, _, ours, own = rows.values()
    per_frame = [(row.step_s / row.frames_per_step, row.step_cpu_s / row.frames_per_step) for row in (ours, own)]
    wall, cpu = (theirs / mine for mine, theirs in zip(*per_frame, strict=True))
    print(
        f"ratio ChemLoop to own: {wall:.2f} of frames/s, {cpu:.2f} per CPU second,"
        f" {own.seconds / ours.seconds:.2f} of whole calls",
        flush=True,
    )


def print_means(model: str, runs: Sequence[dict[str, Trained]]) -> None:
    """Errors after equal epochs, ours over theirs, and the ratio of speeds: means over seeds, standard errors."""
    ours = [rows["ChemLoop, last epoch"] for rows in runs]
    own = [list(rows.values())[-1] for rows in runs]
    pairs = list(zip(ours, own, strict=True))
    ratios = {key: [mine.errors[key] / theirs.errors[key] for mine, theirs in pairs] for key in own[0].errors}
    ratios["frames per CPU second"] = [
        theirs.step_cpu_s / theirs.frames_per_step * mine.frames_per_step / mine.step_cpu_s for mine, theirs in pairs
    ]
    print(f"\n{model}, {len(runs)} seeds, ChemLoop over own:")
    for name, values in ratios.items():
        error = np.std(values, ddof=1) / np.sqrt(len(values))
        print(f"  {name}: {np.mean(values):.3f} +- {error:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*MODELS, "all"], default="all")
    parser.add_argument("--frames", type=Path, help="labelled extxyz; default: references and random crystals")
    parser.add_argument("--n-frames", type=int, help="only so many of them, drawn at random")
    parser.add_argument("--teacher", choices=["7net-0", "chgnet"], default="7net-0", help="labels the default frames")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--prefactors", type=float, nargs=3, default=[1.0, 1.0, 1.0], help="energy, force, virial")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of frames drawn, their order and all else")
    parser.add_argument("--workdir", type=Path, default=Path("outputs/benchmarks"), help="keeps frames and results")
    parser.add_argument("overrides", nargs="*", help="of the configuration, e.g. model.checkpoint=7net-0")
    options = parser.parse_intermixed_args()
    options.workdir.mkdir(parents=True, exist_ok=True)
    for model in MODELS if options.model == "all" else [options.model]:
        runs = [compare(model, options, seed) for seed in options.seeds]
        if len(runs) > 1:
            print_means(model, runs)


if __name__ == "__main__":
    main()
