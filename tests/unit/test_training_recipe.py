"""Recipes of fine-tuning: what they may say, and the courses of rates and prefactors that follow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from omegaconf import OmegaConf

from chemloop.config import build, prefer_command_line
from chemloop.model.dpa3_checkpoint import import_deepmd
from chemloop.runtime.errors import ConfigError
from chemloop.training.recipe import ACCELERATORS, PRECISIONS, Recipe
from chemloop.training.schedule import Schedule

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "training.epochs = 0: must be 1 or above"),
        ({"batch_size": -1}, "training.batch_size = -1"),
        ({"schedule": "linear"}, "training.schedule = linear: must be one of constant, exponential"),
        ({"criterion": "mae"}, "training.criterion = mae: must be one of mse, huber"),
        ({"start_from": "best"}, "training.start_from = best: must be one of base, previous"),
        ({"learning_rate": 0.0}, "training.learning_rate = 0.0: must be above 0"),
        ({"stop_learning_rate": 1.0}, "training.stop_learning_rate = 1.0: must not be above training.learning_rate"),
        ({"ema_decay": 1.0}, "training.ema_decay = 1.0"),
        ({"valid_fraction": 1.0}, "training.valid_fraction = 1.0: must be between 0 and 1"),
        ({"batch_size": "all"}, "training.batch_size = all: must be 1 or above, or auto"),
        ({"loss": "mace"}, "training.loss = mace: must be one of per_atom, stress, deepmd"),
        ({"loss": "deepmd"}, "training.criterion = huber: training.loss = deepmd has squares: set it to mse"),
        ({"loss": "stress"}, "training.criterion = huber: training.loss = stress has squares: set it to mse"),
        ({"swa_epochs": -1}, "training.swa_epochs = -1: must be 0 or above"),
        ({"swa_prefactors": [1.0, 1.0]}, "training.swa_prefactors = .1.0, 1.0.: must be null or three numbers"),
        ({"swa_prefactors": [1.0, 1.0, 1.0], "stress_prefactor": [0.0, 0.0]}, "stress_prefactor = .0, 0. leaves"),
        (
            {"swa_epochs": 5, "early_stopping_patience": 3},
            "early_stopping_patience = 3: must be 0 with .*swa_epochs = 5",
        ),
        ({"replay_fraction": 0.3}, "training.replay_fraction = 0.3: needs structures: set training.replay to"),
        ({"ewc_strength": 1.0}, "training.ewc_strength = 1.0: needs structures"),
        ({"replay": "package:general", "replay_fraction": 1.0}, "replay_fraction = 1.0: must be 0 .* below 1"),
        ({"max_minutes": 0.0}, "training.max_minutes = 0.0: must be null or above 0"),
        ({"precision": "half"}, "training.precision = half: must be one of 32-true, .*bf16-mixed"),
        ({"precision": "64-true"}, "training.precision = 64-true: must be one of 32-true, .*bf16-mixed"),
        ({"accelerator": "quantum"}, "training.accelerator = quantum: must be one of auto, cpu, cuda, gpu"),
        ({"energy_prefactor": [1.0]}, "training.energy_prefactor = .1.0.: must be two numbers"),
        (dict.fromkeys(["energy_prefactor", "force_prefactor", "stress_prefactor"], [0.0, 0.0]), "must be above 0"),
    ],
)
def test_bad_recipe(values, message):
    with pytest.raises(ConfigError, match=message):
        Recipe(**values)


def test_accelerators_and_precisions_are_lightnings():
    from lightning.fabric.plugins.precision import precision
    from lightning.pytorch.accelerators import AcceleratorRegistry

    assert set(ACCELERATORS) == {"auto", "gpu", *AcceleratorRegistry.available_accelerators()}
    names, short_names = get_args(precision._PRECISION_INPUT_STR), get_args(precision._PRECISION_INPUT_STR_ALIAS)
    assert set(PRECISIONS) < {*names, *short_names}


@pytest.mark.parametrize("path", sorted((CONF / "training").glob("*.yaml")), ids=str)
def test_recipes_in_conf(path, compose_config):
    from chemloop.config import load

    load(compose_config(f"training={path.stem}"))


def test_exponential_schedule_is_deepmd_kits():
    recipe = Recipe(epochs=50, schedule="exponential", learning_rate=1e-3, stop_learning_rate=3e-5, decay_steps=2000)
    schedule = Schedule(recipe, steps_per_epoch=400)
    rate = (3e-5 / 1e-3) ** (2000 / 20000)
    for step in (0, 1999, 2000, 7777, 19999):
        assert schedule.learning_rate(step) == pytest.approx(1e-3 * rate ** (step // 2000))
    smooth = Schedule(replace(recipe, decay_steps=0), 400)
    assert smooth.learning_rate(10000) == pytest.approx((1e-3 * 3e-5) ** 0.5)


@pytest.mark.parametrize("n_steps", [90, 1009, 1010, 20000])
@pytest.mark.parametrize("decay_steps", [40, 20000])
def test_exponential_rates_are_those_of_deepmd_kits_own_class(n_steps, decay_steps):
    import_deepmd()
    from deepmd.dpmodel.utils.learning_rate import LearningRateExp

    recipe = Recipe(epochs=1, schedule="exponential", learning_rate=1e-3, stop_learning_rate=3e-5)
    ours = Schedule(replace(recipe, decay_steps=decay_steps), n_steps)
    theirs = LearningRateExp(start_lr=1e-3, stop_lr=3e-5, num_steps=n_steps, decay_steps=decay_steps)
    for step in (0, 1, 39, 40, 89, n_steps // 2, n_steps - 1):
        assert ours.learning_rate(step) == pytest.approx(float(theirs.value(step)), rel=1e-9)


def test_other_schedules():
    recipe = Recipe(epochs=10, learning_rate=1e-2, stop_learning_rate=1e-4, decay_factor=0.5, decay_epochs=3)
    cosine = Schedule(recipe, 7)
    assert cosine.learning_rate(0) == pytest.approx(1e-2)
    assert cosine.learning_rate(35) == pytest.approx((1e-2 + 1e-4) / 2)
    assert cosine.learning_rate(70) == pytest.approx(1e-4)
    step = Schedule(replace(recipe, schedule="step"), 7)
    assert [step.learning_rate(k) for k in (0, 20, 21, 42)] == pytest.approx([1e-2, 1e-2, 5e-3, 2.5e-3])
    assert Schedule(replace(recipe, schedule="constant"), 7).learning_rate(69) == 1e-2


def test_prefactors_move():
    recipe = Recipe(
        epochs=10, learning_rate=1e-3, stress_prefactor=[0.0, 0.0], energy_prefactor=[0.2, 20.0],
        force_prefactor=[100.0, 60.0],
    )  # fmt: skip
    by_step = Schedule(recipe, 10)
    assert by_step.prefactors(25, 1.0) == pytest.approx({"energy": 5.15, "force": 90.0})
    by_rate = Schedule(replace(recipe, prefactors_follow="learning_rate"), 10)
    assert by_rate.prefactors(99, 1e-4) == pytest.approx({"energy": 20 - 1.98, "force": 64.0})


def test_an_untrained_model_has_values_of_its_own():
    recipe = Recipe(epochs=4, learning_rate=1e-3, untrained={"epochs": 40, "learning_rate": 1e-2})
    assert (recipe.for_untrained().epochs, recipe.for_untrained().learning_rate) == (40, 1e-2)
    assert Recipe(epochs=4).for_untrained().epochs == 4
    with pytest.raises(ConfigError, match="unknown key training.untrained.epoch; allowed are .*epochs"):
        Recipe(untrained={"epoch": 40})
    with pytest.raises(ConfigError, match=r"training.epochs = 0: must be 1 or above"):
        Recipe(untrained={"epochs": 0})


@pytest.mark.parametrize(
    ("overrides", "epochs", "rate"),
    [
        ([], 20, 5e-3),
        (["training.epochs=3"], 3, 5e-3),
        (["++training.epochs=3", "training.learning_rate=1e-4"], 3, 1e-4),
        (["training.epochs=3", "training.untrained.epochs=7"], 7, 5e-3),
    ],
)
def test_the_command_line_holds_for_models_with_random_weights_too(compose_config, overrides, epochs, rate):
    config = compose_config("model=dpa3", *overrides)
    prefer_command_line(config, ["model=dpa3", *overrides])
    recipe = build(config["training"], "training").for_untrained()
    assert (recipe.epochs, recipe.learning_rate, recipe.stop_learning_rate) == (epochs, rate, 5e-5)


def test_second_phase_is_constant():
    recipe = Recipe(epochs=3, swa_epochs=2, swa_learning_rate=0.5, energy_prefactor=[0.0, 7.0])
    schedule = Schedule(recipe, 10)
    assert [schedule.is_averaging(step) for step in (29, 30)] == [False, True]
    assert schedule.learning_rate(29) < 1e-3 and schedule.learning_rate(30) == schedule.learning_rate(49) == 0.5
    assert schedule.prefactors(40, 0.5) == {"energy": 7.0, "force": 1.0, "stress": 1.0}
    own = Schedule(replace(recipe, swa_prefactors=[1000.0, 100.0, 0.0]), 10)
    assert own.prefactors(40, 0.5) == {"energy": 1000.0, "force": 100.0, "stress": 0.0}
    assert own.prefactors(29, 0.5)["force"] == 1.0


@pytest.mark.parametrize("value", ["auto", "8"])
def test_batch_size_in_conf(value, compose_config):
    from chemloop.config import load

    overrides = "training=default", f"training.batch_size={value}"
    assert str(load(compose_config(*overrides)).training.batch_size) == value


@pytest.mark.parametrize("path", sorted((CONF / "training/recipe").glob("*/*.yaml")), ids=str)
def test_recipes_of_models(path, compose_config):
    from chemloop.config import build

    node = compose_config(f"model={path.stem}", f"loop={path.parent.name}")["training"]
    changed = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(changed, dict) and {key: node[key] for key in changed} == changed
    assert isinstance(build(node, "training"), Recipe)
