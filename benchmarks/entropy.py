"""Entropy, gains and greedy selections: seconds and errors against QUESTS, on the same descriptors and cores.

Seconds are those of the processor, of all threads: on a machine that does other things too they say more than a clock.

    python -m benchmarks.entropy --n 10000 100000               # equations (1) and (2)
    python -m benchmarks.entropy --scaling 1000 10000 100000 1000000 --plot scaling.png
    python -m benchmarks.entropy --select 4000 40000            # greedy selection; --quests-select 200 2000 for msc
    python -m benchmarks.entropy --campaign outputs/NAME        # of a campaign, by sample size and bandwidth

`--data copies`: environments of perturbed copies of the package's Li-P-S references, by default at the paper's
amplitudes. `--data crystals`: of random crystals, none of which is a copy of another.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from benchmarks.inputs import random_crystals
from chemloop.physics.descriptors import blind_environments, environments
from chemloop.physics.entropy import BANDWIDTH, entropy, entropy_gains, greedy_selection
from chemloop.physics.entropy_series import entropy_at
from chemloop.physics.kernel_sums import Environments
from chemloop.physics.perturbation import perturb
from chemloop.reference import read_reference
from chemloop.runtime.campaign import STAGES, Campaign
from chemloop.stages.describe import read_environments

ELEMENTS = ["Li", "P", "S"]
TOLERANCE = 1e-3  # nats
COUNTED = 200  # environments whose neighbours are counted


def copies(options: argparse.Namespace, seed: int, most_atoms: int = 1000) -> Iterator[Atoms]:
    """Perturbed copies of random references, without end."""
    references = read_reference("package:li-p-s", ELEMENTS, 0.5, str(options.workdir))
    references = [atoms for atoms in references if len(atoms) <= most_atoms]
    rng = np.random.default_rng(seed)
    while True:
        atoms = references[rng.integers(len(references))]
        yield perturb(atoms, tuple(options.displacement), tuple(options.strain), rng)


def crystals(options: argparse.Namespace, seed: int) -> Iterator[Atoms]:
    """Random crystals of 4 to 30 atoms, without end."""
    for part in itertools.count():
        yield from random_crystals(options.workdir, 1000, 100_000 * (seed + 1) + part, 4, 30)


def describe(structures: Sequence[Atoms], options: argparse.Namespace) -> list[np.ndarray]:
    return blind_environments(structures) if options.blind else environments(structures, ELEMENTS)


def sample(n: int, options: argparse.Namespace, seed: int = 0) -> np.ndarray:
    """(n, n_features) float32 environments."""
    source = (crystals if options.data == "crystals" else copies)(options, seed)
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
    begin = time.process_time()
    value = function(*arguments)
    return value, time.process_time() - begin


def neighbors(x: np.ndarray, kernels: Sequence[float]) -> list[float]:
    """Mean number of environments whose kernel with one is above each of the limits."""
    chosen = np.random.default_rng(0).choice(len(x), min(COUNTED, len(x)), replace=False)
    mean = x[:: -(-len(x) // 1000)].mean(axis=0)
    rows, counts = torch.as_tensor(x[chosen] - mean), np.zeros(len(kernels))
    for part in np.array_split(np.arange(len(x)), -(-len(x) // 20_000)):
        squares = torch.cdist(rows, torch.as_tensor(x[part] - mean)).square_()
        counts += [int((squares < -2.0 * BANDWIDTH**2 * np.log(kernel)).sum()) for kernel in kernels]
    return list(counts / len(chosen) - 1)


def set_threads(n: int) -> None:
    """For QUESTS and for torch, whose threads QUESTS takes the liberty to set when it is imported."""
    import numba

    numba.set_num_threads(n)
    torch.set_num_threads(n)


def compare(sizes: Sequence[int], options: argparse.Namespace) -> None:
    n_threads = torch.get_num_threads()
    from quests.entropy import delta_entropy
    from quests.entropy import entropy as quests_entropy

    set_threads(n_threads)
    print(f"{torch.get_num_threads()} threads; environments of {'QUESTS' if options.blind else 'ChemLoop'}")
    for n in sizes:
        x, y = sample(n, options), sample(max(1, n // 10), options, seed=1)
        entropy(x[:5000]), entropy_gains(y[:100], x[:5000])
        ours, seconds = timed(entropy, x)
        rough, rough_seconds = timed(partial(entropy, x, tolerance=TOLERANCE))
        gains, gain_seconds = timed(entropy_gains, y, x)
        print(
            f"\nn = {n}: log n = {np.log(n):.4f}, H = {ours:.6f} in {seconds:.2f} s,"
            f" {len(y)} gains in {gain_seconds:.2f} s;"
            f" with tolerance {TOLERANCE:g}: {rough:.6f} in {rough_seconds:.2f} s"
        )
        for precision in options.precisions:
            a, b = x.astype(precision), y.astype(precision)
            quests_entropy(a[:100]), delta_entropy(b[:100], a[:100])
            theirs, their_seconds = timed(quests_entropy, a)
            their_gains, their_gain_seconds = timed(delta_entropy, b, a)
            finite = np.isfinite(their_gains)
            print(
                f"  QUESTS {precision}: H = {theirs:.6f} in {their_seconds:.2f} s, ratio {their_seconds / seconds:.1f},"
                f" relative error of H {abs(ours - theirs) / theirs:.1e}; with tolerance ratio"
                f" {their_seconds / rough_seconds:.1f}, error {abs(rough - theirs) / theirs:.1e}"
            )
            print(
                f"    gains {their_gain_seconds:.2f} s, ratio {their_gain_seconds / gain_seconds:.1f}, largest"
                f" difference {np.abs(gains - their_gains)[finite].max(initial=0.0):.1e}, {(~finite).sum()} infinite",
                flush=True,
            )


def scale(sizes: Sequence[int], options: argparse.Namespace) -> None:
    seconds: list[float] = []
    pairs: list[float] = []
    print("neighbours of one: mean numbers of others within 3.7 and 6.4 bandwidths; growth: exponent of the last step")
    print("        n  seconds  growth         H     log n  adding 1000  peak GB    neighbours of one  growth of pairs")
    for n in sizes:
        x, more = sample(n, options), sample(1000, options, seed=1)
        value, elapsed = timed(partial(entropy, x, tolerance=TOLERANCE))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        near, within_reach = neighbors(x, (1e-3, 1e-9))
        environments = Environments(x, BANDWIDTH)
        del x
        _, adding = timed(lambda: environments.sums_across(Environments(more, BANDWIDTH)))  # noqa: B023 - called at once
        seconds.append(elapsed)
        pairs.append(n * near)
        growths = [growth(sizes, values) for values in (seconds, pairs)]
        print(
            f"{n:9d}  {elapsed:7.2f}  {growths[0]:6.2f}  {value:8.4f}  {np.log(n):8.4f}  {adding:9.2f} s  {peak:7.2f}"
            f"  {near:8.1f}, {within_reach:9.1f}  {growths[1]:15.2f}",
            flush=True,
        )
        if options.plot:
            plot(sizes, seconds, pairs, options.plot)


def growth(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Exponent of the last step."""
    if len(values) < 2 or not min(values[-2:]):
        return float("nan")
    last = len(values) - 1
    return float(np.log(values[last] / values[last - 1]) / np.log(sizes[last] / sizes[last - 1]))


def plot(sizes: Sequence[int], seconds: Sequence[float], pairs: Sequence[float], path: Path) -> None:
    """Of the sizes done so far."""
    from matplotlib.figure import Figure

    done = np.array(sizes[: len(seconds)], dtype=float)
    figure = Figure(figsize=(8, 4), layout="constrained")
    for axes, values, label in zip(
        figure.subplots(1, 2), (seconds, pairs), ("processor seconds", "pairs with a kernel above 0.001"), strict=True
    ):
        axes.loglog(done, values, "o-", color="tab:blue")
        for power, style in ((1, ":"), (2, "--")):
            axes.loglog(done, values[-1] * (done / done[-1]) ** power, style, label=f"n^{power}", color="grey")
        axes.set(xlabel="environments", ylabel=label)
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
    n_threads = torch.get_num_threads()
    from quests.compression.fps import msc

    set_threads(n_threads)
    source = copies(options, 0, most_atoms=options.most_atoms)
    described = describe([next(source) for _ in range(n_candidates)], options)
    own = np.array([entropy(x) for x in described])
    msc(described[:10], own[:10], 2)
    greedy_selection(described[:10], described[0][:0], 2)
    theirs, seconds = timed(msc, described, own, n)
    (ours, _), our_seconds = timed(greedy_selection, described, described[0][:0], n)
    print(f"{n} of {n_candidates} structures: ratio {seconds / our_seconds:.1f}")
    for name, chosen, elapsed in (("ChemLoop", ours, our_seconds), ("QUESTS msc", theirs, seconds)):
        held = np.vstack([described[i] for i in chosen])
        print(f"  {name} {elapsed:.1f} s, {len(held)} environments of entropy {entropy(held):.4f}")


def of_campaign(folder: Path, sizes: Sequence[int], bandwidths: Sequence[float]) -> None:
    """Of the explored structures after each iteration, at other sample sizes and bandwidths than the campaign's own.

    Drawn as the campaign draws, so that its own size and bandwidth give its own numbers.
    """
    config = Campaign(folder).config()
    explored: list[np.ndarray] = []
    for described in sorted(folder.glob(f"iter-*/{STAGES.index('describe')}-describe")):
        explored += read_environments(described)
        n = sum(map(len, explored))
        print(f"{described.parent.name}: {n} environments")
        for size, bandwidth in itertools.product([size for size in sizes if size <= n], bandwidths):
            found = entropy_at(explored, size, config["loop"]["curate"]["n_repeats"], bandwidth, config["seed"])
            print(f"  n = {size}, h = {bandwidth:g}/A: {found.value:.3f} +- {found.standard_error:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", help="environments to compare with QUESTS on")
    parser.add_argument("--scaling", type=int, nargs="+", help="environments, ChemLoop alone")
    parser.add_argument("--plot", type=Path, help="picture of --scaling")
    parser.add_argument("--select", type=int, nargs=2, metavar=("N", "CANDIDATES"), help="structures, ChemLoop alone")
    parser.add_argument("--quests-select", type=int, nargs=2, metavar=("N", "CANDIDATES"), help="both")
    parser.add_argument("--campaign", type=Path, help="folder of a campaign, whose entropies to compute")
    parser.add_argument("--samples", type=int, nargs="+", default=[100, 1000], help="sample sizes, for --campaign")
    parser.add_argument("--bandwidths", type=float, nargs="+", default=[BANDWIDTH, 0.1], help="1/A, for --campaign")
    parser.add_argument("--precisions", nargs="+", default=["float32", "float64"], help="what QUESTS computes in")
    parser.add_argument("--data", choices=["copies", "crystals"], default="copies", help="for --n and --scaling")
    parser.add_argument("--blind", action="store_true", help="the published descriptor, without elements")
    parser.add_argument(
        "--displacement", type=float, nargs=2, default=[0.08, 0.15], help="range, see physics.perturbation"
    )
    parser.add_argument("--strain", type=float, nargs=2, default=[0.03, 0.05], help="range")
    parser.add_argument("--most-atoms", type=int, default=30, help="of the structures to select from")
    parser.add_argument("--workdir", type=Path, default=Path("outputs/benchmarks"))
    options = parser.parse_args()
    options.workdir.mkdir(parents=True, exist_ok=True)
    if options.n:
        compare(options.n, options)
    if options.scaling:
        scale(options.scaling, options)
    if options.select:
        select(options.select[0], options.select[1], options)
    if options.quests_select:
        quests_select(options.quests_select[0], options.quests_select[1], options)
    if options.campaign:
        of_campaign(options.campaign, options.samples, options.bandwidths)


if __name__ == "__main__":
    main()
