"""Duplicates and novelty: the same partition as pymatgen's StructureMatcher? How much faster?

    python -m benchmarks.matching --n 2000            # some hours, nearly all of it relaxing; goes on where it stopped
    python -m benchmarks.matching --n 100 --total 500 --earlier 2000

Crystals: random ones relaxed by CHGNet for a few steps (`--n`, kept in `--workdir`), and those of `--structures`.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from ase import Atoms
from ase.build import make_supercell

from benchmarks.inputs import configured, in_process, random_crystals
from chemloop.physics.crystal_key import CrystalKey
from chemloop.physics.matching import Matcher
from chemloop.physics.structures import read_structures, write_structures

CHUNK = 50  # crystals per file of relaxed ones
BONDS = {"P-S": 2.35, "S-S": 2.20, "P-P": 2.50}


def relaxed_crystals(workdir: Path, n: int, max_steps: int) -> list[Atoms]:
    """Random crystals of 4 to 12 atoms after a few steps with CHGNet; those given up on the way are left out."""
    relaxed = []
    for chunk in range(-(-n // CHUNK)):
        path = workdir / f"relaxed-{max_steps}-{chunk:04d}.extxyz"
        if not path.exists():
            crystals = random_crystals(workdir, CHUNK, 5000 + chunk, 4, 12)
            begin = time.perf_counter()
            write_structures(path, in_process(_relax, crystals, max_steps))
            print(f"{path.name}: {time.perf_counter() - begin:.0f} s", flush=True)
        relaxed += read_structures(path)
    return relaxed[:n]


def _relax(crystals: Sequence[Atoms], max_steps: int) -> list[Atoms]:
    from chemloop.physics.relaxation import relax

    potential = configured("chgnet")[0].load("cpu", "float32")
    results = relax(crystals, potential, 0.05, max_steps, "chgnet", batching=1)
    return [result.atoms for result in results if result.rejection is None]


def population(crystals: Sequence[Atoms], total: int, seed: int, supercell_share: float) -> list[Atoms]:
    """The crystals and copies of them, mixed: rotated, shifted, reordered, expanded, some in cells of twice the size.

    Their atoms are displaced by up to 0.8 A, so that some copies are equal and some are not, and some just so.
    """
    rng = np.random.default_rng(seed)
    copies: list[Atoms] = []
    while len(crystals) + len(copies) < total:
        atoms = crystals[int(rng.integers(len(crystals)))]
        copy = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
        copy.positions += rng.uniform(0, 0.8) * rng.uniform(-1, 1, size=copy.positions.shape)
        copy.set_cell(copy.cell.array @ (np.eye(3) + rng.uniform(-0.08, 0.08, size=(3, 3))), scale_atoms=True)
        if rng.random() < supercell_share:
            copy = make_supercell(copy, [[1, 1, 0], [0, 1, 0], [0, 1, 2]])
        copy.rotate(rng.uniform(0, 360), rng.normal(size=3), rotate_cell=True)
        copy.positions += rng.normal(size=3)
        copies.append(copy[rng.permutation(len(copy))])
    mixed = [*crystals[:total], *copies]
    return [mixed[number] for number in rng.permutation(len(mixed))]


def pymatgen_partition(structures: Sequence[Atoms], matcher: Matcher) -> list[int]:
    """`duplicates` by StructureMatcher.group_structures."""
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

    numbered = []
    for number, atoms in enumerate(structures):
        structure = Structure(atoms.cell.array, atoms.get_chemical_symbols(), atoms.get_scaled_positions())
        structure.add_site_property("number", [number] * len(structure))
        numbered.append(structure)
    first = list(range(len(structures)))
    for group in StructureMatcher(matcher.ltol, matcher.stol, matcher.angle_tol).group_structures(numbered):
        members = [structure[0].properties["number"] for structure in group]
        for member in members:
            first[member] = members[0]
    return first


def timed(function: Any, *arguments: Any) -> tuple[Any, float]:
    begin = time.perf_counter()
    value = function(*arguments)
    return value, time.perf_counter() - begin


def compare(name: str, structures: Sequence[Atoms], matcher: Matcher, jobs: int) -> None:
    """Print whether the partitions agree, and the times."""
    first, ours = timed(matcher.duplicates, structures)
    expected, theirs = timed(pymatgen_partition, structures, matcher)
    differing = sum(a != b for a, b in zip(first, expected, strict=True))
    print(f"{name}, stol {matcher.stol:g}: {len(structures)} structures, {len(set(expected))} groups by pymatgen,")
    print(f"    {len(set(first))} by ChemLoop, {differing} structures in another group")
    print(f"    pymatgen {theirs:.1f} s, ChemLoop {ours:.2f} s in one process: {theirs / ours:.1f} times faster")
    if jobs > 1:
        again, parallel = timed(matcher.duplicates, structures, jobs)
        print(f"    {parallel:.2f} s in {jobs} processes, {'the same' if again == first else 'ANOTHER'} partition")
    with_bonds, seconds = timed(Matcher(stol=matcher.stol, bond_cutoffs=BONDS).duplicates, structures)
    print(f"    with bond graphs {len(set(with_bonds))} groups, {seconds:.2f} s", flush=True)


def check_search(keys: Sequence[CrystalKey], matcher: Matcher, n_pairs: int) -> None:
    """Print how often the compiled search is certain, and how often it is wrong then (never)."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    from chemloop.physics import lattice_search

    tolerances = matcher.ltol, matcher.stol, matcher.angle_tol
    reference, search = StructureMatcher(*tolerances), cast(Any, lattice_search.compare)
    buckets: dict[Any, list[CrystalKey]] = {}
    for key in keys:
        buckets.setdefault(key.bucket, []).append(key)
    pairs = [pair for bucket in buckets.values() for pair in itertools.permutations(bucket, 2)]
    chosen = np.random.default_rng(0).permutation(len(pairs))[:n_pairs]
    outcomes: Counter[tuple[int, bool]] = Counter()
    for a, b in (pairs[number] for number in chosen):
        verdict = search(*a.search_terms, *b.search_terms, *tolerances)
        outcomes[verdict, reference.fit(a.structure, b.structure, skip_structure_reduction=True)] += 1
    print(
        f"{len(chosen)} of the {len(pairs)} pairs of equal composition and size, by what the search and pymatgen say:"
    )
    for (verdict, is_match), n in sorted(outcomes.items()):
        print(f"    {('no', 'maybe', 'yes')[verdict]:5s} {'match' if is_match else 'no match':8s} {n}", flush=True)


def time_novelty(crystals: Sequence[Atoms], n_new: int, n_earlier: int, matcher: Matcher, jobs: int) -> None:
    earlier = population(crystals, n_earlier, 1, 0.0)
    new = population(crystals, len(crystals) + n_new, 2, 0.0)[:n_new]
    earlier_keys, finding = timed(matcher.keys, earlier, jobs)
    known, matching = timed(matcher.is_known, new, earlier_keys, jobs)
    print(
        f"novelty of {n_new} against {n_earlier} earlier structures: {matching:.1f} s with stored keys,"
        f" {finding:.1f} s more to find them, {jobs} processes; {sum(known)} known",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100, help="random crystals to relax")
    parser.add_argument("--steps", type=int, default=40, help="of each relaxation, at most")
    parser.add_argument("--structures", type=Path, nargs="*", default=[], help="extxyz files of relaxed crystals")
    parser.add_argument("--total", type=int, default=10_000, help="structures of the timed comparison, copies included")
    parser.add_argument("--supercells", type=float, default=0.1, help="share of copies in cells of twice the size")
    parser.add_argument("--new", type=int, default=1000)
    parser.add_argument("--earlier", type=int, default=70_000)
    parser.add_argument("--pairs", type=int, default=5000, help="on which the search is checked one by one")
    parser.add_argument("--stol", type=float, nargs="*", default=[0.2, 0.3])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--workdir", type=Path, default=Path("outputs/benchmarks"))
    options = parser.parse_args()
    options.workdir.mkdir(parents=True, exist_ok=True)
    crystals = relaxed_crystals(options.workdir, options.n, options.steps)
    crystals += [atoms for path in options.structures for atoms in read_structures(path)]
    Matcher().is_known(crystals[:2], crystals[:2])  # compiles the search, or loads it compiled
    mixed = population(crystals, options.total, 0, options.supercells)
    for stol in options.stol:
        matcher = Matcher(stol=stol)
        compare("relaxed crystals", crystals, matcher, 1)
        compare("with copies", mixed, matcher, options.jobs)
        check_search(matcher.keys(mixed), matcher, options.pairs)
    time_novelty(crystals, options.new, options.earlier, Matcher(), options.jobs)


if __name__ == "__main__":
    main()
