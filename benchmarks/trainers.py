"""The backends' own trainers with the settings of one recipe; each returns its times and errors on the valid frames.

Residuals of stresses are brought to those of the virial per atom with the mean volume per atom. Docstrings are names.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.io import write
from ase.units import GPa

AVERAGED = ("mace", "mattersim")
"""Their trainers validate and keep averaged weights."""


class Task(NamedTuple):
    """start: the force field to start from, its checkpoint a path; folder: empty, to write to."""

    start: Any
    train: list[Atoms]
    valid: list[Atoms]
    recipe: Any
    folder: Path

    @property
    def prefactors(self) -> tuple[float, float, float]:
        """Of energy, force and virial."""
        recipe = self.recipe
        return recipe.energy_prefactor[0], recipe.force_prefactor[0], recipe.stress_prefactor[0]

    @property
    def volume_per_atom(self) -> float:
        """A^3; the root of the mean square over the training frames."""
        return float(np.sqrt(np.mean([(atoms.cell.volume / len(atoms)) ** 2 for atoms in self.train])))


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


def train_chgnet(task: Task) -> Trained:
    """chgnet.trainer.Trainer"""
    from chgnet.data.dataset import StructureData, get_loader
    from chgnet.model import CHGNet
    from chgnet.model.dynamics import CHGNetCalculator
    from chgnet.trainer import Trainer
    from pymatgen.io.ase import AseAtomsAdaptor

    def loader(frames: list[Atoms]) -> Any:
        structures = [
            AseAtomsAdaptor.get_structure(Atoms(a.symbols, a.positions, cell=a.cell, pbc=True)) for a in frames
        ]
        data = StructureData(
            structures,
            energies=[a.info["label_energy"] / len(a) for a in frames],
            forces=[a.arrays["label_forces"] for a in frames],
            stresses=[-np.asarray(a.info["label_stress"]) / GPa * 10 for a in frames],
            shuffle=False,
        )
        return get_loader(data, batch_size=task.recipe.batch_size, num_workers=0, pin_memory=False)

    energy, force, virial = task.prefactors
    model = CHGNet.from_file(task.start.checkpoint)
    with Clock(task.recipe.epochs) as clock:
        trainer = Trainer(
            model=model, targets="efs", criterion="MSE", optimizer="Adam", learning_rate=task.recipe.learning_rate,
            energy_loss_ratio=energy, force_loss_ratio=force,
            stress_loss_ratio=virial * (task.volume_per_atom * GPa) ** 2, scheduler="ExponentialLR",
            scheduler_params={"gamma": 1.0}, epochs=task.recipe.epochs, use_device="cpu", print_freq=10**6,
        )  # fmt: skip
        trainer.train(loader(task.train), loader(task.valid), save_dir=str(task.folder), train_composition_model=True)
    return clock.trained(task, errors(task.valid, CHGNetCalculator(trainer.model, use_device="cpu")))


def train_sevennet(task: Task) -> Trained:
    """sevenn.train.trainer.Trainer"""
    import sevenn
    import torch
    from sevenn.calculator import SevenNetCalculator
    from sevenn.train.graph_dataset import SevenNetGraphDataset
    from sevenn.train.loss import ForceLoss, PerAtomEnergyLoss, StressLoss
    from sevenn.train.trainer import Trainer
    from sevenn.util import load_checkpoint
    from torch_geometric.loader import DataLoader

    energy, force, virial = task.prefactors
    checkpoint = load_checkpoint(task.start.checkpoint)
    model = checkpoint.build_model()
    with Clock(task.recipe.epochs) as clock:
        loaders = {}
        for name, frames in (("train", task.train), ("valid", task.valid)):
            write_frames(task.folder / f"{name}.extxyz", frames, "y_")
            data = SevenNetGraphDataset(
                cutoff=model.cutoff, root=str(task.folder / name), files=[str(task.folder / f"{name}.extxyz")],
                processed_name=f"{name}.pt", process_num_cores=1, energy_key="y_energy", force_key="y_forces",
                stress_key="y_stress",
            )  # fmt: skip
            loaders[name] = DataLoader(data, batch_size=task.recipe.batch_size, shuffle=name == "train")
        criterion = torch.nn.MSELoss()
        losses = [
            (PerAtomEnergyLoss(criterion=criterion), energy),
            (ForceLoss(criterion=criterion), force),
            (StressLoss(criterion=criterion), virial * (task.volume_per_atom / 1602.1766208) ** 2),
        ]
        trainer = Trainer(model, losses, torch.optim.Adam, {"lr": task.recipe.learning_rate}, device="cpu")
        for _ in range(task.recipe.epochs):
            trainer.run_one_epoch(loaders["train"], is_train=True)
            trainer.run_one_epoch(loaders["valid"])
    content = checkpoint.get_checkpoint_dict() | trainer.get_checkpoint_dict()
    content["config"]["version"] = sevenn.__version__  # else the weights are sorted a second time when read
    torch.save(content, task.folder / "trained.pth")
    return clock.trained(task, errors(task.valid, SevenNetCalculator(str(task.folder / "trained.pth"), device="cpu")))


def train_mace(task: Task) -> Trained:
    """mace_run_train"""
    import torch
    from mace import tools
    from mace.calculators import MACECalculator
    from mace.cli.run_train import run

    from chemloop.model.mace import export

    energy, force, virial = task.prefactors
    recipe, base = task.recipe, task.folder / "base.model"
    export(task.start.checkpoint, base)
    network = torch.load(base, map_location="cpu", weights_only=False)
    constants = network.atomic_energies_fn.atomic_energies.detach().flatten().tolist()
    for name, frames in (("train", task.train), ("valid", task.valid)):
        write_frames(task.folder / f"{name}.extxyz", frames, "REF_")
    flags = {
        "name": "own", "work_dir": task.folder, "foundation_model": base, "multiheads_finetuning": False,
        "E0s": dict(zip(network.atomic_numbers.tolist(), constants, strict=True)),
        "train_file": task.folder / "train.extxyz", "valid_file": task.folder / "valid.extxyz",
        "energy_key": "REF_energy", "forces_key": "REF_forces", "stress_key": "REF_stress",
        "device": "cpu", "default_dtype": "float32", "batch_size": recipe.batch_size, "valid_batch_size": 8,
        "max_num_epochs": recipe.epochs, "eval_interval": 1, "lr": recipe.learning_rate, "weight_decay": 0.0,
        "scheduler": "ExponentialLR", "lr_scheduler_gamma": 1.0, "clip_grad": recipe.gradient_clip,
        "ema_decay": recipe.ema_decay, "loss": "stress", "energy_weight": energy, "forces_weight": force,
        "stress_weight": virial * task.volume_per_atom**2, "compute_stress": True, "plot": False, "seed": 0,
    }  # fmt: skip
    arguments = [text for key, value in flags.items() for text in (f"--{key}", str(value))]
    parsed = tools.build_default_arg_parser().parse_args([*arguments, "--ema"])
    with Clock(recipe.epochs) as clock:
        run(parsed)
    torch.set_default_dtype(torch.float32)
    calculator = MACECalculator(str(task.folder / "own.model"), device="cpu", default_dtype="float32")
    return clock.trained(task, errors(task.valid, calculator))


def train_mattersim(task: Task) -> Trained:
    """mattersim Potential.train_model"""
    import torch
    from mattersim.datasets.utils.build import build_dataloader
    from mattersim.forcefield import MatterSimCalculator
    from mattersim.forcefield.potential import Potential

    energy, force, virial = task.prefactors

    def potential_of(path: str) -> Any:
        return Potential.from_checkpoint(
            path, device="cpu", load_training_state=False, lr=task.recipe.learning_rate, step_size=10**6, gamma=1.0
        )

    potential = potential_of(task.start.checkpoint)
    cutoffs = {
        "cutoff": potential.model.model_args["cutoff"],
        "threebody_cutoff": potential.model.model_args["threebody_cutoff"],
    }

    def loader(frames: list[Atoms], shuffle: bool) -> Any:
        plain = [Atoms(a.numbers, positions=a.positions, cell=a.cell.array, pbc=True) for a in frames]
        return build_dataloader(
            plain, [a.info["label_energy"] for a in frames], [a.arrays["label_forces"] for a in frames],
            [np.asarray(a.info["label_stress"]) / GPa for a in frames],
            batch_size=task.recipe.batch_size, shuffle=shuffle, **cutoffs,
        )  # fmt: skip

    with Clock(task.recipe.epochs) as clock:
        potential.train_model(
            loader(task.train, True), loader(task.valid, False), loss=torch.nn.MSELoss(), include_forces=True,
            include_stresses=True, force_loss_ratio=force / energy,
            stress_loss_ratio=virial / energy * (task.volume_per_atom * GPa) ** 2, epochs=task.recipe.epochs,
            early_stop_patience=10**6, save_checkpoint=True, save_path=str(task.folder), ckpt_interval=10**6,
        )  # fmt: skip
    trained = potential_of(str(task.folder / "best_model.pth"))
    return clock.trained(task, errors(task.valid, MatterSimCalculator(trained, device="cpu")))


def train_dpa3(task: Task) -> Trained:
    """dp train"""
    import dpdata
    import torch
    from ase.calculators.singlepoint import SinglePointCalculator

    from chemloop.model.dpa3_checkpoint import import_deepmd

    import_deepmd()
    from deepmd.calculator import DP
    from deepmd.pt.entrypoints.main import train
    from deepmd.pt.utils import env

    energy, force, virial = task.prefactors
    base = torch.load(task.start.checkpoint, map_location="cpu", weights_only=False)
    model = base.get("model", base)["_extra_state"]["model_params"]
    for name, frames in (("train", task.train), ("valid", task.valid)):
        systems = dpdata.MultiSystems(type_map=model["type_map"])
        for frame in frames:
            atoms = Atoms(frame.numbers, positions=frame.positions, cell=frame.cell.array, pbc=True)
            stress = np.asarray(frame.info["label_stress"])[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            atoms.calc = SinglePointCalculator(
                atoms, energy=frame.info["label_energy"], forces=frame.arrays["label_forces"], stress=stress
            )
            systems.append(dpdata.LabeledSystem(atoms, fmt="ase/structure"))
        systems.to("deepmd/npy/mixed", str(task.folder / name))

    def data(name: str) -> dict[str, Any]:
        folders = sorted(str(path) for path in (task.folder / name).iterdir())
        return {"systems": folders, "batch_size": task.recipe.batch_size}

    # a batch is of one number of atoms; where these have few frames, batches are smaller
    sizes = Counter(len(atoms) for atoms in task.train).values()
    batch_size = task.recipe.batch_size
    frames_per_step = sum(n / len(task.train) * n / -(-n // batch_size) for n in sizes)
    n_steps = round(task.recipe.epochs * len(task.train) / frames_per_step)
    rate = task.recipe.learning_rate
    loss: dict[str, Any] = {"type": "ener", "intensive_ener_virial": True}
    for key, prefactor in (("e", energy), ("f", force), ("v", virial)):
        loss |= {f"start_pref_{key}": prefactor, f"limit_pref_{key}": prefactor}
    settings = {
        "model": model,
        "learning_rate": {"type": "exp", "start_lr": rate, "stop_lr": rate * 0.999, "decay_steps": n_steps},
        "loss": loss,
        "training": {
            "training_data": data("train"), "validation_data": data("valid"), "numb_steps": n_steps, "seed": 0,
            "gradient_max_norm": task.recipe.gradient_clip, "save_freq": n_steps, "disp_freq": max(1, n_steps // 20),
        },
    }  # fmt: skip
    (task.folder / "input.json").write_text(json.dumps(settings))
    base_path = str(Path(task.start.checkpoint).resolve())
    with contextlib.chdir(task.folder), Clock(task.recipe.epochs) as clock:
        train(
            "input.json", init_model=base_path, restart=None, finetune=None, init_frz_model=None, model_branch="",
            skip_neighbor_stat=True,
        )  # fmt: skip
    env.CUSTOM_OP_USE_JIT = False  # train has set it, the calculator cannot compile what it brings
    return clock.trained(task, errors(task.valid, DP(str(task.folder / "model.ckpt.pt"))), frames_per_step)


TRAINERS: dict[str, Callable[[Task], Trained]] = {
    "chgnet": train_chgnet,
    "sevennet": train_sevennet,
    "mace": train_mace,
    "mattersim": train_mattersim,
    "dpa3": train_dpa3,
}
