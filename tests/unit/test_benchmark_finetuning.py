"""The comparison of trainers: the same settings for both, seeds that count, and the printed means."""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from benchmarks.finetuning import LAST, Comparison, compare, same_for_both, started, summary
from benchmarks.fits import Task, Trained
from benchmarks.inputs import MODELS, in_process
from benchmarks.trainers import AVERAGED, CLIPS, n_batches, tensor_mse, train_own
from chemloop.physics.structures import set_results, write_structures

OPTIONS = argparse.Namespace(epochs=2, batch_size=4, learning_rate=None, prefactors=None, n_frames=None, n_valid=4)


def frames(n: int) -> list:
    """Crystals of the three elements, with labels of no meaning."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(n):
        places = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0, 0]]
        atoms = Atoms("LiPS", scaled_positions=places, cell=(4.0 + 0.2 * rng.random()) * np.eye(3), pbc=True)
        atoms.rattle(0.1, rng=rng)
        set_results(atoms, "label", -9.0 + rng.random(), rng.normal(size=(3, 3)), 0.01 * np.eye(3), "test")
        atoms.info |= {"id": f"f{number}", "parent": f"f{number}"}
        made.append(atoms)
    return made


@pytest.mark.parametrize("model", MODELS)
def test_ours_gets_the_limit_of_the_gradient_and_the_rate_that_theirs_has(model: str) -> None:
    force_field, recipe = started(model, [], seed=3)
    is_pretrained = force_field.checkpoint is not None
    same = same_for_both(model, recipe, is_pretrained, OPTIONS, 0.1)
    assert is_pretrained == (model == "chgnet")
    assert (same.learning_rate, same.energy_prefactor[0]) == ((1e-3, 1.0) if is_pretrained else (5e-3, 10.0))
    assert same.gradient_clip == {"chgnet": 0, "sevennet": 0, "mace": 10, "mattersim": 1, "dpa3": 5}[model]
    assert (same.loss, same.stress_prefactor[0]) == (("per_atom", 1.0) if model == "dpa3" else ("stress", 400.0))
    assert force_field.architecture.seed == 3


def test_the_limit_of_mattersim_is_the_one_in_its_source() -> None:
    potential = pytest.importorskip("mattersim.forcefield.potential")
    source = Path(potential.__file__).read_text()
    limits = re.findall(r"clip_grad_norm_\(\s*self\.model\.parameters\(\), ([\d.]+)", source)
    assert {float(limit) for limit in limits} == {CLIPS["mattersim"]}


def test_batches_of_deepmd_kit_are_of_one_number_of_atoms() -> None:
    assert n_batches(5 * [bulk("Li")] + [bulk("LiS", "zincblende", a=4.5)], 4) == 3


def test_stress_of_sevennet_counts_all_nine_components() -> None:
    tensors = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    tensors = tensors + tensors.transpose(-1, -2)
    six = tensors[..., [0, 1, 2, 0, 1, 2], [0, 1, 2, 1, 2, 0]].reshape(2, -1)
    torch.testing.assert_close(tensor_mse(*six), torch.nn.functional.mse_loss(*tensors))


def fits_of(model: str, folder: Path) -> tuple[set, list[dict[str, float]]]:
    """What the optimizers of two fits had in their groups, and the errors of each; the fits differ in their seeds."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    keys = ("amsgrad", "eps", "betas", "weight_decay")
    seen: set = set()
    register_optimizer_step_post_hook(
        lambda optimizer, *_: seen.update(tuple(group[key] for key in keys) for group in optimizer.param_groups)
    )
    force_field, recipe = started(model, [], seed=0)
    recipe = same_for_both(model, recipe, force_field.checkpoint is not None, OPTIONS, 0.25)
    force_field.load("cpu", "float32").save(folder / "base.pt")
    start = dataclasses.replace(force_field, checkpoint=str(folder / "base.pt"))
    errors = []
    for seed in (1, 2):
        own = folder / f"own-{seed}"
        own.mkdir()
        made = frames(16)
        errors.append(train_own(model, Task(start, made[4:], made[:4], recipe, own, seed)).errors)
    return seen, errors


@pytest.mark.parametrize("model", MODELS)
def test_own_trainer_has_our_optimizer_and_follows_its_seed(model: str, tmp_path: Path) -> None:
    seen, (first, second) = in_process(fits_of, model, tmp_path)
    assert seen == {(False, 1e-8, (0.9, 0.999), 0.0)}
    assert first != second


def losses_that_grow(model: str, rate: float, epochs: tuple[int, ...], folder: Path) -> list[float]:
    """Of the same fit after so many epochs, at a rate so high that it grows."""
    force_field, recipe = started(model, [], seed=0)
    options = argparse.Namespace(**vars(OPTIONS) | {"learning_rate": rate})
    recipe = same_for_both(model, recipe, False, options, 0.25)
    force_field.load("cpu", "float32").save(folder / "base.pt")
    start = dataclasses.replace(force_field, checkpoint=str(folder / "base.pt"))
    losses = []
    for number in epochs:
        own = folder / f"own-{number}"
        own.mkdir()
        made = frames(16)
        task = Task(start, made[4:], made[:4], dataclasses.replace(recipe, epochs=number), own, 0)
        errors = train_own(model, task).errors.values()
        losses.append(sum(w * (error / 1000) ** 2 for w, error in zip(task.prefactors, errors, strict=True)))
    return losses


@pytest.mark.parametrize(("model", "rate", "epochs"), [("mace", 0.5, (2, 3)), ("mattersim", 0.05, (4, 5))])
def test_errors_are_those_of_the_last_epoch_where_an_earlier_one_was_better(model, rate, epochs, tmp_path) -> None:
    assert model in AVERAGED
    earlier, last = in_process(losses_that_grow, model, rate, epochs, tmp_path)
    assert last > 2 * earlier


def test_too_few_frames_to_validate_with_so_many(tmp_path: Path) -> None:
    write_structures(tmp_path / "frames.extxyz", frames(6))
    options = argparse.Namespace(**vars(OPTIONS), overrides=[], frames=tmp_path / "frames.extxyz", workdir=tmp_path)
    with pytest.raises(SystemExit, match="6 frames with --n-valid 4"):
        compare("mattersim", options, 0)


def test_summary_has_means_and_standard_errors() -> None:
    def fit(seconds: float, step_cpu_s: float, error: float) -> Trained:
        return Trained(seconds, step_cpu_s, step_cpu_s, 4.0, {"energy": error, "force": 10 * error, "stress": 1.0})

    runs = [
        Comparison("mace", 90, 40, {LAST: fit(10.0, 0.1, 4.0)}, fit(20.0, 0.1, 8.0)),
        Comparison("mace", 92, 38, {LAST: fit(10.0, 0.1, 6.0)}, fit(40.0, 0.2, 6.0)),
    ]
    cells = [cell.strip() for cell in summary(runs).strip("|").split("|")]
    assert cells == [
        "mace (`mace_run_train`)",
        "90 to 92 / 38 to 40",
        "40.0 ± 0.0",
        "30.0 ± 10.0",
        "**1.50 ± 0.50**",
        "3.00 ± 1.00",
        "5.0 ± 1.0, 50.0 ± 10.0, 1.0 ± 0.0",
        "7.0 ± 1.0, 70.0 ± 10.0, 1.0 ± 0.0",
        "0.75 ± 0.25, 0.75 ± 0.25, 1.00 ± 0.00",
    ]
    assert "±" not in summary(runs[:1])
