"""A relaxation that outlives its process: every ionic step is on disk before the next one begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from chemloop.physics.relaxation import relax_trajectory
from chemloop.runtime.disk import read_json, write_json

FRAME = "in progress"
RESULTS = ("energy", "forces", "stress")


@dataclass
class StepFolder:
    """`steps/0000.json` and so on, one per ionic step, each whole or not there, with every digit.

    writes: False where another process of the same calculation does
    """

    folder: Path
    writes: bool = True

    def __len__(self) -> int:
        return len(list(self.folder.glob("*.json")))

    def read(self) -> list[dict[str, np.ndarray]]:
        """Positions (n_atoms, 3) A, cell (3, 3) A, energy eV, forces (n_atoms, 3) eV/A and stress (6,) eV/A^3 of each
        step so far."""
        steps = [read_json(path) for path in sorted(self.folder.glob("*.json"))]
        return [{key: np.array(value) for key, value in step.items()} for step in steps]

    def put(self, number: int, atoms: Atoms, results: dict[str, Any]) -> None:
        """Store a step; those that followed another one of this number are no longer of this relaxation."""
        if not self.writes:
            return
        self.folder.mkdir(exist_ok=True)
        for path in sorted(self.folder.glob("*.json"))[number:]:
            path.unlink()
        step = {"positions": atoms.positions, "cell": atoms.cell.array, **results}
        write_json(self.folder / f"{number:04d}.json", {key: np.asarray(value).tolist() for key, value in step.items()})


class RememberingCalculator(Calculator):
    """Another calculator whose every result is stored, and which is not asked again for those of an earlier attempt.

    The energy is the free energy where the other one has it: the forces are its derivatives.
    """

    implemented_properties = ["energy", "forces", "stress"]

    def __init__(self, calculator: Calculator, steps: StepFolder):
        super().__init__()
        self.calculator = calculator
        self.steps = steps
        self.earlier = steps.read()
        self.n_steps = 0

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy",), changes: Sequence[str] = all_changes
    ) -> None:
        super().calculate(atoms, properties, changes)
        assert self.atoms is not None
        number, self.n_steps = self.n_steps, self.n_steps + 1
        if number < len(self.earlier) and _is_same(self.earlier[number], self.atoms):
            self.results = {key: self.earlier[number][key] for key in RESULTS}
            self.results["energy"] = float(self.results["energy"])
            return
        self.earlier.clear()
        copy = self.atoms.copy()
        copy.calc = self.calculator
        forces = copy.get_forces()
        has_free = "free_energy" in getattr(self.calculator, "implemented_properties", ())
        energy = copy.get_potential_energy(force_consistent=has_free)
        self.results = {"energy": energy, "forces": forces, "stress": copy.get_stress()}
        self.steps.put(number, copy, self.results)


def continued_trajectory(
    atoms: Atoms, calculator: Calculator, fmax: float, max_steps: int, steps: StepFolder
) -> list[Atoms]:
    """`relax_trajectory`, whose steps an earlier attempt may have stored: they are taken again with the stored results,
    so that the optimiser remembers them too and the path is that of a relaxation which was never interrupted.

    Raises: ItemFailed where the structure is rejected
    """
    return relax_trajectory(atoms, RememberingCalculator(calculator, steps), fmax, max_steps)


def _is_same(step: dict[str, np.ndarray], atoms: Atoms) -> bool:
    return all(
        np.shape(stored) == present.shape and np.allclose(stored, present, rtol=0, atol=1e-6)
        for stored, present in ((step["positions"], atoms.positions), (step["cell"], atoms.cell.array))
    )
