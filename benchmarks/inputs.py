"""What the benchmarks compute with: models from `conf/`, random crystals, labelled frames, small models fitted to them.

Everything is a function of a seed, and is kept in the benchmark's working folder.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from chemloop.physics.structures import read_structures, set_results, write_structures
from chemloop.runtime.errors import ItemFailed

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in the processes that inherit it
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # a second thread would spin, and cost more than it gives

MODELS = ("chgnet", "sevennet", "mace", "mattersim", "dpa3")
FROM_SCRATCH = ("mace", "mattersim", "dpa3")
"""Models without weights in their packages: a small network is fitted."""
ELEMENTS = ["Li", "P", "S"]
REFERENCE = "package:li-p-s"
MAX_LABEL_FORCE = 15.0
"""eV/A; frames beyond it teach a small network nothing about minima."""


def configured(model: str, overrides: Sequence[str] = ()) -> tuple[Any, Any]:
    """The force field and the quickstart recipe, as `python -m chemloop model=MODEL OVERRIDES` would have them."""
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from chemloop.config import build, prefer_command_line

    conf = Path(__file__).parents[1] / "conf"
    with initialize_config_dir(str(conf), version_base="1.3"):
        node = compose("config", [f"model={model}", *overrides], return_hydra_config=True)
        HydraConfig.instance().set_config(node)
        groups = OmegaConf.masked_copy(node, ["system", "model", "training", "outputs", "loop"])
        config: Any = OmegaConf.to_container(groups, resolve=True)
    prefer_command_line(config, overrides)
    force_field, recipe = build(config["model"], "model"), build(config["training"], "training")
    return force_field, recipe if force_field.checkpoint is not None else recipe.for_untrained()


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's value, computed in a fresh process: backends leave their marks on the one that they run in."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def random_crystals(workdir: Path, n: int, seed: int, min_atoms: int = 10, max_atoms: int = 14) -> list[Atoms]:
    """Crystals of about 12 atoms from the random generator."""
    from chemloop.generator.random import RandomGenerator

    path = workdir / f"crystals-{n}-{seed}-{min_atoms}-{max_atoms}.extxyz"
    if not path.exists():
        generator = RandomGenerator(reference=REFERENCE, min_atoms=min_atoms, max_atoms=max_atoms)
        crystals = generator.generate(n, ELEMENTS, {}, seed, workdir)
        for number, atoms in enumerate(crystals):
            atoms.info["id"] = f"s{seed}-{number:04d}"
        write_structures(path, crystals)
    return read_structures(path)


def labelled_frames(workdir: Path, teacher: str, n_random: int = 24, seed: int = 1) -> Path:
    """File of frames labelled by pretrained weights: references strained and perturbed, random crystals on their way.

    teacher: `7net-0` or `chgnet`
    """
    from chemloop.physics.perturbation import perturb

    path = workdir / f"frames-{teacher}-{n_random}-{seed}.extxyz"
    if path.exists():
        return path
    from chemloop.reference import read_reference

    rng = np.random.default_rng(seed)
    frames: list[Atoms] = []
    small = [atoms for atoms in read_reference(REFERENCE, ELEMENTS, 0.5, str(workdir)) if len(atoms) <= 16]
    for number, atoms in enumerate(small):
        for copy, amplitude in enumerate([(0.0, 0.0), (0.02, 0.05), (0.05, 0.15)]):
            try:
                frame = perturb(atoms, amplitude, (0.01, 0.05), rng)
            except ItemFailed:
                continue
            frame.info = {"id": f"r{number:04d}/p{copy}", "parent": f"r{number:04d}"}
            frames.append(frame)
    crystals = random_crystals(workdir, n_random, 1000 + seed, 4, 14)
    labelled = in_process(_label, frames, crystals, teacher)
    write_structures(path, labelled)
    return path


def teacher_potential(teacher: str) -> Any:
    from chemloop.model.chgnet import CHGNetForceField
    from chemloop.model.sevennet import SevenNetForceField

    if teacher == "chgnet":
        return CHGNetForceField("0.3.0").load()
    return SevenNetForceField(teacher).load()


def _label(frames: Sequence[Atoms], crystals: Sequence[Atoms], teacher: str) -> list[Atoms]:
    from chemloop.physics.calculator import PotentialCalculator, evaluate
    from chemloop.physics.relaxation import relax_trajectory

    potential = teacher_potential(teacher)
    labelled = []
    for atoms, results in zip(frames, evaluate(frames, potential), strict=True):
        labelled.append(set_results(atoms, "label", *results, f"teacher-{teacher}"))
    for crystal in crystals:
        try:
            path = relax_trajectory(crystal, PotentialCalculator(potential), 0.05, 40)
        except ItemFailed:
            continue
        for number in np.unique(np.linspace(0, len(path) - 1, 6).astype(int)):
            atoms = path[number]
            values = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)
            set_results(atoms, "label", *values, f"teacher-{teacher}")
            atoms.calc = None
            atoms.info["parent"] = crystal.info["id"]
            atoms.info["id"] = f"{crystal.info['id']}/f{number:02d}"
            labelled.append(atoms)
    return [a for a in labelled if np.linalg.norm(a.arrays["label_forces"], axis=1).max() <= MAX_LABEL_FORCE]


def sane_model(model: str, workdir: Path, overrides: Sequence[str], minutes: float) -> Any:
    """The force field to compare with: as configured, or, without weights of its own, a small one fitted here."""
    given = any(override.startswith("model.checkpoint=") for override in overrides)
    if given or model not in FROM_SCRATCH:
        return configured(model, overrides)[0]
    force_field, recipe = configured(model, [*overrides, "model.checkpoint=null"])
    folder = workdir / f"fitted-{model}"
    checkpoint = folder / "checkpoint.txt"
    if not checkpoint.exists():
        frames = labelled_frames(workdir, "7net-0")
        recipe = dataclasses.replace(recipe, epochs=1000, max_minutes=minutes, save_every_steps=10**6)
        print(f"fitting a small {model} for {minutes:g} minutes ...", flush=True)
        found, errors = in_process(_fit, force_field, recipe, frames, folder)
        print("  ", errors, flush=True)
        checkpoint.write_text(found)
    return dataclasses.replace(force_field, checkpoint=checkpoint.read_text())


def _fit(force_field: Any, recipe: Any, frames: Path, folder: Path) -> tuple[str, str]:
    from chemloop.training.finetune import finetune

    fit = finetune(force_field, read_structures(frames), recipe, folder, seed=0)
    errors = {key: round(value, 1) for key, value in fit.metrics.items() if "valid_" in key or "epoch" in key}
    return str(Path(str(fit.checkpoint)).resolve()), str(errors)
