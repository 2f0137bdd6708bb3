"""Entropy, gains and greedy selections: seconds and errors against QUESTS, on the same descriptors and cores.

    python -m benchmarks.entropy --n 10000 100000               # equations (1) and (2)
    python -m benchmarks.entropy --scaling 1000 10000 100000 1000000 --plot scaling.png
    python -m benchmarks.entropy --select 4000 40000            # greedy selection; --quests-select 200 2000 for msc

The environments are those of perturbed copies of the package's Li-P-S references, by default at the paper's amplitudes.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from chemloop.physics.descriptors import blind_environments, environments
from chemloop.physics.entropy import entropy, entropy_gains, greedy_selection
from chemloop.physics.kernel_sums import KernelSums
from chemloop.physics.perturbation import perturb
from chemloop.reference import read_reference

ELEMENTS = ["Li", "P", "S"]


def copies(options: argparse.Namespace, seed: int, most_atoms: int = 1000) -> Iterator[Atoms]:
    """Perturbed copies of random references, without end."""
    references = read_reference("package:li-p-s", ELEMENTS, 0.5, str(options.workdir))
    references = [atoms for atoms in references if len(atoms) <= most_atoms]
    rng = np.random.default_rng(seed)
    while True:
        atoms = references[rng.integers(len(references))]
        yield perturb(atoms, tuple(options.displacement), tuple(options.strain), rng)


def describe(structures: Sequence[Atoms], options: argparse.Namespace) -> list[np.ndarray]:
    return blind_environments(structures) if options.blind else environments(structures, ELEMENTS)


def sample(n: int, options: argparse.Namespace, seed: int = 0) -> np.ndarray:
    """(n, n_features) float32 environments."""
    source = copies(options, seed)
    x: np.ndarray | None = None
    filled = 0
    while filled < n:
        part = np.vstack(describe([next(source) for _ in range(50)], options))[: n - filled]
        if x is None:
            x = np.empty((n, part.shape[1]), dtype=np.float32)
        x[filled : filled + len(part)] = part
        filled += len(part)
    assert x is not None
    return x


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    begin = time.perf_counter()
    value = function(*arguments)
    return value, time.perf_counter() - begin


def compare(sizes: Sequence[int], options: argparse.Namespace) -> None:
    import numba
    from quests.entropy import delta_entropy
    from quests.entropy import entropy as quests_entropy

    numba.set_num_threads(torch.get_num_threads())
    print(f"{torch.get_num_threads()} threads; environments of {'QUESTS' if options.blind else 'ChemLoop'}")
    for n in sizes:
        x, y = sample(n, options), sample(max(1, n // 10), options, seed=1)
        entropy(x[:5000]), entropy_gains(y[:100], x[:5000])
        ours, seconds = timed(entropy, x)
        gains, gain_seconds = timed(entropy_gains, y, x)
        print(
            f"\nn = {n}: log n = {np.log(n):.4f}, H = {ours:.6f} in {seconds:.2f} s,"
            f" {len(y)} gains in {gain_seconds:.2f} s"
        )
        for precision in options.precisions:
            a, b = x.astype(precision), y.astype(precision)
            quests_entropy(a[:100]), delta_entropy(b[:100], a[:100])
            theirs, their_seconds = timed(quests_entropy, a)
            their_gains, their_gain_seconds = timed(delta_entropy, b, a)
            finite = np.isfinite(their_gains)
            print(
                f"  QUESTS {precision}: H = {theirs:.6f} in {their_seconds:.2f} s, ratio {their_seconds / seconds:.1f},"
                f" relative error of H {abs(ours - theirs) / theirs:.1e}; gains {their_gain_seconds:.2f} s, ratio"
                f" {their_gain_seconds / gain_seconds:.1f}, largest difference"
                f" {np.abs(gains - their_gains)[finite].max(initial=0.0):.1e}, {(~finite).sum()} infinite",
                flush=True,
            )


def scale(sizes: Sequence[int], options: argparse.Namespace) -> None:
    seconds: list[float] = []
    print("        n  seconds  exponent         H     log n  adding 1000  peak memory GB")
    for n in sizes:
        x, more = sample(n, options), sample(1000, options, seed=1)
        sums = KernelSums(0.015)
        _, elapsed = timed(sums.add, x)
        value = sums.entropy
        _, adding = timed(sums.add, more)
        exponent = np.log(elapsed / seconds[-1]) / np.log(n / sizes[len(seconds) - 1]) if seconds else np.nan
        seconds.append(elapsed)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{n:9d}  {elapsed:7.2f}  {exponent:8.2f}  {value:8.4f}  {np.log(n):8.4f}  {adding:9.2f} s  {peak:14.2f}",
            flush=True,
        )
    if options.plot:
        plot(sizes, seconds, options.plot)


def plot(sizes: Sequence[int], seconds: Sequence[float], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.loglog(sizes, seconds, "o-", label="ChemLoop")
    for power, style in ((1, ":"), (2, "--")):
        axes.loglog(
            sizes, seconds[-1] * (np.array(sizes) / sizes[-1]) ** power, style, label=f"n^{power}", color="grey"
        )
    axes.set(xlabel="environments", ylabel="seconds", title="Entropy of a set of environments")
    axes.legend()
    figure.savefig(path, dpi=150)


def select(n: int, n_candidates: int, options: argparse.Namespace) -> None:
    source = copies(options, 0, most_atoms=options.most_atoms)
    described = describe([next(source) for _ in range(n_candidates)], options)
    n_environments = sum(map(len, described))
    empty = described[0][:0]
    (indices, gains), seconds = timed(greedy_selection, described, empty, n)
    print(
        f"{n} of {n_candidates} structures, {n_environments} environments: {seconds:.1f} s, last gain {gains[-1]:.2f}"
    )
    print(f"  entropy of the selection {entropy(np.vstack([described[i] for i in indices])):.4f}")


def quests_select(n: int, n_candidates: int, options: argparse.Namespace) -> None:
    import numba
    from quests.compression.fps import msc

    numba.set_num_threads(torch.get_num_threads())
    source = copies(options, 0, most_atoms=options.most_atoms)
    described = describe([next(source) for _ in range(n_candidates)], options)
    own = np.array([entropy(x) for x in described])
    msc(described[:10], own[:10], 2)
    greedy_selection(described[:10], described[0][:0], 2)
    theirs, seconds = timed(msc, described, own, n)
    (ours, _), our_seconds = timed(greedy_selection, described, described[0][:0], n)
    held = [entropy(np.vstack([described[i] for i in chosen])) for chosen in (ours, theirs)]
    print(f"{n} of {n_candidates} structures: ChemLoop {our_seconds:.1f} s, entropy {held[0]:.4f};", end=" ")
    print(f"QUESTS msc {seconds:.1f} s, entropy {held[1]:.4f}; ratio {seconds / our_seconds:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", help="environments to compare with QUESTS on")
    parser.add_argument("--scaling", type=int, nargs="+", help="environments, ChemLoop alone")
    parser.add_argument("--plot", type=Path, help="picture of --scaling")
    parser.add_argument("--select", type=int, nargs=2, metavar=("N", "CANDIDATES"), help="structures, ChemLoop alone")
    parser.add_argument("--quests-select", type=int, nargs=2, metavar=("N", "CANDIDATES"), help="both")
    parser.add_argument("--precisions", nargs="+", default=["float32", "float64"], help="what QUESTS computes in")
    parser.add_argument("--blind", action="store_true", help="the published descriptor, without elements")
    parser.add_argument(
        "--displacement", type=float, nargs=2, default=[0.08, 0.15], help="range, see physics.perturbation"
    )
    parser.add_argument("--strain", type=float, nargs=2, default=[0.03, 0.05], help="range")
    parser.add_argument("--most-atoms", type=int, default=30, help="of the structures to select from")
    parser.add_argument("--workdir", type=Path, default=Path("outputs/benchmarks"))
    options = parser.parse_args()
    if options.n:
        compare(options.n, options)
    if options.scaling:
        scale(options.scaling, options)
    if options.select:
        select(options.select[0], options.select[1], options)
    if options.quests_select:
        quests_select(options.quests_select[0], options.quests_select[1], options)


if __name__ == "__main__":
    main()
