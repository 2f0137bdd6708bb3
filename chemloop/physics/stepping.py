"""Many relaxations side by side: the structures, what was seen of them, and the steps.

The optimisers are ASE's, one per structure: after every step all structures that still move are evaluated in
batches, so a batch stays full to the end and a structure takes, up to rounding, the path it would take alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import UnitCellFilter
from ase.optimize.optimize import Optimizer
from ase.optimize.rfo import RFO
from ase.stress import full_3x3_to_voigt_6_stress

from chemloop.physics.batching import FAILURES, reason_of
from chemloop.physics.calculator import Results
from chemloop.physics.limits import Limits, find_misshape, residual_force
from chemloop.physics.structures import without
from chemloop.physics.symmetry import Symmetry

Evaluate = Callable[[Sequence[Atoms]], list[Results]]


class Run:
    """One structure on its way: the steps so far, and whether they are good or bad enough to stop.

    symmetry: operations of the structure that forces and stress are to respect, or None
    steps: evaluated structures; all of them where keeps_steps, else the first and the last
    """

    def __init__(
        self,
        atoms: Atoms,
        fmax: float,
        cutoff: float,
        limits: Limits,
        keeps_steps: bool = False,
        symmetry: Symmetry | None = None,
    ):
        self.atoms = without(atoms, "mlff")
        self.fmax = fmax
        self.cutoff = cutoff
        self.limits = limits
        self.keeps_steps = keeps_steps
        self.symmetry = symmetry
        self.first_volume = atoms.cell.volume
        self.steps: list[Atoms] = []
        self.n_evaluated = 0
        self.is_converged = False
        self.rejection = find_misshape(self.atoms, self.first_volume, limits)

    @property
    def is_moving(self) -> bool:
        return not self.is_converged and self.rejection is None

    def observe(self, results: Results) -> None:
        """Take note of the results for the present structure."""
        if not all(np.isfinite(part).all() for part in results):
            self.rejection = "not finite: energy, forces or stress"
            return
        if self.symmetry is not None:
            cell = self.atoms.cell.array
            forces, stress = self.symmetry.forces(results.forces, cell), self.symmetry.stress(results.stress, cell)
            results = Results(results.energy, forces, stress)
        self.atoms.calc = SinglePointCalculator(
            self.atoms, energy=results.energy, forces=results.forces, stress=full_3x3_to_voigt_6_stress(results.stress)
        )
        step = self.atoms.copy()
        step.calc = self.atoms.calc
        if not self.keeps_steps:
            del self.steps[1:]
        self.steps.append(step)
        self.n_evaluated += 1
        rise = (results.energy - self.steps[0].get_potential_energy()) / len(step)
        if rise > self.limits.max_energy_rise:
            self.rejection = f"exploded: energy rose by {rise:.1f} eV/atom"
        elif residual_force(results.forces, results.stress, step.cell.volume) <= self.fmax:
            self.is_converged = True

    def check_shape(self) -> None:
        """Take note of a step: the present structure is a new one."""
        self.rejection = find_misshape(self.atoms, self.first_volume, self.limits)


def step_side_by_side(
    runs: Sequence[Run],
    evaluate_all: Evaluate,
    max_steps: int,
    optimizer_of: Callable[[Atoms], Optimizer] | None = None,
) -> None:
    """Step all runs until each has converged, is rejected, or has made max_steps.

    optimizer_of: an ASE optimiser that asks for forces once, at the beginning of a step; None: `rfo`
    """
    moving = [run for run in runs if run.is_moving]
    optimizers = {id(run): (optimizer_of or rfo)(run.atoms) for run in moving}
    for step in range(max_steps + 1):
        _observe_all(moving, evaluate_all)
        moving = [run for run in moving if run.is_moving]
        if step == max_steps:
            return
        for run in moving:
            try:
                optimizers[id(run)].step()
                run.check_shape()
            except FAILURES as error:
                run.rejection = reason_of(error)
        moving = [run for run in moving if run.is_moving]


def rfo(atoms: Atoms) -> Optimizer:
    """Rational function optimisation: quasi-Newton steps, damped where the energy is not yet quadratic.

    Measured on random Li-P-S crystals it needs less than half the evaluations of FIRE, and it evaluates once per
    step, as stepping side by side requires. The cell factor makes cell and atoms about equally stiff; alpha
    (eV/A^2) is the first guess of that stiffness.
    Source: doi:10.1021/j100247a015
    """
    optimizer = RFO(UnitCellFilter(atoms, cell_factor=len(atoms) ** 0.5), logfile=None, alpha=20.0)
    # without it the first eigenvector search starts from a random vector
    optimizer.v0 = np.eye(3 * len(atoms) + 10)[-1]
    return optimizer


def _observe_all(runs: Sequence[Run], evaluate_all: Evaluate) -> None:
    for run, result in zip(runs, evaluate_each([run.atoms for run in runs], evaluate_all), strict=True):
        if isinstance(result, Results):
            run.observe(result)
        else:
            run.rejection = result


def evaluate_each(structures: Sequence[Atoms], evaluate_all: Evaluate) -> list[Results | str]:
    """Results of all, or why there are none; what fails together is tried in halves, so that only the culprit does.

    Raises: ItemFailed where the GPU fails
    """
    if not structures:
        return []
    try:
        return [*evaluate_all(structures)]
    except FAILURES as error:
        if len(structures) == 1:
            return [reason_of(error)]
    half = len(structures) // 2
    return [*evaluate_each(structures[:half], evaluate_all), *evaluate_each(structures[half:], evaluate_all)]
