"""The five contracts. A new option is one module that keeps one of these and one YAML that names it.

A structure is an `ase.Atoms`; its reserved keys are listed in `chemloop.physics.structures`.
Components are dataclasses: their fields are the schema of their YAML, `chemloop.config` checks it.
Importing a component's module must be cheap: backends are imported inside its methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from ase import Atoms


@dataclass
class Batch:
    """Structures in the form that one backend computes with.

    inputs: whatever the backend's `forward` needs, for all structures together
    numbers: (n_atoms,) atomic numbers of all atoms, structure after structure
    n_atoms: (n_structures,) atoms per structure
    """

    inputs: Any
    numbers: torch.Tensor
    n_atoms: torch.Tensor


class Prediction(NamedTuple):
    """energies (n_structures,) eV; forces (n_atoms, 3) eV/A; stresses (n_structures, 3, 3) eV/A^3, tension positive."""

    energies: torch.Tensor
    forces: torch.Tensor
    stresses: torch.Tensor


@runtime_checkable
class Potential(Protocol):
    """A force field in memory; a `torch.nn.Module`. Evaluation, relaxation, the ASE calculator and
    fine-tuning use nothing but these methods, so they are shared by all models.

    cutoff: A, the range within which an atom sees others in one message-passing step
    """

    cutoff: float

    def collate(self, structures: Sequence[Atoms]) -> Batch:
        """Structures of any sizes as one batch, on the device and in the dtype of the weights; they are not changed."""

    def forward(self, batch: Batch) -> Prediction:
        """Energies, forces and stresses; in training mode differentiable with respect to the weights."""

    def shift_energies(self, shifts: dict[int, float]) -> None:
        """Add a constant (eV) per atom of each atomic number to every energy, for good: `save` keeps it."""

    def save(self, path: Path) -> None:
        """Write a checkpoint that `ForceField.load` and the backend's own tools read back to identical predictions."""


class ForceField(Protocol):
    """A machine-learned force field (MLFF) as configured: `conf/model/NAME.yaml` + `chemloop/model/NAME.py`.

    checkpoint: its state, a name of pretrained weights or a path; null: no weights, the architecture of the YAML with
        random ones, the same at every `load`. `dataclasses.replace` makes the fine-tuned one
    can_learn: False where there are no weights to fine-tune; it is evaluated only
    """

    checkpoint: str | None
    can_learn: ClassVar[bool]

    def load(self, device: str, dtype: str) -> Potential:
        """The potential with the weights of `checkpoint`.

        Raises: WeightsUnavailable where named weights are not here and cannot be fetched; CheckpointError
        """


class Generator(Protocol):
    """Proposes crystals inside the chemical system: `conf/generator/NAME.yaml` + `chemloop/generator/NAME.py`.

    can_learn: False where `finetune` has no meaning for this generator. One that learns has a field
        `checkpoint: str | None`, the file or folder that `finetune` returned; `dataclasses.replace` makes the newer one
    understands: keys of `conditions` that mean something to it, e.g. ("energy_above_hull", "n_atoms")
    """

    can_learn: ClassVar[bool]
    understands: ClassVar[tuple[str, ...]]

    def generate(
        self, n: int, elements: Sequence[str], conditions: dict[str, float], seed: int, workdir: Path
    ) -> list[Atoms]:
        """At most n structures; fewer where some failed. The same seed gives the same structures.

        conditions: what they should be like: `energy_above_hull`, eV/atom, and, where a workflow asks for cells of one
            size, `n_atoms`; keys that it does not understand have no effect
        A structure may carry `operator` and `parents`, see `chemloop.physics.structures`; other keys are left behind.
        `yield.json` in workdir may count its `attempts`, by reason those `rejected`, e.g. {"too close": 7}, and
        `cpu_seconds`; one that calls others has these three for each of them under `by_generator` as well, and marks
        structures with its `generator`.

        Raises: ItemFailed where nothing came of it
        """

    def finetune(self, structures: Sequence[Atoms], workdir: Path, seed: int) -> str:
        """Learn; returns the new checkpoint, a file or folder in workdir.

        structures: with `id`, `role` and, but for lost ones, `e_above_hull` (eV/atom). `label`: relaxed by the labeler,
            the hull is that of all labels. `candidate`: screened, as the force field of their iteration relaxed them,
            with `is_stable`, `is_unique`, `is_novel` and what is known of their birth. A structure may be there in both
            of these roles. `lost`: candidates whose relaxation came to nothing or was given up.
        `achieved.json` in workdir lists for each iteration and generator `n_proposed`, `n_valid`, `n_sun` and the
        `cpu_seconds` of generating and relaxing; numbers that it leaves in `metrics.json` become the campaign's.

        Raises: ItemFailed
        """


class Labeler(Protocol):
    """Computes energies, forces and stresses at the campaign's level of theory.

    `write`, `command` and `read` are pure, so a code that needs a licence is testable without one;
    `run` executes what lies between them (`ExternalLabeler.run` starts `command` as a process).

    is_instant: its labels cost too little to say beforehand how much
    """

    is_instant: ClassVar[bool]

    @property
    def n_cores(self) -> int:
        """That one calculation keeps busy."""

    def settings_id(self) -> str:
        """The level of theory, e.g. `teacher-7net-0-1a2b3c4d`: labels with different ids never meet."""

    def relaxation_id(self) -> str:
        """What decides, beside the level of theory, where a relaxation ends: its threshold, its limit of steps.

        Single points do not depend on it, and labels of relaxations that differ in it mix. "" where there is nothing
        """

    def write(self, atoms: Atoms, kind: str, workdir: Path) -> None:
        """Inputs for one calculation; kind is `relax` (cell and positions) or `static`."""

    def command(self, workdir: Path) -> list[str]:
        """The process that computes it, to be started in `workdir`."""

    def run(self, workdir: Path) -> None:
        """Compute it."""

    def n_ionic_steps(self, workdir: Path) -> int:
        """How far a relaxation has come that was interrupted, in steps that the next attempt need not compute."""

    def read(self, workdir: Path) -> list[Atoms]:
        """Ionic steps, first to last, as frames; the last one of a relaxation carries `converged`.

        Raises: ItemFailed
        """


class Selection(NamedTuple):
    """indices: into the candidates, best first; scores: one number per index, in the selector's own measure."""

    indices: np.ndarray
    scores: np.ndarray


class Selector(Protocol):
    """Chooses structures: which candidates are labelled, which frames train."""

    def select(self, candidates: Sequence[Atoms], reference: Sequence[Atoms], n: int, seed: int) -> Selection:
        """At most n of the candidates, given what is there already (reference)."""


class Task(Protocol):
    """A property computed with the finished force field."""

    def run(self, atoms: Atoms, potential: Potential, workdir: Path, seed: int) -> dict[str, Any]:
        """One structure."""

    def collect(self, rows: Sequence[dict[str, Any]], workdir: Path) -> dict[str, float]:
        """All structures together: metrics, tables, figures."""
