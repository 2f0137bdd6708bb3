"""Molecular dynamics, steps per second: ASE one by one, TorchSim, ChemLoop; same crystals, momenta, model and timestep.

    python -m benchmarks.dynamics --model chgnet
    python -m benchmarks.dynamics --model chgnet --n 4 --max-atoms 128

Known crystals with the mobile ion, doubled up to about `--max-atoms` atoms, at `--temperature` and without a bath, so
that the total energy says how well a path is followed. All wait loaded and warm, and take turns with the same crystals.
In single precision.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms, units
from ase.geometry import find_mic

from benchmarks.inputs import ELEMENTS, MODELS, REFERENCE, in_process, sane_model
from benchmarks.turns import Contender, Seconds, take_turns

MOBILE_ION = "Li"


class Trajectory(NamedTuple):
    """energies: (n_steps + 1,) eV, potential and kinetic; kinetic: (n_steps + 1,) eV; positions: (n_atoms, 3) A."""

    energies: np.ndarray
    kinetic: np.ndarray
    positions: np.ndarray


Simulator = Callable[[Sequence[Atoms]], list[Trajectory]]


def crystals(n: int, max_atoms: int, temperature: float, workdir: Path, seed: int) -> list[Atoms]:
    """The largest known compounds of the mobile ion that max_atoms allows, doubled as often as it allows."""
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary

    from chemloop.reference import read_reference

    known = read_reference(REFERENCE, ELEMENTS, 0.5, str(workdir))
    compounds = [atoms for atoms in known if MOBILE_ION in atoms.symbols and len(set(atoms.symbols)) > 1]
    chosen = []
    for atoms in sorted(compounds, key=len, reverse=True):
        if len(atoms) > max_atoms:
            continue
        while 2 * len(atoms) <= max_atoms:
            shortest = int(np.argmin(atoms.cell.lengths()))
            atoms = atoms.repeat(np.where(np.arange(3) == shortest, 2, 1).tolist())
        chosen.append(Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True))
    for number, atoms in enumerate(chosen[:n]):
        rng = np.random.default_rng([seed, number])
        MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
        Stationary(atoms)
    return chosen[:n]


def ase_simulator(force_field: Any, timestep_fs: float, n_steps: int) -> Simulator:
    """Velocity Verlet with the backend's own calculator, one crystal after the other."""
    from ase.md.verlet import VelocityVerlet

    calculator = force_field.reference_calculator()

    def simulate_with_ase(structures: Sequence[Atoms], n_steps: int = n_steps) -> list[Trajectory]:
        trajectories = []
        for structure in structures:
            atoms = structure.copy()
            atoms.calc = calculator
            seen = [_energies(atoms)]
            dynamics = VelocityVerlet(atoms, timestep_fs * units.fs)
            for _ in range(n_steps):
                dynamics.run(1)
                seen.append(_energies(atoms))
            trajectories.append(Trajectory(*np.transpose(seen), atoms.positions))
        return trajectories

    simulate_with_ase(_warm_up(), 3)
    return simulate_with_ase


def torchsim_simulator(force_field: Any, timestep_fs: float, n_steps: int) -> Simulator:
    """TorchSim's velocity Verlet, all crystals in one batch, with its own MaceModel or else with ours."""
    import torch
    from torch_sim.integrators import nve
    from torch_sim.io import atoms_to_state
    from torch_sim.models.mace import MaceModel
    from torch_sim.quantities import calc_kinetic_energy

    from chemloop.physics.torchsim import PotentialModel

    calculator: Any = force_field.reference_calculator()
    if type(calculator).__name__ == "MACECalculator":
        model: Any = MaceModel(model=calculator.models[0], device=torch.device("cpu"), dtype=torch.float32)
    else:
        model = PotentialModel(force_field.load("cpu", "float32"))
    initialize, update = nve(model, dt=torch.tensor(timestep_fs * units.fs), kT=torch.tensor(0.0))

    def simulate_with_torchsim(structures: Sequence[Atoms], n_steps: int = n_steps) -> list[Trajectory]:
        state = initialize(atoms_to_state(list(structures), model.device, model.dtype))
        momenta = np.concatenate([atoms.get_momenta() for atoms in structures])
        state.momenta = torch.as_tensor(momenta, dtype=model.dtype)
        seen = []
        for step in range(n_steps + 1):
            state = update(state) if step else state
            found = calc_kinetic_energy(masses=state.masses, momenta=state.momenta, system_idx=state.system_idx)
            kinetic = found.detach().numpy()
            seen.append((state.energy.detach().numpy() + kinetic, kinetic))
        energies, kinetic = np.transpose(seen, (1, 2, 0))
        ends = np.cumsum([len(atoms) for atoms in structures])[:-1]
        return [*map(Trajectory, energies, kinetic, np.split(state.positions.detach().numpy(), ends))]

    simulate_with_torchsim(_warm_up(), 3)
    return simulate_with_torchsim


def our_simulator(force_field: Any, timestep_fs: float, n_steps: int, measured: Sequence[Atoms]) -> Simulator:
    """measured: crystals by which the batch size is chosen, before any time counts"""
    from chemloop.physics.batching import Batching
    from chemloop.physics.dynamics import simulate
    from chemloop.physics.throughput import measure

    potential = force_field.load("cpu", "float32")
    batching = Batching()
    measure(batching, measured, potential)
    print(f"batches of {batching.size}; ms per crystal by batch size: {batching.ms_per_structure}", flush=True)

    def simulate_ours(structures: Sequence[Atoms]) -> list[Trajectory]:
        # first_step=1 keeps the momenta
        path = simulate(structures, potential, n_steps, timestep_fs, 0.0, 0, 0.0, first_step=1, batching=batching)
        frames = [list(found.values()) for found in path]
        if len(frames[-1]) < len(structures):
            raise SystemExit("a crystal exploded, see above: take a better model, or a lower --temperature")
        seen = [[_energies(found[k]) for found in frames] for k in range(len(structures))]
        return [Trajectory(*np.transpose(each), frames[-1][k].positions) for k, each in enumerate(seen)]

    return simulate_ours


def _energies(atoms: Atoms) -> tuple[float, float]:
    kinetic = atoms.get_kinetic_energy()
    return atoms.get_potential_energy() + kinetic, kinetic


def _warm_up() -> list[Atoms]:
    from benchmarks.contenders import warm_up

    return warm_up()[:2]


def print_table(
    model: str,
    structures: Sequence[Atoms],
    outcomes: Mapping[str, Sequence[Trajectory]],
    seconds: Mapping[str, Seconds],
    n_steps: int,
) -> None:
    sizes = [len(atoms) for atoms in structures]
    print(f"\n{model}: {len(sizes)} crystals of {min(sizes)} to {max(sizes)} atoms, {n_steps} steps")
    print(
        f"{'':34s} steps per s  CPU ms per step and atom  drift (meV/atom)  of exchanged  apart from ASE (A)"
        "  ASE / this: wall, CPU"
    )
    (first, *_) = outcomes
    for name, trajectories in outcomes.items():
        drift = max(np.ptp(t.energies) / n for t, n in zip(trajectories, sizes, strict=True))
        share = max(np.ptp(t.energies) / np.ptp(t.kinetic) for t in trajectories)
        apart = max(
            find_mic(one.positions - other.positions, atoms.cell)[1].max()
            for one, other, atoms in zip(trajectories, outcomes[first], structures, strict=True)
        )
        wall, cpu = seconds[name]
        print(
            f"{name:34s} {n_steps * len(sizes) / wall:11.1f}  {1000 * cpu / n_steps / sum(sizes):24.3f}"
            f"  {1000 * drift:16.4f}  {share:12.1e}  {apart:18.1e}"
            f"  {seconds[first].wall / wall:12.2f}, {seconds[first].cpu / cpu:.2f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*MODELS, "all"], default="all")
    parser.add_argument("--n", type=int, default=16, help="crystals")
    parser.add_argument("--max-atoms", type=int, default=24, help="of a crystal")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--timestep-fs", type=float, default=1.0)
    parser.add_argument("--temperature", type=float, default=600.0, help="K, of the first momenta")
    parser.add_argument("--workers", type=int, default=2, help="processes of ChemLoop, with one thread each")
    parser.add_argument("--rounds", type=int, default=2, help="turns that the contenders take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fit-minutes", type=float, default=3, help="to fit a small model that has no weights")
    parser.add_argument("--workdir", type=Path, default=Path("outputs/benchmarks"), help="keeps models and structures")
    parser.add_argument("overrides", nargs="*", help="of the configuration, e.g. model.checkpoint=7net-0")
    options = parser.parse_intermixed_args()
    options.workdir.mkdir(parents=True, exist_ok=True)
    structures = in_process(crystals, options.n, options.max_atoms, options.temperature, options.workdir, options.seed)
    for model in MODELS if options.model == "all" else [options.model]:
        force_field = sane_model(model, options.workdir, options.overrides, options.fit_minutes)
        settings = force_field, options.timestep_fs, options.steps
        contenders = {
            "ASE": Contender(ase_simulator, settings),
            "TorchSim": Contender(torchsim_simulator, settings),
            f"ChemLoop, {options.workers} processes": Contender(
                our_simulator, (*settings, structures[:8]), options.workers
            ),
        }
        per_item = -(-len(structures) // (options.rounds * options.workers))
        outcomes, seconds = take_turns(contenders, structures, options.rounds, per_item)
        print_table(model, structures, outcomes, seconds, options.steps)


if __name__ == "__main__":
    main()
