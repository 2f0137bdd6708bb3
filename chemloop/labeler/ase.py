"""Labels from any ASE calculator, in the worker's own process: starting one process per calculation would cost more
than most of these calculations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from chemloop.labeler.external import KINDS, check_kind
from chemloop.model.ase import build_calculator, digest
from chemloop.physics.structures import read_structures, set_results, write_structures
from chemloop.runtime.errors import ConfigError, ItemFailed


@dataclass
class InProcessLabeler(ABC):
    """fmax: eV/A at which a relaxation is converged; max_steps: ionic steps after which it is not.

    remembers_steps: whether a relaxation that was interrupted goes on from its last ionic step; not worth it where a
        step takes less time than a file
    """

    is_instant: ClassVar[bool] = False
    n_cores: ClassVar[int] = 1
    remembers_steps: ClassVar[bool] = False

    fmax: float = 0.05
    max_steps: int = 200

    def __post_init__(self) -> None:
        if self.fmax <= 0:
            raise ConfigError(f"labeler.fmax = {self.fmax:g}: must be above 0 eV/A")
        if self.max_steps < 1:
            raise ConfigError(f"labeler.max_steps = {self.max_steps}: must be 1 or above")

    @abstractmethod
    def settings_id(self) -> str:
        """The level of theory, from the calculator and its arguments."""

    def relaxation_id(self) -> str:
        return digest(self.fmax, self.max_steps)

    @abstractmethod
    def build_calculator(self) -> Calculator:
        """The ASE calculator that computes the labels."""

    def write(self, atoms: Atoms, kind: str, workdir: Path) -> None:
        """One structure in `relax.extxyz` or `static.extxyz`."""
        check_kind(kind)
        write_structures(workdir / f"{kind}.extxyz", [atoms])

    def command(self, workdir: Path) -> list[str]:
        """Nothing to start: `run` computes in this process."""
        return []

    def run(self, workdir: Path) -> None:
        """Relax, or compute once, and write `frames.extxyz`.

        Raises: ItemFailed when the structure explodes, collapses, or gets numbers that are not finite
        """
        from chemloop.labeler.ionic_steps import StepFolder, continued_trajectory
        from chemloop.physics.relaxation import relax_trajectory

        kind = next(kind for kind in KINDS if (workdir / f"{kind}.extxyz").exists())
        (atoms,) = read_structures(workdir / f"{kind}.extxyz")
        n_steps = self.max_steps if kind == "relax" else 0
        calculator = self.build_calculator()
        if self.remembers_steps:
            frames = continued_trajectory(atoms, calculator, self.fmax, n_steps, StepFolder(workdir / "steps"))
        else:
            frames = relax_trajectory(atoms, calculator, self.fmax, n_steps)
        for frame in frames:
            results = frame.get_potential_energy(), frame.get_forces(), frame.get_stress(voigt=False)
            set_results(frame, "label", *results, self.settings_id())
            frame.calc = None
        write_structures(workdir / "frames.extxyz", frames)

    def n_ionic_steps(self, workdir: Path) -> int:
        from chemloop.labeler.ionic_steps import StepFolder

        return len(StepFolder(workdir / "steps"))

    def read(self, workdir: Path) -> list[Atoms]:
        """Ionic steps, first to last."""
        return read_structures(workdir / "frames.extxyz")


class ReportingCalculator(Calculator):
    """Another calculator that can fail for one structure: calculators raise what they like, and an error of the system
    would stop the campaign.

    Raises: ItemFailed where the other one raises anything
    """

    def __init__(self, calculator: Calculator, target: str):
        super().__init__()
        self.calculator = calculator
        self.target = target
        self.implemented_properties = calculator.implemented_properties

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy",), changes: Sequence[str] = all_changes
    ) -> None:
        super().calculate(atoms, properties, changes)
        assert self.atoms is not None
        copy = self.atoms.copy()
        copy.calc = self.calculator
        try:
            self.results = {"forces": copy.get_forces(), "energy": copy.get_potential_energy()}
            if "free_energy" in self.implemented_properties:
                self.results["free_energy"] = copy.get_potential_energy(force_consistent=True)
            self.results["stress"] = copy.get_stress()
        except Exception as error:
            raise ItemFailed(f"{self.target} failed on {copy.symbols}: {type(error).__name__} {error}") from error


@dataclass
class AseLabeler(InProcessLabeler):
    """calculator: `_target_`, the class of an ASE calculator, and its arguments; paths among them are absolute."""

    remembers_steps: ClassVar[bool] = True

    calculator: dict[str, Any] = field(default_factory=dict)

    def settings_id(self) -> str:
        return f"ase-{digest(self.calculator)}"

    def build_calculator(self) -> Calculator:
        calculator = build_calculator(self.calculator, "labeler.calculator")
        return ReportingCalculator(calculator, str(self.calculator["_target_"]))

    def run(self, workdir: Path) -> None:
        """As above, in `workdir`, where calculators leave their own files."""
        folder = workdir.resolve()
        with chdir(folder):
            super().run(folder)
