"""Fine-tuning frames per second and the errors after equal epochs: ChemLoop against the backend's own trainer.

    python -m benchmarks.finetuning --model chgnet --epochs 5
    python -m benchmarks.finetuning --model all --seeds 0 1 2 --frames pool.extxyz --n-frames 400 --epochs 10

mace, mattersim, dpa3 and sevennet begin with random weights in the sizes of `conf/model/`, chgnet with 0.3.0;
`model.checkpoint=` says otherwise, for all.

Both start from the same weights, with energies per element already fitted, and see the same frames, batches of the same
size, Adam (no AMSGrad) at the same constant rate, the same limit of the gradient's norm, which is that of the backend's
trainer, and squared residuals of energy per atom, forces and stress with the same prefactors (DeePMD-kit's trainer has
the virial per atom instead, and so has ours for it). MACE's and MatterSim's trainers average their weights over the
steps, and so does ours for them. Both run at the same time, each in a process with one thread. Frames per second are
those of the epochs after the first, with validation and whatever else a trainer does between steps; seconds are those
of its whole call, in which ours also loads, checks the base and the result, and saves states to continue from.

Errors are those after the last epoch, of the averaged weights where there are such. What differs still:

- the order of frames; DeePMD-kit draws batches of one number of atoms at random, so an epoch is one in the mean, and
  has more steps than ours where batches are not full;
- states: CHGNet's and MatterSim's trainers write one or more after each epoch, MACE's is told to (it would go back to
  the epoch of the lowest loss otherwise), DeePMD-kit's writes one at the end, SevenNet's none; ours one at the end, and
  after an epoch where 30 s have passed since the last one;
- validation, at the end of each epoch: SevenNet's trainer computes predictions and no errors, DeePMD-kit's errors of as
  many batches as hold all frames, drawn at random; ours and the others errors of all frames.
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
from typing import Any, NamedTuple

import numpy as np

from benchmarks.fits import Clock, Task, Trained
from benchmarks.inputs import FROM_SCRATCH, MODELS, configured, in_process, labelled_frames
from benchmarks.trainers import AVERAGED, CLIPS, TRAINERS, train_own
from chemloop.physics.structures import read_structures, write_structures

SCRATCH = (*FROM_SCRATCH, "sevennet")
"""7net-0 has nothing to learn from the default frames, which it has labelled."""
LAST = "ChemLoop, last epoch"
VOLUME_PER_ATOM = 20.0
"""A^3; its square makes the prefactor of virials one of stresses."""


class Settings(NamedTuple):
    """prefactors: of energy, force and virial"""

    learning_rate: float
    prefactors: tuple[float, float, float]


UNTRAINED = Settings(5e-3, (10.0, 1.0, 1.0))
PRETRAINED = Settings(1e-3, (1.0, 1.0, 1.0))


class Comparison(NamedTuple):
    """ours: after the last epoch, and what is kept; own: the backend's trainer, after the last epoch"""

    model: str
    n_train: int
    n_valid: int
    ours: dict[str, Trained]
    own: Trained


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


def train_ours(task: Task, frames: Path) -> dict[str, Trained]:
    """The weights after the last epoch, and those that are kept: of the best epoch in which none is much worse."""
    from chemloop.training.evaluation import errors
    from chemloop.training.finetune import finetune

    with Clock(task.recipe.epochs) as clock:
        fit = finetune(task.start, read_structures(frames), task.recipe, task.folder, seed=task.seed)
    fitted = dataclasses.replace(task.start, checkpoint=fit.checkpoint).load("cpu", "float32")
    kept = errors(task.valid, fitted)
    last = json.loads(fit.curves.read_text().splitlines()[-1])
    return {
        LAST: clock.trained(task, {key: last[f"valid_{key}"] for key in kept}),
        "ChemLoop, kept": clock.trained(task, kept),
    }


def errors_of(force_field: Any, valid: list) -> dict[str, float]:
    from chemloop.training.evaluation import errors

    return errors(valid, force_field.load("cpu", "float32"))


def started(model: str, overrides: Sequence[str], seed: int) -> tuple[Any, Any]:
    """The force field, from scratch where it has no weights to begin with, and its recipe as configured."""
    given = any(key.startswith("model.checkpoint=") for key in overrides)
    scratch = ["model.checkpoint=null"] if model in SCRATCH and not given else []
    return configured(model, [f"model.architecture.seed={seed}", *scratch, *overrides])


def same_for_both(model: str, recipe: Any, is_pretrained: bool, options: argparse.Namespace, valid: float) -> Any:
    """The recipe with what the other trainer can do too.

    valid: part of the frames that is held out
    """
    settings = PRETRAINED if is_pretrained else UNTRAINED
    energy, force, virial = options.prefactors or settings.prefactors
    has_stress = model != "dpa3"
    return dataclasses.replace(
        recipe,
        epochs=options.epochs,
        batch_size=options.batch_size,
        optimizer="adam",
        learning_rate=options.learning_rate or settings.learning_rate,
        weight_decay=0.0,
        schedule="constant",
        loss="stress" if has_stress else "per_atom",
        criterion="mse",
        energy_prefactor=[energy] * 2,
        force_prefactor=[force] * 2,
        stress_prefactor=[virial * VOLUME_PER_ATOM**2 if has_stress else virial] * 2,
        ema_decay=0.99 if model in AVERAGED else 0.0,
        swa_epochs=0,
        gradient_clip=CLIPS[model],
        early_stopping_patience=0,
        valid_fraction=valid,
        max_minutes=None,
        train_only=[],
        save_every_steps=10**6,
    )


def compare(model: str, options: argparse.Namespace, seed: int) -> Comparison:
    force_field, configured_recipe = started(model, options.overrides, seed)
    chosen = chosen_frames(options, seed)
    valid_fraction = options.n_valid / len(chosen)
    recipe = same_for_both(model, configured_recipe, force_field.checkpoint is not None, options, valid_fraction)
    folder = options.workdir / f"finetuning-{model}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder.mkdir(parents=True)
    frames = folder / "frames.extxyz"
    write_structures(frames, chosen)
    train, valid, base = in_process(prepare, force_field, recipe, frames, folder)
    start = dataclasses.replace(force_field, checkpoint=base)
    print(
        f"\n{model}: {len(train)} frames train, {len(valid)} validate, {options.epochs} epochs, seed {seed},"
        f" rate {recipe.learning_rate:g}, gradient clipped at {recipe.gradient_clip or math.inf:g}",
        flush=True,
    )
    task = Task(start, train, valid, recipe, folder / "own", seed)
    task.folder.mkdir()
    # at the same time, so that whatever else the machine does slows down both
    with ThreadPoolExecutor(2) as pool:
        ours = pool.submit(in_process, train_ours, task._replace(folder=folder / "ours"), frames)
        own = pool.submit(in_process, train_own, model, task)
    comparison = Comparison(model, len(train), len(valid), ours.result(), own.result())
    print_table(comparison, in_process(errors_of, start, valid))
    return comparison


def chosen_frames(options: argparse.Namespace, seed: int) -> list:
    """All frames, or so many of them drawn at random."""
    frames = read_structures(options.frames or labelled_frames(options.workdir, options.teacher))
    order = np.random.default_rng(seed).permutation(len(frames))[: options.n_frames]
    if len(order) < 2 * options.n_valid:
        raise SystemExit(f"{len(order)} frames with --n-valid {options.n_valid}: fewer than half should validate")
    return [frames[k] for k in sorted(order)]


def print_table(comparison: Comparison, base: dict[str, float]) -> None:
    rows = {**comparison.ours, f"own ({TRAINERS[comparison.model].__doc__})": comparison.own}
    print(f"{'':34s} seconds  frames/s  per CPU s  " + "  ".join(base))
    print(f"{'base, shifted':63s}  " + errors_in_columns(base))
    for name, row in rows.items():
        speeds = f"{row.frames_per_step / row.step_s:8.1f}  {row.per_cpu_s:9.1f}"
        print(f"{name:34s} {row.seconds:7.1f}  {speeds}  {errors_in_columns(row.errors)}", flush=True)


def errors_in_columns(errors: dict[str, float]) -> str:
    return "  ".join(f"{value:{len(key)}.1f}" for key, value in errors.items())


def mean(values: Sequence[float], digits: int) -> str:
    """The mean, and with more than one value its standard error."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.{digits}f}"


def summary(runs: Sequence[Comparison]) -> str:
    """A row of the table in `docs/force-fields.md`: means over the seeds of one model, with their standard errors."""
    pairs = [(run.ours[LAST], run.own) for run in runs]
    ratio = mean([ours.per_cpu_s / own.per_cpu_s for ours, own in pairs], 2)
    frames = [f"{min(numbers)}" if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"
              for numbers in ([run.n_train for run in runs], [run.n_valid for run in runs])]  # fmt: skip
    cells = [
        f"{runs[0].model} (`{TRAINERS[runs[0].model].__doc__}`)",
        " / ".join(frames),
        mean([ours.per_cpu_s for ours, _ in pairs], 1),
        mean([own.per_cpu_s for _, own in pairs], 1),
        f"**{ratio}**",
        mean([own.seconds / ours.seconds for ours, own in pairs], 2),
    ]
    for which in (0, 1):
        errors = {key: [pair[which].errors[key] for pair in pairs] for key in pairs[0][which].errors}
        cells.append(", ".join(mean(values, 1) for values in errors.values()))
    relative = {key: [ours.errors[key] / own.errors[key] for ours, own in pairs] for key in pairs[0][0].errors}
    cells.append(", ".join(mean(values, 2) for values in relative.values()))
    return "| " + " | ".join(cells) + " |"


HEADER = (
    "| | frames, train / valid | ours per CPU s | own | ratio | wall ratio of the whole call"
    " | ours: meV/atom, meV/A, meV/A^3 | own | ours over own |\n" + "|---" * 9 + "|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*MODELS, "all"], default="all")
    parser.add_argument("--frames", type=Path, help="labelled extxyz; default: references and random crystals")
    parser.add_argument("--n-frames", type=int, help="only so many of them, drawn at random")
    parser.add_argument("--n-valid", type=int, default=40, help="so many of these, about, validate; the others train")
    parser.add_argument("--teacher", choices=["7net-0", "chgnet"], default="7net-0", help="labels the default frames")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument(
        "--learning-rate", type=float, help=f"default: {UNTRAINED[0]:g} from scratch, {PRETRAINED[0]:g} otherwise"
    )
    parser.add_argument(
        "--prefactors",
        type=float,
        nargs=3,
        help="energy, force, virial (for stress times 20^2, A^3); default: 10 1 1 from scratch, 1 1 1 otherwise",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="of frames drawn, random weights, order and all else"
    )
    parser.add_argument("--workdir", type=Path, default=Path("outputs/benchmarks"), help="keeps frames and results")
    parser.add_argument("overrides", nargs="*", help="of the configuration, e.g. model.checkpoint=7net-0")
    options = parser.parse_intermixed_args()
    options.workdir.mkdir(parents=True, exist_ok=True)
    rows = []
    for model in MODELS if options.model == "all" else [options.model]:
        rows.append(summary([compare(model, options, seed) for seed in options.seeds]))
        print("", HEADER, *rows, sep="\n", flush=True)


if __name__ == "__main__":
    main()
