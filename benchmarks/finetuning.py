"""Fine-tuning frames per second and the errors after equal epochs: ChemLoop against the backend's own trainer.

    python -m benchmarks.finetuning --model chgnet --epochs 5
    python -m benchmarks.finetuning --model mace --frames pool.extxyz --epochs 30

Both start from the same weights, with energies per element already fitted, and see the same frames, batches of the
same size, Adam at the same constant rate, and squared residuals of energy per atom, forces and virial per atom with
the same prefactors. Each runs in a process of its own with one thread. Times are those of the trainer's whole call.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

from benchmarks.inputs import FROM_SCRATCH, MODELS, configured, in_process, labelled_frames
from benchmarks.trainers import AVERAGED, TRAINERS, Task
from chemloop.physics.structures import read_structures


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


def train_ours(force_field: Any, recipe: Any, frames: Path, folder: Path) -> tuple[float, Any]:
    """Seconds, and the force field that is kept."""
    from chemloop.training.finetune import finetune

    begin = time.perf_counter()
    fit = finetune(force_field, read_structures(frames), recipe, folder, seed=0)
    return time.perf_counter() - begin, dataclasses.replace(force_field, checkpoint=fit.checkpoint)


def errors_ours(force_field: Any, valid: list) -> dict[str, float]:
    from chemloop.training.evaluation import errors

    return errors(valid, force_field.load("cpu", "float32"))


def compare(model: str, options: argparse.Namespace) -> None:
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
    frames = options.frames or labelled_frames(options.workdir, options.teacher)
    train, valid, base = in_process(prepare, force_field, recipe, frames, folder)
    start = dataclasses.replace(force_field, checkpoint=base)
    print(f"\n{model}: {len(train)} frames train, {len(valid)} validate, {options.epochs} epochs", flush=True)
    rows = {"base, shifted": (0.0, in_process(errors_ours, start, valid))}
    seconds, fitted = in_process(train_ours, start, recipe, frames, folder / "ours")
    rows["ChemLoop"] = seconds, in_process(errors_ours, fitted, valid)
    task = Task(start, train, valid, recipe, folder / "own")
    task.folder.mkdir()
    rows[f"own ({TRAINERS[model].__doc__})"] = in_process(TRAINERS[model], task)
    print(f"{'':34s} seconds  frames/s  " + "  ".join(rows["ChemLoop"][1]))
    speeds = []
    for name, (elapsed, errors) in rows.items():
        speeds.append(options.epochs * len(train) / elapsed if elapsed else float("nan"))
        values = "  ".join(f"{value:{len(key)}.1f}" for key, value in errors.items())
        print(f"{name:34s} {elapsed:7.1f}  {speeds[-1]:8.1f}  {values}", flush=True)
    print(f"ratio of frames/s, ChemLoop to own: {speeds[1] / speeds[2]:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*MODELS, "all"], default="all")
    parser.add_argument("--frames", type=Path, help="labelled extxyz; default: references and random crystals")
    parser.add_argument("--teacher", choices=["7net-0", "chgnet"], default="7net-0", help="labels the default frames")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--prefactors", type=float, nargs=3, default=[1.0, 1.0, 1.0], help="energy, force, virial")
    parser.add_argument("--workdir", type=Path, default=Path("outputs/benchmarks"), help="keeps frames and results")
    parser.add_argument("overrides", nargs="*", help="of the configuration, e.g. model.checkpoint=7net-0")
    options = parser.parse_intermixed_args()
    options.workdir.mkdir(parents=True, exist_ok=True)
    for model in MODELS if options.model == "all" else [options.model]:
        compare(model, options)


if __name__ == "__main__":
    main()
