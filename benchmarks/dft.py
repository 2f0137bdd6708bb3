"""Reference crystals relaxed by a DFT labeler, beside the cells of the Materials Project that it starts from."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from ase import Atoms

from benchmarks.inputs import ELEMENTS, REFERENCE
from chemloop.physics.hull import one_energy_frame
from chemloop.reference import read_reference
from chemloop.runtime.errors import ItemFailed
from chemloop.runtime.label_cache import LabelCache
from chemloop.stages.labelling import Labelled, LabelSettings, Protocol

NAMES = ("mp-135", "mp-157", "mp-7", "mp-1153", "mp-736", "mp-2646995")
"""bcc Li, black P, the smallest ring crystal of S, Li2S, Li3P, Li3PS4 with 8 atoms."""


def relaxed(names: list[str], overrides: list[str], workdir: Path) -> list[tuple[Atoms, Atoms]]:
    """The crystals as the Materials Project has them and as the labeler relaxes them; its labels are cached."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from chemloop.config import build

    conf = Path(__file__).parents[1] / "conf"
    with initialize_config_dir(str(conf), version_base="1.3"):
        node = compose("config", [f"outputs={workdir}", *overrides])
    labeler = build(OmegaConf.to_container(node.labeler, resolve=True), "labeler")  # type: ignore[arg-type]  # a dictionary
    protocol = Protocol(labeler, LabelSettings(n_perturbations=1, n_static=0), LabelCache(workdir / "label-cache"))
    crystals = {atoms.info["name"]: atoms for atoms in read_reference(REFERENCE, ELEMENTS, 0.5, str(workdir))}
    pairs = []
    for name in names:
        start = crystals[name]
        result = Labelled()
        steps = protocol.compute(start, "relax", result)
        if not steps:
            raise ItemFailed(f"{name}: {'; '.join(result.reasons)}")
        pairs.append((start, steps[-1]))
    return pairs


def rows(pairs: list[tuple[Atoms, Atoms]]) -> list[str]:
    """A Markdown table: cells of both, and formation energies from the elements among the crystals."""
    one_energy_frame([end for _, end in pairs])
    elements: dict[str, float] = {}
    for _, end in pairs:
        energy = end.info["label_energy"] / len(end)
        if len(set(end.symbols)) == 1:
            symbol = str(end.symbols[0])
            elements[symbol] = min(energy, elements.get(symbol, energy))
    lines = [
        "| crystal | a, b, c (A) here | MP | volume, % of MP | formation energy (eV/atom) | converged |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for start, end in pairs:
        counts = Counter(end.symbols)
        formation = "-"
        if len(counts) > 1 and counts.keys() <= elements.keys():
            reference = sum(n * elements[symbol] for symbol, n in counts.items())
            formation = f"{(end.info['label_energy'] - reference) / len(end):.3f}"
        here, there = (", ".join(f"{x:.3f}" for x in atoms.cell.lengths()) for atoms in (end, start))
        volume = 100 * end.cell.volume / start.cell.volume
        name = f"{start.info['phase']} ({start.info['name']})"
        lines.append(f"| {name} | {here} | {there} | {volume:.1f} | {formation} | {bool(end.info['converged'])} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", default=",".join(NAMES), help="names of reference structures")
    parser.add_argument("--workdir", type=Path, default=Path("outputs/benchmarks"))
    parser.add_argument("overrides", nargs="*", default=[], help="as for python -m chemloop, e.g. labeler=vasp")
    arguments = parser.parse_args()
    overrides = arguments.overrides
    if not any(override.startswith("labeler=") for override in overrides):
        overrides = ["labeler=gpaw", *overrides]
    print("\n".join(rows(relaxed(arguments.names.split(","), overrides, arguments.workdir.resolve()))))


if __name__ == "__main__":
    main()
