"""The backends' own trainers with the settings of one recipe; each returns its times and errors on the valid frames.

Errors are those of the weights after the last epoch, of their moving average where the trainer has one. Docstrings are
names.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import GPa

from benchmarks.fits import Clock, Task, Trained, errors, write_frames

AVERAGED = ("mace", "mattersim")
"""Their trainers validate and keep averaged weights."""
CLIPS = {"chgnet": 0.0, "sevennet": 0.0, "mace": 10.0, "mattersim": 1.0, "dpa3": 5.0}
"""Largest norm of the gradient, 0: unlimited. CHGNet's and SevenNet's trainers know no limit, MatterSim's no other than
1 (`Potential.train_one_epoch`); 10 is the default of `mace_run_train`, 5 that of deepmd-kit's examples for DPA-3."""


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

    energy, force, stress = task.prefactors
    model = CHGNet.from_file(task.start.checkpoint)
    with Clock(task.recipe.epochs) as clock:
        trainer = Trainer(
            model=model, targets="efs", criterion="MSE", optimizer="Adam", learning_rate=task.recipe.learning_rate,
            energy_loss_ratio=energy, force_loss_ratio=force,
            stress_loss_ratio=stress * GPa**2, scheduler="ExponentialLR",
            scheduler_params={"gamma": 1.0}, epochs=task.recipe.epochs, use_device="cpu", print_freq=10**6,
            torch_seed=task.seed,
        )  # fmt: skip
        trainer.train(loader(task.train), loader(task.valid), save_dir=str(task.folder), train_composition_model=True)
    return clock.trained(task, errors(task.valid, CHGNetCalculator(trainer.model, use_device="cpu")))


def tensor_mse(predicted: Any, labels: Any) -> Any:
    """Mean square over the nine components of tensors, given the six of each, three shears last."""
    squares = (predicted - labels).reshape(-1, 6) ** 2
    return (squares[:, :3].sum() + 2 * squares[:, 3:].sum()) / (9 * len(squares))


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

    energy, force, stress = task.prefactors
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
            (StressLoss(criterion=tensor_mse), stress / 1602.1766208**2),
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

    energy, force, stress = task.prefactors
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
        "stress_weight": stress, "compute_stress": True, "plot": False, "seed": task.seed,
    }  # fmt: skip
    arguments = [text for key, value in flags.items() for text in (f"--{key}", str(value))]
    # of the states that it keeps it takes the last one: without all of them that of the lowest loss
    parsed = tools.build_default_arg_parser().parse_args([*arguments, "--ema", "--save_all_checkpoints"])
    parsed.amsgrad = False  # its default, which no flag turns off
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

    energy, force, stress = task.prefactors

    def potential_of(path: str) -> Any:
        return Potential.from_checkpoint(
            path, device="cpu", load_training_state=False, lr=task.recipe.learning_rate, step_size=10**6, gamma=1.0
        )

    def weighted(predicted: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """With the energy's prefactor, for which it has no argument, so that its limit is of the same gradient."""
        return energy * torch.nn.functional.mse_loss(predicted, labels)

    potential = potential_of(task.start.checkpoint)
    for group in potential.optimizer.param_groups:
        group["eps"] = 1e-8  # as the others; its own is 1e-7
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
            loader(task.train, True), loader(task.valid, False), loss=weighted, include_forces=True,
            include_stresses=True, force_loss_ratio=force / energy,
            stress_loss_ratio=stress / energy * GPa**2, epochs=task.recipe.epochs,
            early_stop_patience=10**6, save_checkpoint=True, save_path=str(task.folder), ckpt_interval=10**6,
        )  # fmt: skip
    trained = potential_of(str(task.folder / "last_model.pth"))
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

    n_steps_per_epoch = n_batches(task.train, task.recipe.batch_size)
    n_steps = task.recipe.epochs * n_steps_per_epoch
    # it validates with batches drawn at random: with as many per epoch as hold all frames
    n_valid = n_batches(task.valid, task.recipe.batch_size)
    rate = task.recipe.learning_rate
    loss: dict[str, Any] = {"type": "ener", "intensive_ener_virial": True}
    for key, prefactor in (("e", energy), ("f", force), ("v", virial)):
        loss |= {f"start_pref_{key}": prefactor, f"limit_pref_{key}": prefactor}
    settings = {
        "model": model,
        "learning_rate": {"type": "exp", "start_lr": rate, "stop_lr": rate * 0.999, "decay_steps": n_steps},
        "loss": loss,
        "training": {
            "training_data": data("train"), "validation_data": data("valid") | {"numb_btch": n_valid},
            "numb_steps": n_steps, "seed": task.seed, "gradient_max_norm": task.recipe.gradient_clip,
            "save_freq": n_steps, "disp_freq": n_steps_per_epoch,
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
    return clock.trained(
        task, errors(task.valid, DP(str(task.folder / "model.ckpt.pt"))), len(task.train) / n_steps_per_epoch
    )


def n_batches(frames: list[Atoms], batch_size: int) -> int:
    """In deepmd-kit's epoch; they are of one number of atoms, and those of few frames are not full.

    It draws a number of atoms in proportion to its batches, so the mean batch has len(frames) / n_batches frames.
    """
    return sum(math.ceil(n / batch_size) for n in Counter(len(atoms) for atoms in frames).values())


TRAINERS: dict[str, Callable[[Task], Trained]] = {
    "chgnet": train_chgnet,
    "sevennet": train_sevennet,
    "mace": train_mace,
    "mattersim": train_mattersim,
    "dpa3": train_dpa3,
}


def train_own(model: str, task: Task) -> Trained:
    """The fit of the backend's own trainer.

    SevenNet's and MatterSim's trainers take no seed, and draw from torch's generator as it is.
    """
    from lightning.pytorch import seed_everything

    seed_everything(task.seed)
    return TRAINERS[model](task)
