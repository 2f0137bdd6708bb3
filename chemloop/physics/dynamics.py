"""Molecular dynamics at constant volume, many structures side by side, with any `Potential`.

ASE's integrators ask for forces in the middle of a step, one structure at a time; here all structures reach that
point together and are evaluated in batches. A path follows from (seed, structure, step) alone: neither the other
structures, nor the batches, nor a restart change it beyond rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from chemloop.physics.batching import Batching
from chemloop.physics.calculator import Results, evaluate
from chemloop.physics.stepping import evaluate_each
from chemloop.physics.throughput import measure
from chemloop.runtime.errors import ConfigError

log = logging.getLogger(__name__)
MAX_FORCE = 1e3
"""eV/A; beyond it a structure has exploded."""


class Walker:
    """One structure on its path.

    number: its place among the structures, which decides its random numbers
    forces: (n_atoms, 3) eV/A at the present positions
    """

    def __init__(self, atoms: Atoms, number: int, seed: int):
        self.atoms = atoms.copy()
        self.number = number
        self.seed = seed
        self.masses = atoms.get_masses()[:, None]
        self.momenta = atoms.get_momenta()
        self.forces = np.zeros((len(atoms), 3))

    def draw_momenta(self, temperature: float) -> None:
        """Momenta of that temperature (K)."""
        self.momenta = np.zeros((len(self.atoms), 3))
        self._mix(0.0, temperature, -1)

    def kick(self, time: float) -> None:
        self.momenta = self.momenta + time * self.forces

    def drift(self, time: float) -> None:
        self.atoms.positions += time * self.momenta / self.masses

    def meet_bath(self, decay: float, temperature: float, step: int) -> None:
        """The exact solution of friction and noise alone; decay = exp(-friction * time)."""
        if decay < 1:
            self._mix(decay, temperature, step)

    def _mix(self, decay: float, temperature: float, step: int) -> None:
        noise = np.random.default_rng([self.seed, self.number, step + 1]).normal(size=self.momenta.shape)
        width = np.sqrt((1 - decay**2) * units.kB * temperature * self.masses)
        momenta = decay * self.momenta + width * noise
        # the crystal as a whole stays where it is, or atoms would seem to diffuse
        self.momenta = momenta - self.masses * momenta.sum(axis=0) / self.masses.sum()

    def frame(self, results: Results) -> Atoms:
        frame = self.atoms.copy()
        frame.set_momenta(self.momenta)
        stress = full_3x3_to_voigt_6_stress(results.stress)
        frame.calc = SinglePointCalculator(frame, energy=results.energy, forces=results.forces, stress=stress)
        return frame


def simulate(
    structures: Sequence[Atoms],
    potential: Any,
    n_steps: int,
    timestep_fs: float,
    temperature: float,
    seed: int,
    friction_per_ps: float = 10.0,
    first_step: int = 0,
    interval: int = 1,
    batching: Batching | int | str = 8,
) -> Iterator[dict[int, Atoms]]:
    """Frames after every `interval` steps, first those of step `first_step`, by the number of their structure.

    Frames carry momenta, energy, forces and stress. A structure that explodes is missing from then on. Structures
    are not changed.
    temperature: K, of the bath and of the first momenta, which are drawn where first_step is 0
    friction_per_ps: of the Langevin bath; 0: none, the energy is conserved (NVE)
    first_step: above 0 the structures are frames of that step, and the same paths go on
    batching: as in `relax`
    Raises: ConfigError
    Source: doi:10.1063/1.4802990 (BAOAB; without a bath it is velocity Verlet)
    """
    if not (n_steps >= 0 and timestep_fs > 0 and temperature >= 0 and friction_per_ps >= 0 and interval > 0):
        raise ConfigError(
            f"{n_steps = }, {timestep_fs = }, {temperature = }, {friction_per_ps = }, {interval = }:"
            " timestep_fs and interval must be above 0, the others 0 or above"
        )
    batching = Batching.of(batching)
    measure(batching, structures, potential)
    walkers = [Walker(atoms, number, seed) for number, atoms in enumerate(structures)]
    if first_step == 0:
        for walker in walkers:
            walker.draw_momenta(temperature)
    half = timestep_fs * units.fs / 2
    decay = float(np.exp(-friction_per_ps * timestep_fs / 1000))
    frames = _evaluate(walkers, potential, batching, first_step)
    yield {walker.number: walker.frame(results) for walker, results in frames}
    for step in range(first_step, first_step + n_steps):
        walkers = [walker for walker, _ in frames]
        for walker in walkers:
            walker.kick(half)
            walker.drift(half)
            walker.meet_bath(decay, temperature, step)
            walker.drift(half)
        frames = _evaluate(walkers, potential, batching, step + 1)
        for walker, _ in frames:
            walker.kick(half)
        if (step + 1 - first_step) % interval == 0:
            yield {walker.number: walker.frame(results) for walker, results in frames}


def _evaluate(walkers: list[Walker], potential: Any, batching: Batching, step: int) -> list[tuple[Walker, Results]]:
    """The walkers that are still sound, with their results; new forces are set."""
    sound = []
    found = evaluate_each([walker.atoms for walker in walkers], lambda chosen: evaluate(chosen, potential, batching))
    for walker, results in zip(walkers, found, strict=True):
        if isinstance(results, Results) and np.abs(results.forces).max() < MAX_FORCE:
            walker.forces = results.forces
            sound.append((walker, results))
        else:
            reason = results if isinstance(results, str) else f"exploded: no finite force below {MAX_FORCE:g} eV/A"
            log.warning("structure %d, %s, ends at step %d: %s", walker.number, walker.atoms.symbols, step, reason)
    return sound
