"""What makes relaxations of random crystals cheaper, and how many new structures near the hull each generator finds.

    python -m benchmarks.rediscovery --options --n 48            # ways to relax, on the same crystals in the same run
    python -m benchmarks.rediscovery --searches outputs/A outputs/B --plot rediscovery.png

The first compares CPU seconds per structure near the hull, and how many of the structures that the present relaxation
finds each way finds too. The second reads searches of `python -m chemloop experiment=rediscovery`.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms

from benchmarks.inputs import ELEMENTS, REFERENCE, in_process, random_crystals, teacher_potential

MODEL, FAST, FRAME = "7net-0", "chgnet", "7net-0"
NEAR = (0.03, 0.1)
"""eV/atom above the hull."""
Way = Callable[[Sequence[Atoms]], list[Any]]


class Options(NamedTuple):
    """fmax (eV/A), max_steps, coarse_fmax (eV/A), coarse_steps, stop_above (eV/atom above the hull)."""

    fmax: float
    max_steps: int
    coarse_fmax: float
    coarse_steps: int
    stop_above: list[float]


def ways_to_relax(hull: Sequence[Atoms], options: Options) -> dict[str, Way]:
    """By name; the first is the present one."""
    from chemloop.physics.calculator import evaluate
    from chemloop.physics.matching import Matcher
    from chemloop.physics.racing import find_hopeless, find_known, relax_in_two_parts
    from chemloop.physics.relaxation import relax
    from chemloop.physics.structures import set_results

    potential, fast = teacher_potential(MODEL), teacher_potential(FAST)
    fine = functools.partial(relax, potential=potential, fmax=options.fmax, max_steps=options.max_steps)
    present: Way = functools.partial(fine, energy_frame=FRAME, displacement=0.02)
    finish: Way = functools.partial(fine, energy_frame=FRAME)
    coarse = {"fmax": options.coarse_fmax, "max_steps": options.coarse_steps, "displacement": 0.02}
    fast_first: Way = functools.partial(relax, potential=fast, energy_frame=FAST, **coarse)
    steps_first: Way = functools.partial(
        relax, potential=potential, energy_frame=FRAME, fmax=options.fmax, max_steps=20, displacement=0.02
    )
    symmetric: Way = functools.partial(relax, potential=potential, energy_frame=FRAME, symprec=1e-3, **coarse)
    symmetric_fast: Way = functools.partial(relax, potential=fast, energy_frame=FAST, symprec=1e-3, **coarse)

    def evaluated(structures: Sequence[Atoms]) -> list[Atoms]:
        found = zip(structures, evaluate(structures, potential), strict=True)
        return [set_results(atoms.copy(), "mlff", *results, FRAME) for atoms, results in found]

    def far(stop_above: float, structures: Sequence[Atoms]) -> list[str | None]:
        return find_hopeless(evaluated(structures), hull, stop_above)

    def same(structures: Sequence[Atoms]) -> list[str | None]:
        return find_known(structures, hull, Matcher())

    def nobody(structures: Sequence[Atoms]) -> list[str | None]:
        return [None] * len(structures)

    def both(first: Way, give_up: Any, last: Way = finish) -> Way:
        return lambda structures: relax_in_two_parts(structures, first, give_up, last)

    ways: dict[str, Way] = {"present": present}
    ways["best volume of a scan first"] = lambda found: present([at_best_volume(atoms, potential) for atoms in found])
    ways["symmetric first"] = both(symmetric, nobody, present)
    ways[f"{FAST} first"] = both(fast_first, nobody)
    ways[f"{FAST} first, known ones given up"] = both(fast_first, same)
    for limit in options.stop_above:
        ways[f"20 steps, given up above {limit:g}"] = both(steps_first, functools.partial(far, limit))
        ways[f"{FAST} first, given up above {limit:g}"] = both(fast_first, functools.partial(far, limit))
        ways[f"{FAST} symmetric first, given up above {limit:g}"] = both(
            symmetric_fast, functools.partial(far, limit), present
        )
    return ways


def at_best_volume(atoms: Atoms, potential: Any) -> Atoms:
    """The crystal at the volume of lowest energy among five, from 0.8 to 1.25 times its own."""
    from chemloop.physics.calculator import evaluate

    scaled = []
    for scale in np.geomspace(0.8, 1.25, 5):
        copy = atoms.copy()
        copy.set_cell(atoms.cell * scale ** (1 / 3), scale_atoms=True)
        scaled.append(copy)
    return scaled[int(np.argmin([results.energy for results in evaluate(scaled, potential)]))]


def relaxed_references(path: Path, max_atoms: int) -> list[Atoms]:
    """The known structures of the system, relaxed by the model; kept in a file."""
    from chemloop.physics.relaxation import relax
    from chemloop.physics.structures import read_structures, write_structures
    from chemloop.reference import read_reference

    if not path.exists():
        known = [
            atoms for atoms in read_reference(REFERENCE, ELEMENTS, 0.5, str(path.parent)) if len(atoms) <= max_atoms
        ]
        ends = relax(known, teacher_potential(MODEL), 0.05, 100, FRAME)
        write_structures(path, [end.atoms for end in ends])
    return [atoms for atoms in read_structures(path) if atoms.info["converged"]]


def compare(crystals: Sequence[Atoms], references: Path, max_atoms: int, options: Options, per_item: int) -> None:
    """Relax all crystals in all ways, in turns, and print the table."""
    hull = relaxed_references(references, max_atoms)
    ways = ways_to_relax(hull, options)
    for way in ways.values():
        way(crystals[:1])  # what compiles, compiles here
    seconds = dict.fromkeys(ways, 0.0)
    ends: dict[str, list[Any]] = {name: [] for name in ways}
    for start in range(0, len(crystals), per_item):
        for name, way in ways.items():
            begin = time.process_time()
            ends[name] += way(crystals[start : start + per_item])
            seconds[name] += time.process_time() - begin
    print_options(ends, seconds, hull)


def print_options(ends: dict[str, list[Any]], seconds: dict[str, float], hull: Sequence[Atoms]) -> None:
    from chemloop.physics.hull import energies_above_hull

    n = len(next(iter(ends.values())))
    found: dict[str, list[Atoms]] = {}
    print(f"\n{MODEL}, {n} crystals of {np.mean([len(end.atoms) for end in ends['present']]):.1f} atoms")
    print(f"{'':44s} CPU s  steps  to the end  <30  <100 meV  CPU s per <100  of the present's  present / this")
    for name, results in ends.items():
        finished = [end.atoms for end in results if end.atoms.info["converged"]]
        energies = energies_above_hull(finished, hull)
        found[name] = [atoms for atoms, energy in zip(finished, energies, strict=True) if energy < NEAR[1]]
        again = n_found_again(found["present"], found[name])
        counts = [int((energies < limit).sum()) for limit in NEAR]
        print(
            f"{name:44s} {seconds[name]:5.0f}  {np.mean([end.n_steps for end in results]):5.1f}  {len(finished):10d}"
            f"  {counts[0]:3d}  {counts[1]:8d}  {seconds[name] / max(1, counts[1]):14.1f}"
            f"  {again:8d} of {len(found['present']):3d}  {seconds['present'] / seconds[name]:14.2f}",
            flush=True,
        )


def n_found_again(wanted: Sequence[Atoms], found: Sequence[Atoms]) -> int:
    """How many of the wanted structures are among those found."""
    from chemloop.physics.matching import Matcher

    return sum(Matcher().is_known(wanted, found)) if found else 0


def compare_searches(folders: Sequence[Path], plot: Path | None) -> None:
    """Table and figure of searches, each as far as it has come."""
    from chemloop.runtime.campaign import Campaign
    from chemloop.workflow.search import counts_below, new_structures

    curves: dict[str, tuple[list[int], list[int]]] = {}
    limits = (0.0, *NEAR)
    print(
        f"{'':32s} relaxed work h  new structures below {', '.join(f'{1000 * limit:.0f}' for limit in limits)} meV/atom"
    )
    for folder in folders:
        campaign = Campaign(folder)
        n_iterations = len(list(folder.glob("iter-*/3-screen/DONE")))
        n_found, below = [0], [0] * len(limits)
        for number in range(1, n_iterations + 1):
            below = counts_below(new_structures(campaign, number), limits)
            n_found.append(below[1])
        sizes = [int(read_metrics(folder, number)["relax/n_relaxed"]) for number in range(1, n_iterations + 1)]
        curves[folder.name] = np.cumsum([0, *sizes]).tolist(), n_found
        print(f"{folder.name:32s} {sum(sizes):7d}  {item_hours(folder):6.2f}  {', '.join(map(str, below))}")
    if plot is not None:
        draw(curves, plot)


def read_metrics(folder: Path, iteration: int) -> dict[str, float]:
    from chemloop.runtime.disk import read_json

    return read_json(folder / f"iter-{iteration:03d}/2-relax/metrics.json")


def item_hours(folder: Path) -> float:
    """Wall time of all items, each of one thread; what waits for a busy machine counts too."""
    from chemloop.runtime.disk import read_json

    return sum(read_json(path)["wall_s"] for path in folder.glob("iter-*/*/items/*/DONE")) / 3600


def draw(curves: dict[str, tuple[list[int], list[int]]], path: Path) -> None:
    """New structures near the hull against relaxations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, (n_relaxed, n_found) in curves.items():
        axes.plot(n_relaxed, n_found, marker="o", label=name)
    axes.set_xlabel("relaxations")
    axes.set_ylabel(f"new, within {1000 * NEAR[0]:.0f} meV/atom of the references' hull")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--options", action="store_true", help="compare ways to relax")
    what.add_argument("--searches", type=Path, nargs="+", metavar="FOLDER", help="campaigns of workflow=search")
    parser.add_argument("--n", type=int, default=48, help="crystals")
    parser.add_argument("--atoms", type=int, nargs=2, default=[4, 12], help="fewest and most of a crystal")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per-item", type=int, default=8, help="crystals relaxed side by side")
    parser.add_argument("--fmax", type=float, default=0.05, help="eV/A")
    parser.add_argument("--max-steps", type=int, default=200)
    parser.add_argument("--coarse-fmax", type=float, default=0.1, help="eV/A")
    parser.add_argument("--coarse-steps", type=int, default=100)
    parser.add_argument("--stop-above", type=float, nargs="+", default=[0.2], help="eV/atom above the hull")
    parser.add_argument("--max-reference-atoms", type=int, default=24, help="larger known cells are not in the hull")
    parser.add_argument("--plot", type=Path, help="figure of the searches")
    parser.add_argument(
        "--workdir", type=Path, default=Path("outputs/benchmarks"), help="keeps crystals and references"
    )
    given = parser.parse_args()
    given.workdir.mkdir(parents=True, exist_ok=True)
    if given.searches:
        compare_searches(given.searches, given.plot)
        return
    crystals = random_crystals(given.workdir, given.n, given.seed, *given.atoms)
    options = Options(given.fmax, given.max_steps, given.coarse_fmax, given.coarse_steps, given.stop_above)
    references = given.workdir / f"references-{MODEL}-{given.max_reference_atoms}.extxyz"
    in_process(compare, crystals, references, given.max_reference_atoms, options, given.per_item)


if __name__ == "__main__":
    main()
