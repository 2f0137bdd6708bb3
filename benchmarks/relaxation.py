"""Relaxations per minute: ASE one by one, the backend's own batches, ChemLoop; same structures, model and tolerance.

    python -m benchmarks.relaxation --model chgnet                    # relaxations per minute
    python -m benchmarks.relaxation --model chgnet --optimizers       # force calls of optimisers
    python -m benchmarks.relaxation --model chgnet --parity --n 50    # the same minima as ASE?

All contenders wait, loaded and warm, in processes of their own; each round they get the same structures, one contender
at a time. Times are wall times of the relaxations, without imports and loading.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from benchmarks.contenders import BATCHED, Outcome, ase_relaxer, our_relaxer, own_relaxer
from benchmarks.inputs import MODELS, in_process, random_crystals, sane_model
from benchmarks.minima import compare_optimizers, compare_with_ase
from benchmarks.turns import Contender, Seconds, take_turns


def compare(model: str, force_field: Any, structures: Sequence[Atoms], options: argparse.Namespace) -> None:
    settings = force_field, options.fmax, options.max_steps
    contenders = {
        f"ASE, {n} thread{'s' * (n > 1)}": Contender(ase_relaxer, settings, 1, n) for n in options.ase_threads
    }
    if model in BATCHED:
        contenders[f"own batches ({BATCHED[model]})"] = Contender(own_relaxer, settings)
    contenders[f"ChemLoop, {options.workers} processes"] = Contender(our_relaxer, settings, options.workers)
    outcomes, seconds = take_turns(contenders, structures, options.rounds, options.per_item)
    print_table(model, outcomes, seconds, in_process(judge, force_field, outcomes, options.fmax))


def judge(force_field: Any, outcomes: dict[str, list[Outcome]], fmax: float) -> dict[str, list[tuple[bool, float]]]:
    """For all contenders by the same measure: whether the end is converged, and its energy per atom."""
    from chemloop.physics.calculator import evaluate
    from chemloop.physics.limits import residual_force

    potential = force_field.load("cpu", "float32")
    judged: dict[str, list[tuple[bool, float]]] = {}
    for name, ends in outcomes.items():
        judged[name] = []
        for end in ends:
            if end.failure is not None:
                judged[name].append((False, np.nan))
                continue
            (results,) = evaluate([end.atoms], potential)
            residual = residual_force(results.forces, results.stress, end.atoms.cell.volume)
            judged[name].append((residual <= 1.02 * fmax, results.energy / len(end.atoms)))
    return judged


def print_table(
    model: str, outcomes: dict[str, list[Outcome]], seconds: dict[str, Seconds], judged: dict[str, Any]
) -> None:
    n = len(next(iter(outcomes.values())))
    ase = [seconds[name] for name in outcomes if name.startswith("ASE")]
    fastest = Seconds(min(each.wall for each in ase), min(each.cpu for each in ase))
    print(f"\n{model}: {n} structures, {np.mean([len(end.atoms) for end in next(iter(outcomes.values()))]):.1f} atoms")
    print(f"{'':34s} wall s  per min   CPU s  converged  given up  calls  mean E (eV/atom)  ASE / this: wall, CPU")
    for name, ends in outcomes.items():
        converged = sum(is_converged for is_converged, _ in judged[name])
        failed = [end.failure for end in ends if end.failure is not None]
        calls = np.mean([end.n_calls for end in ends if end.n_calls > 0] or [np.nan])
        energy = np.nanmean([energy for _, energy in judged[name]])
        wall, cpu = seconds[name]
        print(
            f"{name:34s} {wall:6.1f}  {60 * n / wall:7.1f}  {cpu:6.1f}  {converged:5d}/{n:<3d}  {len(failed):8d}"
            f"  {calls:5.0f}  {energy:16.4f}  {fastest.wall / wall:15.2f}, {fastest.cpu / cpu:.2f}",
            flush=True,
        )
        for reason in sorted(set(failed)):
            print(f"    {failed.count(reason)} x {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*MODELS, "all"], default="all")
    parser.add_argument("--n", type=int, help="structures; default 64, sevennet 16, optimizers 20, parity 50")
    parser.add_argument("--atoms", type=int, nargs=2, default=[10, 14], help="fewest and most of a crystal")
    parser.add_argument("--fmax", type=float, default=0.05, help="eV/A")
    parser.add_argument("--max-steps", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2, help="processes of ChemLoop, with one thread each")
    parser.add_argument("--per-item", type=int, default=8, help="structures that a worker of ChemLoop takes at a time")
    parser.add_argument("--ase-threads", type=int, nargs="+", default=[1], help="of ASE's process; each a row")
    parser.add_argument("--rounds", type=int, default=2, help="turns that the contenders take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fit-minutes", type=float, default=3, help="to fit a small model that has no weights")
    parser.add_argument("--workdir", type=Path, default=Path("outputs/benchmarks"), help="keeps models and structures")
    parser.add_argument("--optimizers", action="store_true", help="compare force calls of optimisers instead")
    parser.add_argument("--parity", action="store_true", help="compare minima with those of ASE instead")
    parser.add_argument("overrides", nargs="*", help="of the configuration, e.g. model.checkpoint=7net-0")
    options = parser.parse_intermixed_args()
    options.workdir.mkdir(parents=True, exist_ok=True)
    for model in MODELS if options.model == "all" else [options.model]:
        force_field = sane_model(model, options.workdir, options.overrides, options.fit_minutes)
        default = 20 if options.optimizers else 50 if options.parity else 16 if model == "sevennet" else 64
        structures = random_crystals(options.workdir, options.n or default, options.seed, *options.atoms)
        if options.optimizers:
            in_process(compare_optimizers, model, force_field, structures, options.fmax, options.max_steps)
        elif options.parity:
            in_process(compare_with_ase, model, force_field, structures, options.fmax, options.max_steps)
        else:
            compare(model, force_field, structures, options)


if __name__ == "__main__":
    main()
