"""Labels of one DFT code beside published numbers, or beside another code.

python -m benchmarks.dft                                    # cells and formation energies with labeler=gpaw
python -m benchmarks.dft --against cp2k --names mp-1153     # the same perturbed crystals with both labelers
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from benchmarks.inputs import ELEMENTS, REFERENCE
from chemloop.physics.hull import one_energy_frame
from chemloop.protocols import Labeler
from chemloop.reference import read_reference
from chemloop.runtime.errors import ItemFailed
from chemloop.runtime.label_cache import LabelCache
from chemloop.stages.labelling import Labelled, LabelSettings, Protocol

NAMES = ("mp-135", "mp-157", "mp-7", "mp-1153", "mp-736", "gamma-Li3PS4")
"""bcc Li, black P, the smallest ring crystal of S, Li2S, Li3P, Li3PS4."""

GAMMA_CELL = (6.136, 6.535, 7.708)
"""A; gamma-Li3PS4 at 297 K, axes c, b, a of doi:10.1016/j.ssi.2010.10.001"""


def configured(overrides: Sequence[str], workdir: Path) -> Labeler:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from chemloop.config import build

    conf = Path(__file__).parents[1] / "conf"
    with initialize_config_dir(str(conf), version_base="1.3"):
        node = compose("config", [f"outputs={workdir}", *overrides])
    labeler: Any = OmegaConf.to_container(node.labeler, resolve=True)
    return build(labeler, "labeler")  # type: ignore[no-any-return]  # of the class that the YAML names


def crystals(names: Sequence[str], workdir: Path) -> list[Atoms]:
    found = {atoms.info["name"]: atoms for atoms in read_reference(REFERENCE, ELEMENTS, 0.5, str(workdir))}
    found["gamma-Li3PS4"] = gamma_li3ps4()
    return [found[name] for name in names]


def gamma_li3ps4() -> Atoms:
    """Enargite, which gamma-Li3PS4 is, in the measured cell; the Materials Project has no entry for it."""
    from chemloop.generator.prototypes import aflow_library

    (atoms,) = (atoms for name, atoms in aflow_library() if "AB3C4_oP16_31_a_ab_2ab" in name)
    atoms = atoms.copy()
    atoms.symbols = [{"Cu": "Li", "As": "P", "S": "S"}[symbol] for symbol in atoms.symbols]
    atoms.set_cell(GAMMA_CELL, scale_atoms=True)
    atoms.info = {"id": "gamma-Li3PS4", "name": "gamma-Li3PS4", "phase": "gamma-Li3PS4, measured cell"}
    return atoms


def computed(labeler: Labeler, structures: Sequence[Atoms], kind: str, workdir: Path) -> list[Atoms]:
    """The last frame of each; labels are cached."""
    protocol = Protocol(labeler, LabelSettings(n_perturbations=1, n_static=0), LabelCache(workdir / "label-cache"))
    ends = []
    for atoms in structures:
        result = Labelled()
        frames = protocol.compute(atoms, kind, result)
        if not frames:
            raise ItemFailed(f"{atoms.info.get('name', atoms.symbols)}: {'; '.join(result.reasons)}")
        ends.append(frames[-1])
    return ends


def cells_and_formation_energies(starts: Sequence[Atoms], ends: Sequence[Atoms]) -> list[str]:
    """A Markdown table: relaxed cells beside those they start from, formation energies from the elements among them."""
    one_energy_frame(ends)
    elements: dict[str, float] = {}
    for end in ends:
        energy = end.info["label_energy"] / len(end)
        if len(set(end.symbols)) == 1:
            symbol = str(end.symbols[0])
            elements[symbol] = min(energy, elements.get(symbol, energy))
    lines = [
        "| crystal | a, b, c (A) here | published | volume, % | energy (eV/atom) | formation energy (eV/atom)"
        " | converged |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for start, end in zip(starts, ends, strict=True):
        counts = Counter(end.symbols)
        energy = end.info["label_energy"] / len(end)
        formation = "-"
        if len(counts) > 1 and counts.keys() <= elements.keys():
            reference = sum(n * elements[symbol] for symbol, n in counts.items())
            formation = f"{energy - reference / len(end):.3f}"
        here, there = (", ".join(f"{x:.3f}" for x in atoms.cell.lengths()) for atoms in (end, start))
        name = f"{start.info['phase']} ({start.info['name']})"
        volume = 100 * end.cell.volume / start.cell.volume
        lines.append(
            f"| {name} | {here} | {there} | {volume:.1f} | {energy:.4f} | {formation} | {bool(end.info['converged'])} |"
        )
    return lines


def perturbed(structures: Sequence[Atoms], n: int) -> list[list[Atoms]]:
    """n perturbed copies of each, at the paper's amplitudes."""
    from chemloop.physics.perturbation import perturb

    rng = np.random.default_rng(0)
    return [[perturb(atoms, (0.08, 0.15), (0.03, 0.05), rng) for _ in range(n)] for atoms in structures]


def differences(one: Sequence[Sequence[Atoms]], other: Sequence[Sequence[Atoms]]) -> list[str]:
    """A Markdown table: root-mean-square differences of two codes. Energies are compared among copies of one crystal:
    the codes have different zeros.
    """
    lines = [
        "| crystal | copies | spread of energies (meV/atom) | difference | forces (meV/A) | difference"
        " | stress (GPa) | difference |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for ours, theirs in zip(one, other, strict=True):
        energies, forces, stresses = (
            [np.array([value(atoms) for atoms in frames]) for frames in (ours, theirs)]
            for value in (
                lambda atoms: 1e3 * atoms.info["label_energy"] / len(atoms),
                lambda atoms: 1e3 * atoms.arrays["label_forces"],
                lambda atoms: 160.21766 * atoms.info["label_stress"],
            )
        )
        energies = [values - values.mean() for values in energies]
        numbers = [f"{rms(x[0]):.1f} | {rms(x[1] - x[0]):.1f}" for x in (energies, forces)]
        numbers.append(f"{rms(stresses[0]):.2f} | {rms(stresses[1] - stresses[0]):.2f}")
        lines.append(f"| {ours[0].symbols} | {len(ours)} | {' | '.join(numbers)} |")
    return lines


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", default=",".join(NAMES), help="of reference structures, or gamma-Li3PS4")
    parser.add_argument("--against", help="another labeler, e.g. cp2k: single points of perturbed copies with both")
    parser.add_argument("--copies", type=int, default=6, help="of each crystal")
    parser.add_argument("--workdir", type=Path, default=Path("outputs/benchmarks"))
    parser.add_argument("overrides", nargs="*", default=[], help="as for python -m chemloop, e.g. labeler=vasp")
    arguments = parser.parse_args()
    workdir = arguments.workdir.resolve()
    overrides = arguments.overrides
    if not any(override.startswith("labeler=") for override in overrides):
        overrides = ["labeler=gpaw", *overrides]
    starts = crystals(arguments.names.split(","), workdir)
    if arguments.against is None:
        ends = computed(configured(overrides, workdir), starts, "relax", workdir)
        print("\n".join(cells_and_formation_energies(starts, ends)))
        return
    copies = perturbed(starts, arguments.copies)
    labelled = [
        [computed(labeler, group, "static", workdir) for group in copies]
        for labeler in (configured(overrides, workdir), configured([f"labeler={arguments.against}"], workdir))
    ]
    print("\n".join(differences(*labelled)))


if __name__ == "__main__":
    main()
