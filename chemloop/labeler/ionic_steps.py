"""A relaxation that outlives its process: every ionic step is on disk before the next one begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from chemloop.physics.relaxation import relax_trajectory
from chemloop.physics.structures import read_structures, set_results, write_structures

FRAME = "in progress"


@dataclass
class StepFolder:
    """`steps/0000.extxyz` and so on, one per ionic step, each whole or not there.

    writes: False where another process of the same calculation does
    """

    folder: Path
    writes: bool = True

    def __len__(self) -> int:
        return len(list(self.folder.glob("*.extxyz")))

    def read(self) -> list[Atoms]:
        """The steps so far, results in a `SinglePointCalculator`."""
        frames = [atoms for path in sorted(self.folder.glob("*.extxyz")) for atoms in read_structures(path)]
        for frame in frames:
            frame.calc = SinglePointCalculator(
                frame,
                energy=frame.info.pop("label_energy"),
                forces=frame.arrays.pop("label_forces"),
                stress=full_3x3_to_voigt_6_stress(frame.info.pop("label_stress")),
            )
            del frame.info["energy_frame"]
        return frames

    def append(self, number: int, atoms: Atoms, results: dict[str, Any]) -> None:
        if not self.writes:
            return
        self.folder.mkdir(exist_ok=True)
        frame = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
        set_results(frame, "label", results["energy"], results["forces"], results["stress_tensor"], FRAME)
        write_structures(self.folder / f"{number:04d}.extxyz", [frame])


class RememberingCalculator(Calculator):
    """Another calculator whose every result is stored, and whose last stored one need not be computed again.

    The energy is the free energy where the other one has it: the forces are its derivatives.
    """

    implemented_properties = ["energy", "forces", "stress"]

    def __init__(self, calculator: Calculator, steps: StepFolder, earlier: Sequence[Atoms]):
        super().__init__()
        self.calculator = calculator
        self.steps = steps
        self.n_steps = len(earlier)
        self.last = earlier[-1] if earlier else None

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy",), changes: Sequence[str] = all_changes
    ) -> None:
        super().calculate(atoms, properties, changes)
        assert self.atoms is not None
        if self.last is not None and _is_same(self.last, self.atoms):
            self.results = dict(self.last.calc.results)
            return
        copy = self.atoms.copy()
        copy.calc = self.calculator
        forces = copy.get_forces()
        has_free = "free_energy" in getattr(self.calculator, "implemented_properties", ())
        energy = copy.get_potential_energy(force_consistent=has_free)
        stress = copy.get_stress(voigt=False)
        self.results = {"energy": energy, "forces": forces, "stress": full_3x3_to_voigt_6_stress(stress)}
        self.steps.append(self.n_steps, copy, {**self.results, "stress_tensor": stress})
        self.n_steps += 1


def continued_trajectory(
    atoms: Atoms, calculator: Calculator, fmax: float, max_steps: int, steps: StepFolder
) -> list[Atoms]:
    """`relax_trajectory` from the last ionic step that an earlier attempt stored; its frames come first.

    Raises: ItemFailed where the structure is rejected
    """
    earlier = steps.read()
    start = atoms
    if earlier:
        start = atoms.copy()
        start.set_cell(earlier[-1].cell)
        start.positions = earlier[-1].positions
    remembering = RememberingCalculator(calculator, steps, earlier)
    left = max(max_steps - max(len(earlier) - 1, 0), 0)
    return earlier[:-1] + relax_trajectory(start, remembering, fmax, left)


def _is_same(a: Atoms, b: Atoms) -> bool:
    return np.allclose(a.positions, b.positions, rtol=0, atol=1e-9) and np.allclose(
        a.cell.array, b.cell.array, rtol=0, atol=1e-9
    )
