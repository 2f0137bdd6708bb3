"""The mix of generators: who is asked for how much, what a failing member costs, what is learned, what is refused."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from scipy.stats import beta

from chemloop.config import build, load
from chemloop.generator.mix import MixGenerator
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import CheckpointError, ConfigError, ItemFailed

HERE = "tests.unit.test_generator_mix"
MIX = "chemloop.generator.mix.MixGenerator"
ELEMENTS = ["Li", "P", "S"]
CONDITIONS = {"energy_above_hull": 0.03, "n_atoms": 1.0}


@dataclass
class Maker:
    """Makes crystals of one atom and leaves a note of how it was asked."""

    can_learn: ClassVar[bool] = False
    understands: ClassVar[tuple[str, ...]] = ("n_atoms", "energy_above_hull")
    symbol: str = "Li"
    surplus: int = 0
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.surplus < 0:
            raise ConfigError(f"generator.surplus = {self.surplus}: must be 0 or above")

    def generate(self, n: int, elements: Any, conditions: dict[str, float], seed: int, workdir: Path) -> list[Atoms]:
        write_json(workdir / "asked.json", {"n": n, "conditions": conditions, "seed": seed})
        counts = {"attempts": 3 * n, "rejected": {"too close": 2 * n}, "cpu_seconds": 0.5, "warnings": self.warnings}
        write_json(workdir / "yield.json", counts)
        cells = np.random.default_rng(seed).uniform(2, 4, n + self.surplus)
        return [Atoms(self.symbol, cell=[a] * 3, pbc=True, info={"operator": "made"}) for a in cells]


@dataclass
class Learner(Maker):
    """Its checkpoint is a file of what it has learned from, one line after the other."""

    can_learn: ClassVar[bool] = True
    understands: ClassVar[tuple[str, ...]] = ("n_atoms",)
    symbol: str = "S"
    checkpoint: str | None = None
    patience: int = 9

    def finetune(self, structures: Any, workdir: Path, seed: int) -> str:
        learned = Path(self.checkpoint).read_text() if self.checkpoint else ""
        n_rows = len(read_json(workdir / "achieved.json"))
        if n_rows >= self.patience:
            raise ItemFailed("out of patience")
        (workdir / "learned.txt").write_text(f"{learned}{len(structures)} structures, {n_rows} rows\n")
        write_json(workdir / "operators.json", [atoms.info.get("operator") for atoms in structures])
        write_json(workdir / "metrics.json", {"loss": 0.25})
        return str(workdir / "learned.txt")


@dataclass
class Failing(Maker):
    is_retryable: bool = False

    def generate(self, n: int, elements: Any, conditions: dict[str, float], seed: int, workdir: Path) -> list[Atoms]:
        raise ItemFailed("the command ended with exit code 3", self.is_retryable)


@dataclass
class Silent(Maker):
    """Says nothing of its attempts, and burns time."""

    def generate(self, n: int, elements: Any, conditions: dict[str, float], seed: int, workdir: Path) -> list[Atoms]:
        np.linalg.eigvals(np.random.default_rng(seed).normal(size=(400, 400)))
        return []


def node(kind: str, **values: Any) -> dict[str, Any]:
    return {"_target_": f"{HERE}.{kind}", **values}


def mix(weights: dict[str, float] | None = None, **members: dict[str, Any] | str) -> MixGenerator:
    nodes = {name: node(kind) if isinstance(kind, str) else kind for name, kind in members.items()}
    return build({"_target_": MIX, "members": nodes, "weights": weights or {}}, "generator")


def names_of(structures: list[Atoms]) -> Counter[str]:
    return Counter(atoms.info["generator"] for atoms in structures)


# Generating


def test_every_member_is_asked_in_its_own_folder(tmp_path):
    structures = mix(a="Maker", b=node("Maker", symbol="P", surplus=3)).generate(9, ELEMENTS, CONDITIONS, 5, tmp_path)
    asked = {name: read_json(tmp_path / name / "asked.json") for name in ("a", "b")}
    assert names_of(structures) == {name: request["n"] for name, request in asked.items()}
    assert {len(structures), *(4 <= request["n"] <= 5 for request in asked.values())} == {9, True}
    assert all(request["conditions"] == CONDITIONS for request in asked.values())
    assert asked["a"]["seed"] != asked["b"]["seed"]
    assert {(atoms.info["generator"], str(atoms.symbols), atoms.info["operator"]) for atoms in structures} == {
        ("a", "Li", "made"),
        ("b", "P", "made"),
    }
    counts = read_json(tmp_path / "yield.json")
    assert (counts["attempts"], counts["rejected"], counts["cpu_seconds"]) == (27, {"too close": 18}, 1.0)
    assert counts["by_generator"]["a"] == {
        "attempts": 3 * asked["a"]["n"],
        "rejected": {"too close": 2 * asked["a"]["n"]},
        "cpu_seconds": 0.5,
        "warnings": [],
        "share": 0.5,
    }
    assert counts["failures"] == {}


def test_the_same_seed_gives_the_same_structures(tmp_path):
    first, second, other = (
        mix(a="Maker", b="Learner").generate(7, ELEMENTS, CONDITIONS, seed, tmp_path / str(k))
        for k, seed in enumerate((3, 3, 4))
    )
    assert first == second and names_of(first) == names_of(second)
    assert first != other


def test_weights_to_begin_with(tmp_path):
    generator = mix({"a": 8.0}, a="Maker", b="Maker", c="Maker")
    assert names_of(generator.generate(100, ELEMENTS, CONDITIONS, 0, tmp_path)) == {"a": 66, "b": 17, "c": 17}


def test_time_of_members_that_do_not_tell_it(tmp_path):
    assert mix(a="Silent", b="Silent").generate(4, ELEMENTS, CONDITIONS, 0, tmp_path) == []
    rows = read_json(tmp_path / "yield.json")["by_generator"]
    assert all(row["attempts"] == 2 and row["cpu_seconds"] > 0 for row in rows.values())


def test_what_members_warn_of_is_kept(tmp_path):
    generator = mix(a=node("Maker", warnings=["40 atoms asked for"]), b="Maker")
    generator.generate(4, ELEMENTS, CONDITIONS, 1, tmp_path)
    told = read_json(tmp_path / "yield.json")["by_generator"]
    assert told["a"]["warnings"] == ["40 atoms asked for"] and told["b"]["warnings"] == []


def test_it_understands_what_all_members_do():
    assert mix(a="Maker", b="Maker").understands == ("n_atoms", "energy_above_hull")
    assert mix(a="Maker", b="Learner").understands == ("n_atoms",)


# Learning


def rows(iteration: int, **found: tuple[int, float]) -> list[dict[str, Any]]:
    return [
        {
            "iteration": iteration,
            "generator": name,
            "n_proposed": 20,
            "n_valid": 18,
            "n_sun": n_sun,
            "cpu_seconds": seconds,
        }
        for name, (n_sun, seconds) in found.items()
    ]


def learn(generator: MixGenerator, folder: Path, achieved: list[dict[str, Any]], n: int = 2) -> MixGenerator:
    folder.mkdir(parents=True)
    write_json(folder / "achieved.json", achieved)
    return replace(generator, checkpoint=generator.finetune([Atoms("Li")] * n, folder, seed=1))


def test_weights_follow_what_was_achieved(tmp_path):
    begin = mix(a="Maker", b="Learner")
    untried = learn(begin, tmp_path / "0", [])
    assert read_json(tmp_path / "0/checkpoint/weights.json")["weights"] == {"a": 0.5, "b": 0.5}
    achieved = rows(1, a=(1, 600.0), b=(9, 600.0))
    learned = learn(untried, tmp_path / "1", achieved)
    state, metrics = (read_json(tmp_path / "1" / name) for name in ("checkpoint/weights.json", "metrics.json"))
    assert state["weights"]["b"] == pytest.approx(0.1 + 0.8 * beta(10, 2).sf(0.5), abs=0.01)
    assert state["evidence"] == {"a": {"n_sun": 1, "cpu_seconds": 600}, "b": {"n_sun": 9, "cpu_seconds": 600}}
    assert metrics == {
        "share_a": state["weights"]["a"],
        "share_b": state["weights"]["b"],
        "sun_per_cpu_hour_a": 6.0,
        "sun_per_cpu_hour_b": 54.0,
        "b_loss": 0.25,
        "n_failed_members": 0.0,
    }
    drawn = names_of(learned.generate(1000, ELEMENTS, CONDITIONS, 0, tmp_path / "g"))
    assert drawn["b"] == pytest.approx(1000 * state["weights"]["b"], abs=1)
    # the same finds give the same shares again
    learn(untried, tmp_path / "again", achieved)
    assert read_json(tmp_path / "again/checkpoint/weights.json") == state


def test_members_go_on_from_their_own_checkpoints(tmp_path):
    first = learn(mix(a="Maker", b="Learner"), tmp_path / "0", [], n=3)
    second = learn(first, tmp_path / "1", rows(1, a=(1, 9.0), b=(1, 9.0)), n=5)
    assert Path(second.checkpoint) == tmp_path / "1" / "checkpoint"
    assert (tmp_path / "1/checkpoint/b/learned.txt").read_text() == "3 structures, 0 rows\n5 structures, 1 rows\n"
    assert read_json(tmp_path / "1/checkpoint/weights.json")["checkpoints"] == {"b": "b/learned.txt"}
    # a folder that was moved is as good
    shutil.move(tmp_path / "1", tmp_path / "elsewhere")
    moved = replace(second, checkpoint=str(tmp_path / "elsewhere" / "checkpoint"))
    learn(moved, tmp_path / "2", [], n=7)
    assert (
        (tmp_path / "2/checkpoint/b/learned.txt").read_text().endswith("5 structures, 1 rows\n7 structures, 0 rows\n")
    )


def test_no_member_learns_from_operators_of_another(tmp_path):
    pool = [Atoms("Li", info={"generator": name, "operator": "exchange"}) for name in ("a", "b")]
    pool += [Atoms("Li", info={"role": "label"})]
    pool[0].calc = SinglePointCalculator(pool[0], energy=-1.0)
    write_json(tmp_path / "achieved.json", [])
    mix(a="Maker", b="Learner").finetune(pool, tmp_path, seed=1)
    assert read_json(tmp_path / "checkpoint/b/operators.json") == [None, "exchange", None]
    assert [atoms.info.get("operator") for atoms in pool] == ["exchange", "exchange", None]


def test_a_member_that_cannot_learn_now_keeps_what_it_had(tmp_path, capsys):
    generator = mix(a="Maker", b=node("Learner", patience=1))
    first = learn(generator, tmp_path / "0", [])
    second = learn(first, tmp_path / "1", rows(1, a=(0, 9.0), b=(0, 9.0)))
    state = read_json(tmp_path / "1/checkpoint/weights.json")
    assert state["checkpoints"] == {"b": "../../0/checkpoint/b/learned.txt"}
    assert state["failures"] == {"b": "out of patience"}
    assert state["weights"] == {"a": 0.5, "b": 0.5}
    assert read_json(tmp_path / "1/metrics.json")["n_failed_members"] == 1
    assert "generator.members.b could not learn and stays as it was: out of patience" in capsys.readouterr().out
    assert len(second.generate(4, ELEMENTS, CONDITIONS, 0, tmp_path / "g")) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"is no checkpoint of generator=mix, a folder with weights.json"),
        ("{", r"is no checkpoint of generator=mix"),
        ("[1, 2]", r"is no checkpoint of generator=mix"),
        ('{"weights": {"a": 1.0}}', r"is no checkpoint of generator=mix"),
        (
            '{"weights": {"a": 0.5, "z": 0.5}, "checkpoints": {}}',
            r"is of a mix of a, z, this one is of a, b: choose the same members, or null",
        ),
    ],
)
def test_checkpoints_of_something_else(tmp_path, content, message):
    if content is not None:
        (tmp_path / "weights.json").write_text(content)
    generator = replace(mix(a="Maker", b="Maker"), checkpoint=str(tmp_path))
    with pytest.raises(CheckpointError, match=message):
        generator.generate(1, ELEMENTS, CONDITIONS, 0, tmp_path)


# Configuration


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"members": {"a": node("Maker")}}, r"members = \['a'\]: a mix needs two or more; add one with \+generator@"),
        ({"members": {"a": node("Maker"), "b": {}}}, r"generator.members.b must name its component by _target_"),
        ({"members": {"a": node("Maker"), "b": 3}}, r"generator.members.b must name its component by _target_, got 3"),
        ({"members": {"a": node("Maker"), "b/c": node("Maker")}}, r"members has 'b/c': letters, digits and under"),
        (
            {"members": {"a": node("Maker"), "b": node("Maker", surplus=-1)}},
            r"^generator.members.b.surplus = -1: must be 0 or above$",
        ),
        (
            {"members": {"a": node("Maker"), "b": node("Maker", symbl="P")}},
            r"^unknown key generator.members.b.symbl; did you mean symbol\?",
        ),
        (
            {"members": {"a": node("Maker"), "b": node("Maker", python="/usr/bin/python3")}},
            r"generator.members.b.python = .*: all members run in one interpreter; set",
        ),
        (
            {
                "members": {
                    "a": node("Maker"),
                    "b": {
                        "_target_": MIX,
                        "members": {"c": node("Maker"), "d": node("Maker")},
                    },
                }
            },
            r"generator.members.b is a mix itself: add its members to this one instead",
        ),
        ({"weights": {"c": 1.0}}, r"generator.weights has c: must be one of a, b"),
        ({"weights": {"a": 0.0}}, r"generator.weights.a = 0.0: must be above 0"),
        ({"min_share": 0.6}, r"generator.min_share = 0.6: must be above 0 and at most 1/2, the even share"),
        ({"min_share": 0.0}, r"generator.min_share = 0.0: must be above 0"),
        ({"memory": 0.0}, r"generator.memory = 0.0: must be above 0"),
        ({"max_outside": 2.0}, r"generator.max_outside = 2.0: must be between 0 and 1"),
    ],
    ids=str,
)
def test_bad_values(values, message):
    given = {
        "_target_": MIX,
        "members": {"a": node("Maker"), "b": node("Maker")},
        **values,
    }
    with pytest.raises(ConfigError, match=message):
        build(given, "generator")


DEFAULT = {"random": "RandomGenerator", "evolution": "EvolutionGenerator", "substitution": "SubstitutionGenerator"}


@pytest.mark.parametrize(
    ("overrides", "members"),
    [
        ([], DEFAULT),
        (
            ["+generator@generator.members.larger=random", "generator.members.larger.max_atoms=20"],
            DEFAULT | {"larger": "RandomGenerator"},
        ),
        (
            ["generator@generator.members.evolution=random", "generator.members.evolution.max_atoms=20"],
            DEFAULT | {"evolution": "RandomGenerator"},
        ),
        (
            ["~generator@generator.members.evolution", "+generator@generator.members.larger=random"],
            {"random": "RandomGenerator", "substitution": "SubstitutionGenerator", "larger": "RandomGenerator"},
        ),
        (
            ["generator.members.random.max_atoms=20", "+generator.weights.random=3"],
            DEFAULT,
        ),
    ],
    ids=str,
)
def test_members_are_chosen_on_the_command_line(compose_config, overrides, members):
    config = compose_config("generator=mix", *overrides)
    generator = load(config).generator
    assert {name: type(member).__name__ for name, member in generator.members.items()} == members
    sizes = {name: member.max_atoms for name, member in generator.members.items()}
    asked = {key.split(".")[2]: 20 for key in overrides if "max_atoms" in key}
    assert sizes == sizes | asked and list(sizes.values()).count(20) == len(asked)
    assert generator.weights == ({"random": 3.0} if overrides and "weights" in overrides[-1] else {})
    assert json.dumps(config["generator"])


def test_real_members(compose_config, tmp_path):
    config = compose_config(
        "generator=mix", "generator@generator.members.evolution=random", "generator.members.evolution.max_atoms=20"
    )
    generator = load(config).generator
    structures = generator.generate(6, ELEMENTS, {"energy_above_hull": 0.0}, 1, tmp_path)
    assert names_of(structures) == {"random": 2, "evolution": 2, "substitution": 2}
    assert read_json(tmp_path / "yield.json")["by_generator"].keys() == DEFAULT.keys()
