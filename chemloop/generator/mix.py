"""Several generators as one; each has the share of structures that it earns by finds per CPU second."""

from __future__ import annotations

import math
import os
import re
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from ase import Atoms

from chemloop.generator.bandit import apportion, evidence_of, shares_of, with_floor, with_lost_places
from chemloop.generator.tally import YIELD, Tally, write_yield
from chemloop.physics.validity import OUTSIDE
from chemloop.protocols import Generator
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import CheckpointError, ChemLoopError, ConfigError, ItemFailed
from chemloop.runtime.item import derived_seed
from chemloop.runtime.process import cpu_seconds

ACHIEVED = "achieved.json"
METRICS = "metrics.json"
CHECKPOINT = "checkpoint"
WEIGHTS = "weights.json"
FAILED = "member failed"
LEAST = 5
"""Structures of a member in an item, below which those outside the system are left out but do not make it fail."""


@dataclass
class MixGenerator:
    """Several generators as configured: `conf/generator/mix.yaml`.

    members: by a name of one's own the node of any other generator, with its `_target_`
    weights: of members before anything has been achieved; 1 for those not named
    min_share: of the structures, for every member, however little it finds
    memory: what an iteration counts for beside the one after it
    max_outside: fraction of structures with other elements, above which a member counts as failed; judged by 5 or more
    checkpoint: a folder that `finetune` left; null: the weights above, and members that have learned nothing
    """

    can_learn: ClassVar[bool] = True

    members: dict[str, Any]
    weights: dict[str, float] = field(default_factory=dict)
    min_share: float = 0.1
    memory: float = 0.7
    max_outside: float = 0.5
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise ConfigError(
                f"generator.members = {list(self.members)}: a mix needs two or more; add one with"
                " +generator@generator.members.NAME=OPTION, or choose generator=OPTION"
            )
        self.members = {name: _built(name, member) for name, member in self.members.items()}
        for name, weight in self.weights.items():
            if name not in self.members:
                raise ConfigError(f"generator.weights has {name}: must be one of {', '.join(self.members)}")
            if not 0 < weight < math.inf:
                raise ConfigError(f"generator.weights.{name} = {weight}: must be above 0; ~ takes a member out")
        if not 0 < self.min_share <= 1 / len(self.members):
            raise ConfigError(
                f"generator.min_share = {self.min_share}: must be above 0 and at most 1/{len(self.members)}, the even"
                f" share of {len(self.members)} members"
            )
        if not 0 < self.memory <= 1:
            raise ConfigError(
                f"generator.memory = {self.memory}: must be above 0, and 1 at most (nothing is forgotten)"
            )
        if not 0 <= self.max_outside <= 1:
            raise ConfigError(f"generator.max_outside = {self.max_outside}: must be between 0 and 1")

    @property
    def understands(self) -> tuple[str, ...]:
        """The conditions that every member keeps."""
        first, *others = (member.understands for member in self.members.values())
        return tuple(key for key in first if all(key in other for other in others))

    def generate(
        self, n: int, elements: Sequence[str], conditions: dict[str, float], seed: int, workdir: Path
    ) -> list[Atoms]:
        """At most n structures, each with the name of its member as `generator`.

        Each member works in a folder of its own in `workdir`. What one that fails was asked for, the others are asked
        for in its place; `yield.json` counts it and has its reason.

        Raises: ItemFailed where all members fail; CheckpointError
        """
        state = self._state()
        active = self._learned(state)
        structures: list[Atoms] = []
        tallies = {name: Tally() for name in active}
        failures: dict[str, ItemFailed] = {}
        missing, part = n, 0
        while missing:
            if not active:
                reasons = "; ".join(f"{name}: {error}" for name, error in failures.items())
                is_retryable = any(error.retryable for error in failures.values())
                raise ItemFailed(f"all members of generator=mix failed: {reasons}", is_retryable)
            shares = apportion(missing, {name: state.weights[name] for name in active}, derived_seed(seed, part))
            missing = 0
            for name, share in shares.items():
                begin, folder = cpu_seconds(), workdir / (name if part == 0 else f"{name}.{part}")
                try:
                    made = self._ask(active[name], share, elements, conditions, derived_seed(seed, name, part), folder)
                    inside = self._inside(made, elements)
                except Exception as error:
                    failures[name] = _failure(error)
                    print(f"generator.members.{name} failed, the others do its part: {failures[name]}", flush=True)
                    tallies[name].add({"attempts": share, "rejected": {FAILED: share}}, cpu_seconds() - begin)
                    missing += share
                    del active[name]
                    continue
                counts: dict[str, Any]
                counts = read_json(folder / YIELD) if (folder / YIELD).exists() else {"attempts": share, "rejected": {}}
                outside = Counter({OUTSIDE: len(made) - len(inside)})
                counts["rejected"] = dict(+(Counter(counts["rejected"]) + outside))
                tallies[name].add(counts, cpu_seconds() - begin)
                for atoms in inside:
                    atoms.info["generator"] = name
                structures += inside
            part += 1
        write_yield(workdir / YIELD, tallies, state.weights, failures)
        return structures

    def _ask(
        self,
        member: Generator,
        n: int,
        elements: Sequence[str],
        conditions: Mapping[str, float],
        seed: int,
        folder: Path,
    ) -> list[Atoms]:
        """At most n structures of one member. Raises whatever the member raises."""
        if n == 0:
            return []
        folder.mkdir(parents=True, exist_ok=True)
        return member.generate(n, elements, dict(conditions), seed, folder)[:n]

    def _inside(self, made: Sequence[Atoms], elements: Sequence[str]) -> list[Atoms]:
        """Those of the system's elements alone.

        Raises: ItemFailed where too many have others, of enough to tell
        """
        inside = [atoms for atoms in made if set(atoms.symbols) <= set(elements)]
        n_outside = len(made) - len(inside)
        if len(made) >= LEAST and n_outside > self.max_outside * len(made):
            raise ItemFailed(
                f"{n_outside} of {len(made)} structures have other elements than {', '.join(elements)};"
                f" generator.max_outside allows {self.max_outside:g} of them"
            )
        return inside

    def finetune(self, structures: Sequence[Atoms], workdir: Path, seed: int) -> str:
        """The folder of new weights, by `achieved.json` in workdir, and new checkpoints of the members that learn.

        A member that cannot learn now keeps what it had. `metrics.json` has shares and S.U.N. per CPU hour.
        """
        before = self._state()
        achieved = read_json(workdir / ACHIEVED) if (workdir / ACHIEVED).exists() else []
        folder = workdir / CHECKPOINT
        folder.mkdir(parents=True, exist_ok=True)
        metrics: dict[str, float] = {}
        checkpoints, failures = {}, {}
        for name, member in self._learned(before).items():
            if not member.can_learn:
                continue
            own = folder / name
            own.mkdir(exist_ok=True)
            write_json(own / ACHIEVED, [row for row in achieved if row["generator"] == name])
            try:
                pool = [without_operator(atoms, name) for atoms in structures]
                checkpoints[name] = member.finetune(pool, own, derived_seed(seed, name))
            except Exception as error:
                failures[name] = str(_failure(error))
                print(f"generator.members.{name} could not learn and stays as it was: {failures[name]}", flush=True)
                if name in before.checkpoints:
                    checkpoints[name] = before.checkpoints[name]
            if (own / METRICS).exists():
                metrics |= {f"{name}_{key}": value for key, value in read_json(own / METRICS).items()}
        evidence = evidence_of(achieved, list(self.members), self.memory)
        paid = evidence_of(with_lost_places(achieved), list(self.members), self.memory)
        weights = with_floor(shares_of(paid, seed) or self._first_weights(), self.min_share)
        for name, found in evidence.items():
            metrics[f"share_{name}"] = weights[name]
            if found.cpu_seconds > 0:
                metrics[f"sun_per_cpu_hour_{name}"] = 3600 * found.n_sun / found.cpu_seconds
        metrics["n_failed_members"] = float(len(failures))
        write_json(workdir / METRICS, metrics)
        state = {
            "weights": weights,
            "checkpoints": {name: os.path.relpath(path, folder) for name, path in checkpoints.items()},
            "evidence": {name: found._asdict() for name, found in evidence.items()},
            "failures": failures,
        }
        write_json(folder / WEIGHTS, state)
        return str(folder)

    def _first_weights(self) -> dict[str, float]:
        return {name: self.weights.get(name, 1.0) for name in self.members}

    def _state(self) -> _State:
        """Shares of the members and where their checkpoints are.

        Raises: CheckpointError
        """
        if self.checkpoint is None:
            return _State(with_floor(self._first_weights(), self.min_share), {})
        folder = Path(self.checkpoint)
        try:
            content = read_json(folder / WEIGHTS)
            state = _State(content["weights"], {k: str(folder / path) for k, path in content["checkpoints"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"generator.checkpoint = {folder} is no checkpoint of generator=mix, a folder with {WEIGHTS} ({error});"
                " give one, or null"
            ) from error
        if state.weights.keys() != self.members.keys():
            raise CheckpointError(
                f"generator.checkpoint = {folder} is of a mix of {', '.join(state.weights)}, this one is of"
                f" {', '.join(self.members)}: choose the same members, or null"
            )
        return state

    def _learned(self, state: _State) -> dict[str, Generator]:
        """The members with their newest checkpoints."""
        return {
            name: replace(member, checkpoint=state.checkpoints[name]) if name in state.checkpoints else member
            for name, member in self.members.items()
        }


def without_operator(atoms: Atoms, name: str) -> Atoms:
    """The structure as member `name` learns from it: operators of others may be called like its own."""
    if "operator" not in atoms.info or atoms.info.get("generator") == name:
        return atoms
    copy = atoms.copy()
    copy.calc = atoms.calc
    del copy.info["operator"]
    return copy


def _failure(error: Exception) -> ItemFailed:
    """Why a member failed, without what it held in memory; one that was not foreseen leaves its traceback in the log.

    It costs the member alone, as it would cost the item alone in a worker: one that runs out of memory or has a fault
    takes nothing from the others.
    Raises: OSError itself, for a full disk fails them all
    """
    if isinstance(error, OSError):
        raise error
    if isinstance(error, (ItemFailed, ChemLoopError)):
        return ItemFailed(str(error), getattr(error, "retryable", False))
    traceback.print_exception(error)
    return ItemFailed(f"{type(error).__name__}: {error}")


class _State(NamedTuple):
    weights: dict[str, float]
    checkpoints: dict[str, str]


def _built(name: str, member: Any) -> Any:
    """A member's component; `dataclasses.replace` hands over those that are built."""
    if hasattr(member, "generate"):
        return member
    from chemloop.config import build, has_python

    key = f"generator.members.{name}"
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise ConfigError(f"generator.members has {name!r}: letters, digits and underscore are allowed")
    if has_python(member):
        raise ConfigError(
            f"{key}.python = {member['python']}: all members run in one interpreter; set generator.python"
        )
    try:
        built = build(member, key)
    except ConfigError as error:
        # A component names its keys as if it were the generator itself.
        raise ConfigError(re.sub(r"\bgenerator\.(?!members\b)", f"{key}.", str(error))) from error
    if isinstance(built, MixGenerator):
        raise ConfigError(f"{key} is a mix itself: add its members to this one instead")
    return built
