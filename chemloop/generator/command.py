"""Any external program as generator: a command with placeholders, a request it reads, files of structures it writes."""

from __future__ import annotations

import math
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from chemloop.generator.command_folder import (
    LOG,
    REQUEST,
    check_placeholders,
    fill,
    placeholders,
    prepare,
    read_outputs,
)
from chemloop.generator.random import is_neutral, whole_number
from chemloop.physics.composition import MAX_COMPOSITIONS, cell_compositions, composition_probabilities, n_compositions
from chemloop.physics.structures import write_structures
from chemloop.runtime.disk import write_json
from chemloop.runtime.errors import CheckpointError, ConfigError, ItemFailed
from chemloop.runtime.process import cpu_seconds, last_lines, run_program

STRUCTURES = "structures.extxyz"
GENERATE = (
    *("n", "elements", "formula", "seed", "request", "workdir", "checkpoint"),
    *("min_atoms", "max_atoms", "energy_above_hull", "python"),
)
"""Placeholders of `command` and `inputs`."""
FINETUNE = ("structures", "seed", "request", "workdir", "checkpoint", "python")
"""Placeholders of `finetune_command`."""
NOT_FOUND = 127  # the exit code of a shell that finds no such program
SURPLUS = "beyond what was asked for"
FAILED_RUN = "failed run"


@dataclass
class CommandGenerator:
    """An external generator as configured: `conf/generator/command.yaml`."""

    command: list[str]
    outputs: str = STRUCTURES
    format: str | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    directory: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    timeout_min: float = 60.0
    min_atoms: int = 1
    max_atoms: int = 40
    n_per_formula: int = 8
    understands: list[str] = field(default_factory=list)
    install: str = "give the path of a program, or put it on the PATH"
    checkpoint: str | None = None
    finetune_command: list[str] = field(default_factory=list)
    finetuned: str = "checkpoint*"

    def __post_init__(self) -> None:
        if not self.command:
            raise ConfigError("generator.command is empty: give a program and its arguments as a list")
        check_placeholders([*self.command, *self.inputs.values()], GENERATE, "generator.command")
        check_placeholders(self.finetune_command, FINETUNE, "generator.finetune_command")
        for key, names in (("outputs", [self.outputs]), ("finetuned", [self.finetuned]), ("inputs", self.inputs)):
            for name in names:
                if not name or Path(name).is_absolute() or ".." in Path(name).parts:
                    raise ConfigError(f"generator.{key} has {name!r}: must be a path inside the command's folder")
        if not 0 < self.timeout_min < math.inf:
            raise ConfigError(f"generator.timeout_min = {self.timeout_min:g}: must be above 0")
        for key in ("min_atoms", "n_per_formula"):
            if getattr(self, key) < 1:
                raise ConfigError(f"generator.{key} = {getattr(self, key)}: must be 1 or above")
        if self.max_atoms < self.min_atoms:
            raise ConfigError(
                f"generator.max_atoms = {self.max_atoms}: must be generator.min_atoms = {self.min_atoms} or above"
            )

    @property
    def can_learn(self) -> bool:
        """Whether a command is given that makes a new checkpoint."""
        return bool(self.finetune_command)

    def generate(
        self, n: int, elements: Sequence[str], conditions: dict[str, float], seed: int, workdir: Path
    ) -> list[Atoms]:
        """At most n structures, as the command wrote them: what they are worth is for others to check.

        Where the command takes a formula it runs once for every `n_per_formula` structures, each time with another one.
        conditions: all are in the request; n_atoms takes the place of min_atoms and max_atoms. `yield.json` in
        `workdir` counts what could not be read.

        Raises: ConfigError where the command cannot be started; CheckpointError; ItemFailed where it runs for too
            long, ends with another exit code than 0, or writes nothing that can be read
        """
        begin = cpu_seconds()
        structures: list[Atoms] = []
        rejected: Counter[str] = Counter()
        failures: list[ItemFailed] = []
        requests = self._requests(n, elements, conditions, seed)
        for number, request in enumerate(requests):
            try:
                made, unusable = self._run(workdir.resolve() / f"run-{number:02d}", request)
            except ItemFailed as error:
                print(error.reason)
                failures.append(error)
            else:
                structures += made
                rejected += unusable
        if len(failures) == len(requests):
            raise failures[0]
        rejected += Counter({SURPLUS: max(0, len(structures) - n), FAILED_RUN: len(failures)})
        report = {"attempts": len(structures[:n]) + rejected.total(), "rejected": dict(rejected)}
        write_json(workdir / "yield.json", report | {"cpu_seconds": cpu_seconds() - begin})
        return structures[:n]

    def finetune(self, structures: Sequence[Atoms], workdir: Path, seed: int) -> str:
        """The checkpoint that `finetune_command` leaves, for the next request.

        Raises: as `generate`
        """
        if not self.finetune_command:
            raise ConfigError(
                "generator=command cannot be fine-tuned without generator.finetune_command; give one, or choose a"
                " generator that learns, such as mattergen"
            )
        folder = workdir.resolve() / "run-00"
        request = {"version": 1, "structures": str(folder / STRUCTURES), "seed": seed, "checkpoint": self._checkpoint()}
        prepare(folder, request, {})
        write_structures(folder / STRUCTURES, structures)
        values = request | {"request": folder / REQUEST, "workdir": folder, "python": sys.executable}
        self._start([fill(word, values, "generator.finetune_command") for word in self.finetune_command], folder)
        found = sorted(folder.glob(self.finetuned))
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise ItemFailed(
                f"generator.finetune_command must leave one file or folder {self.finetuned} (generator.finetuned) in"
                f" {folder}, it left {names}"
            )
        return str(found[0])

    def _requests(
        self, n: int, elements: Sequence[str], conditions: dict[str, float], seed: int
    ) -> list[dict[str, Any]]:
        """What each run is asked for: one for all, or one for each formula."""
        sizes = (self.min_atoms, self.max_atoms)
        if "n_atoms" in conditions:
            sizes = (whole_number(conditions["n_atoms"]),) * 2
        request: dict[str, Any] = {
            "version": 1,
            "n": n,
            "elements": list(elements),
            "formula": None,
            "conditions": {key: float(value) for key, value in conditions.items()},
            "seed": seed,
            "min_atoms": sizes[0],
            "max_atoms": sizes[1],
            "checkpoint": self._checkpoint(),
        }
        if not any("formula" in placeholders(text, "") for text in (*self.command, *self.inputs.values())):
            return [request]
        formulas = draw_formulas(math.ceil(n / self.n_per_formula), elements, *sizes, seed)
        return [
            request | {"n": min(self.n_per_formula, n - k * self.n_per_formula), "formula": formula, "seed": seed + k}
            for k, formula in enumerate(formulas)
        ]

    def _run(self, folder: Path, request: Mapping[str, Any]) -> tuple[list[Atoms], Counter[str]]:
        """What one run of the command wrote, and how much of it is unusable."""
        values = dict(request) | {
            "elements": ",".join(request["elements"]),
            "energy_above_hull": request["conditions"].get("energy_above_hull"),
            "request": folder / REQUEST,
            "workdir": folder,
            "python": sys.executable,
        }
        words = [fill(word, values, "generator.command") for word in self.command]
        prepare(folder, request, {name: fill(text, values, "generator.inputs") for name, text in self.inputs.items()})
        self._start(words, folder)
        return read_outputs(folder, self.outputs, self.format)

    def _start(self, words: Sequence[str], folder: Path) -> None:
        """Run a command to a good end; what it prints is kept in its folder and printed.

        Raises: ConfigError, ItemFailed
        """
        directory = folder if self.directory is None else Path(self.directory).expanduser().resolve()
        if not directory.is_dir():
            raise ConfigError(f"generator.directory = {self.directory}: there is no such folder; {self.install}")
        if shutil.which(words[0]) is None and not (directory / words[0]).is_file():
            raise ConfigError(f"generator.command starts {words[0]}, which is not on this machine; {self.install}")
        log = folder / LOG
        try:
            code = run_program(words, directory, log, self.timeout_min * 60, self.environment)
        except OSError as error:
            raise ConfigError(f"generator.command starts {words[0]}, which does not run ({error})") from error
        print(log.read_text(errors="replace"), end="", flush=True)
        where = f"last lines: {last_lines(log)} (log: {log})"
        if code is None:
            raise ItemFailed(f"stopped after generator.timeout_min = {self.timeout_min:g} min; {where}", retryable=True)
        if code != 0:
            what = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
            hint = f"; {self.install}" if code == NOT_FOUND else ""
            raise ItemFailed(f"the command of generator=command failed: {what}{hint}; {where}")

    def _checkpoint(self) -> str | None:
        if self.checkpoint is None:
            return None
        path = Path(self.checkpoint).expanduser().resolve()
        if not path.exists():
            raise CheckpointError(
                f"generator.checkpoint = {self.checkpoint}: there is no such file or folder; {self.install}"
            )
        return str(path)


def draw_formulas(n: int, elements: Sequence[str], min_atoms: int, max_atoms: int, seed: int) -> list[str]:
    """n formulas such as Li6P2S8, of at least two of the elements, neutral where oxidation states allow it.

    Half of them have all elements, where that is possible; subsystems of fewer share the other half. Within a subsystem
    all numbers of atoms are equally likely, and of one number all compositions.

    Raises: ConfigError where no composition has the allowed size
    """
    if n_compositions(len(elements), max_atoms) > MAX_COMPOSITIONS:
        raise ConfigError(
            f"generator.max_atoms = {max_atoms} allows more than {MAX_COMPOSITIONS} compositions of {len(elements)}"
            " elements; lower it"
        )
    counts = cell_compositions(len(elements), min_atoms, max_atoms)
    counts = counts[(counts > 0).sum(axis=1) >= min(2, len(elements))]
    neutral = counts[is_neutral(counts, elements)] if len(counts) else counts
    counts = neutral if len(neutral) else counts
    if not len(counts):
        raise ConfigError(
            f"no composition of {', '.join(elements)} has {min_atoms} to {max_atoms} atoms; change generator.min_atoms"
            " or generator.max_atoms"
        )
    largest = int((counts > 0).sum(axis=1).max())
    shares = [0.0] * min(1, largest - 1) + [0.5 / max(1, largest - 2)] * max(0, largest - 2) + [0.5]
    chances = composition_probabilities(counts, shares, np.ones(len(counts)))
    rng = np.random.default_rng(seed)
    drawn = counts[rng.choice(len(counts), n, p=chances)]
    return ["".join(f"{e}{k}" for e, k in zip(elements, row, strict=True) if k) for row in drawn]
