"""How many force calls an optimiser needs, and whether two ways to relax end in the same minimum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter, UnitCellFilter
from ase.optimize import BFGS, FIRE, FIRE2, LBFGS, BFGSLineSearch
from ase.optimize.cellawarebfgs import CellAwareBFGS
from ase.optimize.precon import Exp, PreconFIRE, PreconLBFGS
from ase.optimize.rfo import RFO

from chemloop.physics.batching import FAILURES, Batching
from chemloop.physics.calculator import PotentialCalculator, evaluate
from chemloop.physics.limits import Limits, find_misshape, residual_force
from chemloop.physics.relaxation import Relaxed, relax
from chemloop.physics.stepping import Run, rfo, step_side_by_side

SAME = 1.0
"""meV/atom within which two minima are one."""
DISPLACEMENT = 0.02  # A
BATCH = 8
NUDGE = 1e-14  # A
"""No more than rounding errors of double precision, which a batch makes in another order."""


def unit_cell(atoms: Atoms) -> UnitCellFilter:
    return UnitCellFilter(atoms, cell_factor=len(atoms) ** 0.5)


# one force call per step, at its beginning; StrainFilter moves no atoms and has no place here
STEPPING: dict[str, Callable[[Atoms], Any]] = {
    "FIRE, FrechetCellFilter": lambda atoms: FIRE(FrechetCellFilter(atoms), logfile=None),
    "FIRE, UnitCellFilter": lambda atoms: FIRE(UnitCellFilter(atoms), logfile=None),
    "FIRE2, FrechetCellFilter": lambda atoms: FIRE2(FrechetCellFilter(atoms), logfile=None),
    "LBFGS, FrechetCellFilter": lambda atoms: LBFGS(FrechetCellFilter(atoms), logfile=None),
    "BFGS, FrechetCellFilter": lambda atoms: BFGS(FrechetCellFilter(atoms), logfile=None),
    "BFGS, UnitCellFilter, factor sqrt(n), alpha 20": lambda atoms: BFGS(unit_cell(atoms), logfile=None, alpha=20.0),
    "CellAwareBFGS": lambda atoms: CellAwareBFGS(FrechetCellFilter(atoms, exp_cell_factor=1.0), logfile=None),
    "RFO, FrechetCellFilter": lambda atoms: RFO(FrechetCellFilter(atoms), logfile=None),
    "RFO, UnitCellFilter, factor n": lambda atoms: RFO(UnitCellFilter(atoms), logfile=None),
    "RFO, UnitCellFilter, factor sqrt(n), alpha 20 (default)": rfo,
}
# several force calls per step, or some before the first
SEARCHING: dict[str, Callable[[Atoms], Any]] = {
    "BFGSLineSearch, FrechetCellFilter": lambda atoms: BFGSLineSearch(FrechetCellFilter(atoms), logfile=None),
    "PreconLBFGS, Exp, variable cell": lambda atoms: PreconLBFGS(
        atoms, precon=Exp(A=3), variable_cell=True, logfile=None
    ),
    "PreconFIRE, Exp, variable cell": lambda atoms: PreconFIRE(
        atoms, precon=Exp(A=3), variable_cell=True, logfile=None
    ),
}


class End(NamedTuple):
    """energy: eV/atom, nan where the structure was given up."""

    energy: float
    is_converged: bool
    n_calls: int


class Counted(PotentialCalculator):
    n_calls = 0

    def calculate(self, *arguments: Any, **keywords: Any) -> None:
        super().calculate(*arguments, **keywords)
        self.n_calls += 1


def side_by_side(
    structures: Sequence[Atoms], potential: Any, optimizer_of: Callable[[Atoms], Any], fmax: float, max_steps: int
) -> list[End]:
    runs = [Run(atoms, fmax, potential.cutoff, Limits()) for atoms in structures]
    batching = Batching(BATCH)
    step_side_by_side(runs, lambda chosen: evaluate(chosen, potential, batching), max_steps, optimizer_of)
    return [
        End(run.steps[-1].get_potential_energy() / len(run.atoms), run.is_converged, run.n_evaluated)
        if run.steps and run.rejection is None
        else End(np.nan, False, run.n_evaluated)
        for run in runs
    ]


def one_by_one(
    structures: Sequence[Atoms], calculator: Any, optimizer_of: Callable[[Atoms], Any], fmax: float, max_steps: int
) -> list[End]:
    """ASE's own loop, ended by the same measure of convergence as ours, for optimisers that differ in theirs."""
    ends = []
    for structure in structures:
        atoms = structure.copy()
        atoms.calc = calculator
        before = getattr(calculator, "n_calls", 0)
        end = End(np.nan, False, 0)
        try:
            for _ in optimizer_of(atoms).irun(fmax=1e-9, steps=max_steps):
                volume = atoms.cell.volume
                energy = atoms.get_potential_energy() / len(atoms)
                residual = residual_force(atoms.get_forces(), atoms.get_stress(voigt=False), volume)
                end = End(energy, residual <= fmax, getattr(calculator, "n_calls", 0) - before)
                if end.is_converged:
                    break
                if find_misshape(atoms, structure.cell.volume, Limits()):
                    end = End(np.nan, False, end.n_calls)
                    break
        except FAILURES:
            end = End(np.nan, False, getattr(calculator, "n_calls", 0) - before)
        ends.append(end)
    return ends


def ours(structures: Sequence[Atoms], potential: Any, fmax: float, max_steps: int, batching: int = BATCH) -> list[End]:
    return _ends(relax(structures, potential, fmax, max_steps, "benchmark", batching=batching))


def _ends(results: Sequence[Relaxed]) -> list[End]:
    return [
        End(r.atoms.info["mlff_energy"] / len(r.atoms), r.atoms.info["converged"], r.n_steps + 1)
        if r.rejection is None
        else End(np.nan, False, r.n_steps + 1)
        for r in results
    ]


def compare_optimizers(model: str, force_field: Any, structures: Sequence[Atoms], fmax: float, max_steps: int) -> None:
    """Print a table; calls are averaged over all structures, those that do not converge with the calls they made."""
    potential = force_field.load("cpu", "float32")
    print(f"\n{model}: {len(structures)} random crystals, fmax {fmax:g} eV/A, at most {max_steps} steps")
    print(f"{'':58s} mean calls  median  converged  given up  mean E of the converged (eV/atom)")
    for name, optimizer_of in (STEPPING | SEARCHING).items():
        if name in STEPPING:
            ends = side_by_side(structures, potential, optimizer_of, fmax, max_steps)
        else:
            ends = one_by_one(structures, Counted(potential), optimizer_of, fmax, max_steps)
        calls = [end.n_calls for end in ends]
        n_converged = sum(end.is_converged for end in ends)
        energy = np.mean([end.energy for end in ends if end.is_converged] or [np.nan])
        print(
            f"{name:58s} {np.mean(calls):10.1f}  {np.median(calls):6.0f}  {n_converged / len(ends):8.0%}"
            f"  {sum(np.isnan(end.energy) for end in ends):8d}  {energy:12.4f}",
            flush=True,
        )


def compare_with_ase(model: str, force_field: Any, structures: Sequence[Atoms], fmax: float, max_steps: int) -> None:
    """Print how often two ways end at the same energy, and where they do not.

    The first two rows and the fourth are about our code: the same optimiser, and the same basins. The third is about
    what can be asked of it, the last two about the landscape: two optimisers of ASE end in different minima as well.
    """
    single, double = (force_field.load("cpu", dtype) for dtype in ("float32", "float64"))
    own = force_field.reference_calculator()
    fire, bfgs = STEPPING["FIRE, FrechetCellFilter"], STEPPING["BFGS, FrechetCellFilter"]
    limits = fmax, max_steps

    displaced = [_displaced(atoms, number, 0.0) for number, atoms in enumerate(structures)]
    n_atoms = np.mean([len(atoms) for atoms in structures])
    print(
        f"\n{model}: {len(structures)} crystals of {n_atoms:.1f} atoms, fmax {fmax:g} eV/A, {max_steps} steps or fewer"
    )
    print(f"energies within {SAME:g} meV/atom", flush=True)
    exact = one_by_one(displaced, PotentialCalculator(double), rfo, *limits)
    _print_parity(
        f"random crystals, double precision: ASE's RFO one by one, ours in batches of {BATCH}",
        exact,
        ours(displaced, double, *limits),
    )
    _print_parity(
        "the same: ASE's RFO one by one, ours in batches of 1", exact, ours(displaced, double, *limits, batching=1)
    )
    _print_parity(
        f"the same: ASE's RFO one by one, again with one atom moved by {NUDGE:g} A",
        exact,
        one_by_one([_nudged(atoms) for atoms in displaced], PotentialCalculator(double), rfo, *limits),
    )
    random_ours = relax(displaced, single, fmax, max_steps, "benchmark")
    minima = [end.atoms for end in random_ours if end.atoms.info["converged"]]
    near = [_displaced(atoms, number, 0.01) for number, atoms in enumerate(minima)]
    _print_parity("near minima: ASE's FIRE, ours", one_by_one(near, own, fire, *limits), ours(near, single, *limits))
    _print_parity(
        "random crystals: ASE's RFO with the backend's calculator, ours",
        one_by_one(displaced, own, rfo, *limits),
        _ends(random_ours),
    )
    random_fire = one_by_one(displaced, own, fire, *limits)
    _print_parity("random crystals: ASE's FIRE, ours", random_fire, _ends(random_ours))
    _print_parity("random crystals: ASE's FIRE, ASE's BFGS", random_fire, one_by_one(displaced, own, bfgs, *limits))


def _nudged(atoms: Atoms) -> Atoms:
    copy = atoms.copy()
    copy.positions[0, 0] += NUDGE
    return copy


def _displaced(atoms: Atoms, seed: int, strain: float) -> Atoms:
    rng = np.random.default_rng(seed)
    copy = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=True)
    deformation = np.eye(3) + rng.normal(scale=strain, size=(3, 3))
    copy.set_cell(copy.cell.array @ (deformation + deformation.T) / 2, scale_atoms=True)
    copy.positions += rng.normal(scale=DISPLACEMENT, size=copy.positions.shape)
    return copy


def _print_parity(name: str, first: Sequence[End], second: Sequence[End]) -> None:
    pairs = [(k, a, b) for k, (a, b) in enumerate(zip(first, second, strict=True)) if a.is_converged and b.is_converged]
    differences = {k: 1000 * (b.energy - a.energy) for k, a, b in pairs}
    other = {k: value for k, value in differences.items() if abs(value) > SAME}
    one = sum(a.is_converged != b.is_converged for a, b in zip(first, second, strict=True))
    same = len(differences) - len(other)
    share = f" ({same / len(differences):.1%})" if differences else ""
    print(
        f"{name}\n    {same} of {len(differences)}{share} that converge in both; {one} converge in one only", flush=True
    )
    if other:
        listed = ", ".join(f"{k}: {value:+.1f}" for k, value in other.items())
        mean = np.mean(list(differences.values()))
        print(f"    second minus first, meV/atom, mean {mean:+.1f}: {listed}")
