"""Generators side by side on Li-P-S: valid structures per second, and S.U.N. per CPU minute.

    python -m benchmarks.generators --pyxtal                      # generator=random against PyXtal itself: a minute
    python -m benchmarks.generators --yields                      # generator=random by size and elements: a minute
    python -m benchmarks.generators                               # all generators that run here, relaxed by CHGNet
    python -m benchmarks.generators --generators random evolution --model sevennet --n 48 --n-atoms 16
    python -m benchmarks.generators --set mattergen:generator.checkpoint=FOLDER

The third is `workflow=evaluate_generator` for each generator, with the same references; what is finished is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms

from benchmarks.inputs import ELEMENTS, REFERENCE
from chemloop.generator.random import RandomGenerator, known_geometry
from chemloop.physics.validity import Bounds, find_fault

ROOT = Path(__file__).parents[1]
SIZES = (8, 20)
CHUNK = 10
YIELD_SIZES = (4, 8, 12, 16, 20, 24, 32, 40)
SYMPREC = 0.01  # A; both make positions that are exact to rounding
REFERENCES = ("references", "iter-000")
"""Of an evaluation: what depends on the force field alone."""


class Made(NamedTuple):
    """Crystals, and seconds on the clock and of the processor that they took."""

    crystals: list[Atoms]
    wall_s: float
    cpu_s: float


def timed(make: Callable[[int], list[Atoms]], seconds: float) -> Made:
    """Call make(0), make(1) ... for so long; the first call, which imports and reads tables, is not counted."""
    make(-1)
    crystals: list[Atoms] = []
    begin, begin_cpu, number = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begin < seconds:
        crystals += make(number)
        number += 1
    return Made(crystals, time.perf_counter() - begin, time.process_time() - begin_cpu)


def make_random(seed: int, seconds: float, workdir: Path) -> Made:
    """Crystals of generator=random."""
    generator = RandomGenerator(REFERENCE, min_atoms=SIZES[0], max_atoms=SIZES[1])
    folder = workdir / f"process-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    return timed(lambda k: generator.generate(CHUNK, ELEMENTS, {}, 1000 * seed + k + 1, folder), seconds)


def make_pyxtal(seed: int, seconds: float, workdir: Path) -> Made:
    """Crystals of PyXtal as its manual calls it: at random one of the space groups that can hold the composition.

    Compositions are drawn as generator=random draws them.
    """
    from pyxtal import pyxtal
    from pyxtal.symmetry import Group

    generator = RandomGenerator(REFERENCE, min_atoms=SIZES[0], max_atoms=SIZES[1])
    cells, probabilities = generator.compositions(ELEMENTS, known_geometry(REFERENCE, tuple(ELEMENTS), ""))
    groups = [Group(number) for number in range(2, 231)]
    rng = np.random.default_rng(seed)

    def make(_: int) -> list[Atoms]:
        counts = cells[rng.choice(len(cells), p=probabilities)]
        species = [element for element, n in zip(ELEMENTS, counts, strict=True) if n]
        numbers = [int(n) for n in counts if n]
        group = next(groups[k] for k in rng.permutation(len(groups)) if groups[k].check_compatible(numbers)[0])
        crystal = pyxtal()
        try:
            crystal.from_random(3, group.number, species, numbers, random_state=rng)
        except Exception:  # whatever PyXtal raises where atoms or cells do not fit
            return []
        return [crystal.to_ase(resort=False)] if crystal.valid else []

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return timed(make, seconds)


def is_valid(atoms: Atoms, bounds: Bounds) -> bool:
    """Whether the primitive cell keeps the loop's bounds and has more symmetry than translations."""
    import spglib

    primitive = spglib.find_primitive((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=SYMPREC)
    if primitive is None:
        return False
    cell, scaled, numbers = primitive
    crystal = Atoms(numbers, scaled_positions=scaled, cell=cell, pbc=True)
    found = spglib.get_symmetry_dataset((cell, scaled, numbers), symprec=SYMPREC)
    return found is not None and found.number > 1 and find_fault(crystal, bounds) is None


def compare_with_pyxtal(seconds: float, jobs: int, workdir: Path) -> None:
    """Print valid symmetric crystals per second of both, one after the other in the same run."""
    known = known_geometry(REFERENCE, tuple(ELEMENTS), "")
    bounds = Bounds.of(known, 0.7, (0.5, 2.0), *SIZES)
    print(f"valid symmetric crystals of {SIZES[0]} to {SIZES[1]} atoms, {seconds:g} s each")
    rates = []
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for name, make, n in (("PyXtal, 1 process", make_pyxtal, 1), (f"random, {jobs} processes", make_random, jobs)):
            made = [future.result() for future in [pool.submit(make, k, seconds, workdir) for k in range(n)]]
            n_valid = sum(is_valid(atoms, bounds) for part in made for atoms in part.crystals)
            n_all, cpu_s = sum(len(part.crystals) for part in made), sum(part.cpu_s for part in made)
            wall_s = max(part.wall_s for part in made)
            rates.append((n_valid / wall_s, n_valid / cpu_s))
            print(f"    {name:20s} {n_all:6d} made, {n_valid:6d} valid: {rates[-1][0]:7.1f} per second,"
                  f" {rates[-1][1]:7.1f} per CPU second", flush=True)  # fmt: skip
    print(f"    ratio {rates[1][0] / rates[0][0]:.1f} on the clock, {rates[1][1] / rates[0][1]:.1f} per CPU second")


def print_yields(n: int, workdir: Path) -> None:
    """Print crystals of generator=random per CPU second, and of attempts in percent, by size and number of elements."""
    print("atoms per cell    1 element         2 elements        3 elements")
    for n_atoms in YIELD_SIZES:
        line = f"{n_atoms:8d}"
        for n_elements in (1, 2, 3):
            shares = [float(number == n_elements) for number in (1, 2, 3)]
            generator = RandomGenerator(REFERENCE, subsystem_shares=shares)
            generator.generate(n, ELEMENTS, {"n_atoms": float(n_atoms)}, 0, workdir)
            counts = json.loads((workdir / "yield.json").read_text())
            percent = 100 * counts["crystals"] / counts["attempts"]
            line += f"{counts['crystals_per_cpu_second']:8.0f}/s {percent:4.0f} %"
        print(line, flush=True)


def evaluate(generator: str, options: argparse.Namespace, overrides: Sequence[str], before: Path | None) -> Path:
    """Run workflow=evaluate_generator; returns its folder.

    before: an evaluation whose relaxed references are taken over
    Raises: subprocess.CalledProcessError
    """
    sizes = ",".join(map(str, options.n_atoms))
    folder = options.workdir / f"{generator}_{options.model}_n{options.n}_{sizes.replace(',', '-')}"
    if before is not None and not folder.exists():
        for name in REFERENCES:
            shutil.copytree(before / name, folder / name)
    command = [
        *(sys.executable, "-m", "chemloop", "workflow=evaluate_generator", f"generator={generator}"),
        *(f"model={options.model}", f"outputs={folder.parent}", f"campaign={folder.name}", "tracker=jsonl"),
        *(f"workflow.n={options.n}", f"workflow.n_atoms=[{sizes}]"),
        *(f"workflow.max_reference_atoms={options.max_reference_atoms}", *overrides),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True, text=True)
    return folder


def compare_generators(options: argparse.Namespace) -> None:
    """Print one line for each generator and size."""
    from chemloop.report.evaluation_data import EvaluationRow, markdown

    rows, before = list[EvaluationRow](), None
    for generator in options.generators:
        mine = [text.partition(":")[2] for text in options.set if text.partition(":")[0] == generator]
        try:
            folder = evaluate(generator, options, [*options.overrides, *mine], before)
        except subprocess.CalledProcessError as error:
            said = (error.stderr or error.stdout or "").strip().splitlines() or ["no reason given"]
            print(f"{generator}: {said[-1]}", flush=True)
            continue
        before = folder
        rows += [EvaluationRow(**row) for row in json.loads((folder / "evaluation.json").read_text())["rows"]]
        print(f"{generator}: {folder / 'evaluation.html'}", flush=True)
    if rows:
        print("\n" + markdown(rows))


def main() -> None:
    there = sorted(path.stem for path in (ROOT / "conf/generator").glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pyxtal", action="store_true", help="compare generator=random with PyXtal, and nothing else")
    parser.add_argument("--yields", action="store_true", help="of generator=random by size, and nothing else")
    parser.add_argument("--seconds", type=float, default=15.0, help="for each side of that comparison")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--generators", nargs="*", default=there)
    parser.add_argument("--model", default="chgnet")
    parser.add_argument("--n", type=int, default=24, help="structures asked for, of each size")
    parser.add_argument("--n-atoms", type=int, nargs="*", default=[12])
    parser.add_argument("--max-reference-atoms", type=int, default=16, help="larger known structures are left out")
    parser.add_argument("--set", nargs="*", default=[], metavar="GENERATOR:KEY=VALUE")
    parser.add_argument("--workdir", type=Path, default=Path("outputs/benchmarks/generators"))
    parser.add_argument("overrides", nargs="*", help="for all generators, such as loop.relax.fmax=0.05")
    options = parser.parse_args()
    options.workdir = options.workdir.resolve()
    options.workdir.mkdir(parents=True, exist_ok=True)
    if options.pyxtal:
        compare_with_pyxtal(options.seconds, options.jobs, options.workdir)
    elif options.yields:
        print_yields(100, options.workdir)
    else:
        compare_generators(options)


if __name__ == "__main__":
    main()
