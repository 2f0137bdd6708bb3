"""Generators that do what a test needs; workers import them from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from ase import Atoms

from chemloop.generator.random import RandomGenerator
from chemloop.runtime.disk import read_json, write_json


@dataclass
class LearningGenerator(RandomGenerator):
    """Random crystals whose operator counts how often it has learned; their parents are the lowest it learned from."""

    can_learn: ClassVar[bool] = True
    checkpoint: str | None = None

    def generate(
        self, n: int, elements: Sequence[str], conditions: dict[str, float], seed: int, workdir: Path
    ) -> list[Atoms]:
        # its checkpoint is of another kind than theirs
        made = RandomGenerator.generate(replace(self, checkpoint=None), n, elements, conditions, seed, workdir)
        state = self._state()
        for atoms in made:
            atoms.info.update(operator=f"lesson {state['n_lessons']}", parents=" ".join(state["lowest"]))
        return made

    def finetune(self, structures: Sequence[Atoms], workdir: Path, seed: int) -> str:
        lowest = sorted(structures, key=lambda atoms: (atoms.info["e_above_hull"], atoms.info["id"]))[:2]
        n_lessons = self._state()["n_lessons"] + 1
        folder = workdir / "learned"
        folder.mkdir(exist_ok=True)
        write_json(folder / "state.json", {"n_lessons": n_lessons, "lowest": [atoms.info["id"] for atoms in lowest]})
        write_json(workdir / "metrics.json", {"n_lessons": n_lessons})
        return str(folder)

    def _state(self) -> dict:
        return read_json(Path(self.checkpoint) / "state.json") if self.checkpoint else {"n_lessons": 0, "lowest": []}


@dataclass
class ScriptedGenerator:
    """What it was given, in order, at most n at a time; each call is noted."""

    can_learn: ClassVar[bool] = False
    understands: ClassVar[tuple[str, ...]] = ()

    structures: list[Atoms]
    calls: list[tuple[int, int, Path]] = field(default_factory=list)
    counts: dict | None = None

    def generate(
        self, n: int, elements: Sequence[str], conditions: dict[str, float], seed: int, workdir: Path
    ) -> list[Atoms]:
        start = sum(call[0] for call in self.calls)
        self.calls.append((n, seed, workdir))
        if self.counts is not None:
            write_json(workdir / "yield.json", self.counts)
        return self.structures[start : start + n]

    def finetune(self, structures: Sequence[Atoms], workdir: Path, seed: int) -> str:
        raise NotImplementedError
