"""What the trainers of `benchmarks.finetuning` share: their task, the clock that times all of them, and the errors."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.io import write


class Task(NamedTuple):
    """start: the force field to start from, its checkpoint a path; folder: empty, to write to
    seed: of the order of frames, and of whatever else a trainer draws
    """

    start: Any
    train: list[Atoms]
    valid: list[Atoms]
    recipe: Any
    folder: Path
    seed: int

    @property
    def prefactors(self) -> tuple[float, float, float]:
        """Of energy, force, and stress, or virial where recipe.loss is not `stress`."""
        recipe = self.recipe
        return recipe.energy_prefactor[0], recipe.force_prefactor[0], recipe.stress_prefactor[0]


class Trained(NamedTuple):
    """seconds: wall time of the trainer's whole call
    step_s, step_cpu_s: wall and CPU seconds of a step and all that happens until the next, after the first epoch
    frames_per_step: on average
    errors: on the valid frames
    """

    seconds: float
    step_s: float
    step_cpu_s: float
    frames_per_step: float
    errors: dict[str, float]

    @property
    def per_cpu_s(self) -> float:
        """Frames per CPU second."""
        return self.frames_per_step / self.step_cpu_s


class Clock:
    """Times of one training; torch tells it of every step of an optimizer."""

    def __init__(self, epochs: int):
        self.epochs = epochs
        self.steps: list[tuple[float, float]] = []

    def __enter__(self) -> Clock:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.hook = register_optimizer_step_post_hook(self._note)
        self.begin = time.perf_counter()
        return self

    def __exit__(self, *_: Any) -> None:
        self.end = time.perf_counter()
        self.hook.remove()

    def _note(self, *_: Any) -> None:
        self.steps.append((time.perf_counter(), time.process_time()))

    def trained(self, task: Task, errors: dict[str, float], frames_per_step: float | None = None) -> Trained:
        """frames_per_step: where batches are not those of the recipe"""
        per_epoch = len(self.steps) // self.epochs
        (begin, cpu_begin), (end, cpu_end) = self.steps[per_epoch - 1], self.steps[-1]
        n_steps = len(self.steps) - per_epoch
        n_frames = min(len(task.train), per_epoch * int(task.recipe.batch_size))
        return Trained(
            self.end - self.begin,
            (end - begin) / n_steps,
            (cpu_end - cpu_begin) / n_steps,
            frames_per_step or n_frames / per_epoch,
            errors,
        )


def errors(valid: list[Atoms], calculator: Calculator) -> dict[str, float]:
    """The measures of `chemloop.training.evaluation.errors`, by the backend's own ASE calculator."""
    residuals: dict[str, list[np.ndarray]] = {"energy": [], "force": [], "stress": []}
    for frame in valid:
        atoms = Atoms(frame.numbers, positions=frame.positions, cell=frame.cell.array, pbc=True)
        atoms.calc = calculator
        residuals["energy"].append(
            np.atleast_1d((atoms.get_potential_energy() - frame.info["label_energy"]) / len(atoms))
        )
        residuals["force"].append((atoms.get_forces() - frame.arrays["label_forces"]).ravel())
        residuals["stress"].append((atoms.get_stress(voigt=False) - frame.info["label_stress"]).ravel())
    units = {"energy": "mev_per_atom", "force": "mev_per_ang", "stress": "mev_per_ang3"}
    return {
        f"{channel}_rmse_{units[channel]}": float(1000 * np.sqrt(np.mean(np.concatenate(values) ** 2)))
        for channel, values in residuals.items()
    }


def write_frames(path: Path, frames: list[Atoms], prefix: str) -> None:
    """Extxyz with keys PREFIXenergy, PREFIXforces, PREFIXstress."""
    plain = []
    for frame in frames:
        atoms = Atoms(frame.numbers, positions=frame.positions, cell=frame.cell.array, pbc=True)
        atoms.info[f"{prefix}energy"] = frame.info["label_energy"]
        atoms.info[f"{prefix}stress"] = np.asarray(frame.info["label_stress"]).reshape(9)
        atoms.arrays[f"{prefix}forces"] = frame.arrays["label_forces"]
        plain.append(atoms)
    write(path, plain, format="extxyz")
