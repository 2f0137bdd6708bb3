"""`make report-demo`: a report to look at without a campaign. Its crystals and motifs are real, its numbers made up."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from chemloop.physics import completeness
from chemloop.physics.completeness import Completeness
from chemloop.physics.hull import energies_above_hull
from chemloop.physics.matching import space_group
from chemloop.physics.motifs import MotifCatalogue, find_motifs
from chemloop.physics.perturbation import perturb
from chemloop.report.data import (
    Cost,
    Drop,
    Embedding,
    Find,
    HullParity,
    Iteration,
    MotifCard,
    Origin,
    Parity,
    ReportData,
    StructureCard,
    formula,
)
from chemloop.report.motif_picture import motif_svg
from chemloop.system import System

NAME = "DEMONSTRATION, not a campaign"
SOURCE = "nobody (made up)"
FRAME = "demonstration"
N_ITERATIONS = 6
MOST_ATOMS, MOST_REFERENCE_ATOMS = 32, 64
"""Of a new and of a known structure."""
N_ANALYSED = 400
"""New structures whose motifs are looked for; further ones are strained copies of these and share theirs."""
N_FOUND = 300
"""Structures that count as stable, unique and novel, at most."""
N_COMPARED = 10_000
"""Environments of the samples whose entropy it would be."""
STABLE_BELOW = 0.1
FORMATION = {"Li-S": -5.6, "Li-P": -3.4, "P-S": -1.6}
"""eV/atom per product of two atomic fractions: some convex function of the composition, so that there is a hull."""


def demonstration(n_structures: int = 600, seed: int = 0) -> ReportData:
    """Known Li-P-S crystals, distorted and changed copies of them in the place of new ones, and numbers made up."""
    rng = np.random.default_rng(seed)
    system = System(["Li", "P", "S"], reference="package:li-p-s", bond_cutoffs={"P-S": 2.35, "S-S": 2.20, "P-P": 2.50})
    references = system.references(MOST_REFERENCE_ATOMS)
    for atoms in references:
        set_energy(atoms, float(np.abs(rng.normal(scale=0.02))))
    iterations = np.sort(rng.integers(1, N_ITERATIONS + 1, n_structures))
    new = new_structures(references, iterations, rng)
    above = energies_above_hull(new, references)
    catalogue, titles = motifs_of(references, new[:N_ANALYSED], iterations, above, system)
    best = [index for index in np.argsort(above, kind="stable")[:N_FOUND] if above[index] < STABLE_BELOW]
    finds = [Find(new[index], int(iterations[index]), new[index].info["spacegroup"]) for index in sorted(best)]
    cards = structure_cards(references, new, iterations, above, titles, set(best))
    measured = measurements(catalogue, rng)
    label = above + rng.normal(scale=0.02, size=n_structures)
    labelled = np.flatnonzero(above < 2 * STABLE_BELOW)
    return ReportData(
        campaign=NAME,
        elements=system.elements,
        label_source=SOURCE,
        config_yaml="demonstration: true\n",
        versions={"demonstration": "0"},
        stop_reason="it is a demonstration",
        iterations=[iteration(number, above[iterations == number], rng) for number in range(N_ITERATIONS + 1)],
        energy_parity=parity(800, 0.02, rng),
        force_parity=parity(9000, 0.1, rng),
        parity_iteration=N_ITERATIONS,
        references=references,
        finds=finds,
        stable_below=STABLE_BELOW,
        drops=drops(),
        model_references=references,
        model_finds=finds,
        model_iteration=N_ITERATIONS,
        hull_parity=HullParity(
            [new[index].info["id"] for index in labelled],
            label[labelled],
            above[labelled],
            label[labelled] + rng.normal(scale=0.01, size=len(labelled)),
            N_ITERATIONS,
        ),
        structures=cards,
        embedding=embedding(cards, rng),
        gallery=gallery(catalogue),
        completeness=measured,
        sentence="Demonstration: " + completeness.sentence(measured),
        origins=origins(),
        costs=[Cost(stage, hours, 40, int(hours)) for stage, hours in COSTS.items()],
        labels_computed=900,
        labels_from_cache=260,
        mobile_ion=system.mobile_ion,
        bond_cutoffs=system.bond_cutoffs,
    )


COSTS = {"seed": 0.4, "generate": 0.2, "relax": 6.1, "describe": 0.5, "label": 3.2, "curate": 0.1, "finetune": 2.3}


def set_energy(atoms: Atoms, excess: float) -> None:
    """An energy (eV) that lies this many eV/atom above a smooth function of the composition."""
    fractions = {symbol: np.mean(np.array(atoms.get_chemical_symbols()) == symbol) for symbol in ("Li", "P", "S")}
    energy = excess - 4.0
    for pair, strength in FORMATION.items():
        first, second = pair.split("-")
        energy += strength * fractions[first] * fractions[second]
    atoms.info.update(mlff_energy=float(energy * len(atoms)), energy_frame=FRAME)


def new_structures(references: Sequence[Atoms], iterations: np.ndarray, rng: np.random.Generator) -> list[Atoms]:
    """Distorted copies of small references, every other one with an atom missing or exchanged."""
    small = [atoms for atoms in references if len(atoms) <= MOST_ATOMS and len(set(atoms.symbols)) > 1]
    made: list[Atoms] = []
    for index, number in enumerate(iterations):
        is_analysed = index < N_ANALYSED
        parent = changed(small[index % len(small)], rng) if is_analysed else made[index % N_ANALYSED]
        amplitudes = (0.01, 0.05) if is_analysed else (0.0, 0.01)
        atoms = perturb(parent, amplitudes, (0.005, 0.03), rng, min_distance_scale=0.5)
        atoms.info.update(id=f"i{number:02d}-g{index // 100:03d}-{index % 100:04d}", spacegroup="P1")
        set_energy(atoms, float(rng.gamma(2.0, 0.25 / (1 + number))))
        made.append(atoms)
    return made


def changed(parent: Atoms, rng: np.random.Generator) -> Atoms:
    """The crystal as it is, with an atom less, or with one that is another element."""
    atoms, atom = parent.copy(), int(rng.integers(len(parent)))
    kind = rng.integers(4)
    if kind == 0 and len(atoms) > 2:
        del atoms[atom]
    elif kind == 1:
        atoms.symbols[atom] = rng.choice(["Li", "P", "S"])
    return atoms


def motifs_of(
    references: Sequence[Atoms], new: Sequence[Atoms], iterations: np.ndarray, above: np.ndarray, system: System
) -> tuple[MotifCatalogue, dict[str, list[str]]]:
    """The catalogue of all motifs, and the titles of those of each structure."""
    catalogue, titles = MotifCatalogue(), {}
    for number, atoms in enumerate([*references, *new]):
        motifs = find_motifs(atoms, system.bond_cutoffs, system.mobile_ion)
        index = number - len(references)
        is_reference = index < 0
        iteration = 0 if is_reference else int(iterations[index])
        energy = None if is_reference else float(above[index])
        catalogue.add(motifs, atoms.info["id"], iteration, energy, is_reference)
        entries = (catalogue.find(motif) for motif in motifs)
        titles[atoms.info["id"]] = [entry.title for entry in entries if entry is not None]
    return catalogue, titles


def structure_cards(
    references: Sequence[Atoms],
    new: Sequence[Atoms],
    iterations: np.ndarray,
    above: np.ndarray,
    titles: dict[str, list[str]],
    best: set[int],
) -> dict[str, StructureCard]:
    """All structures; E_hull of the known ones is not made up, so they have none."""
    cards = {}
    for atoms in references:
        id = atoms.info["id"]
        cards[id] = StructureCard(atoms, formula(atoms), space_group(atoms), None, 0, False, titles[id], FRAME)
    for index, atoms in enumerate(new):
        held = titles[new[index % N_ANALYSED].info["id"]]
        energy, number = float(above[index]), int(iterations[index])
        cards[atoms.info["id"]] = StructureCard(atoms, formula(atoms), "P1", energy, number, index in best, held, FRAME)
    return cards


def gallery(catalogue: MotifCatalogue) -> list[MotifCard]:
    """All motifs, the most frequent first."""
    entries = sorted(catalogue.entries, key=lambda entry: -(entry.n_structures + entry.n_references))
    return [
        MotifCard(
            entry.title, motif_svg(entry.motif.atoms, entry.motif.net.bonds, entry.title), entry.motif.atoms,
            entry.motif.charge, entry.motif.dimensionality, entry.motif.shape, entry.first_iteration,
            entry.n_structures, entry.n_references, entry.count, entry.host, entry.e_above_hull, entry.is_known,
            entry.file_stem,
        )
        for entry in entries
    ]  # fmt: skip


def iteration(number: int, above: np.ndarray, rng: np.random.Generator) -> Iteration:
    """Metrics that improve from iteration to iteration."""
    metrics = {
        "curate/entropy_nats": 8.2 - 1.5 * 0.55**number,
        "curate/entropy_error_nats": 0.02,
        "curate/entropy_growth_nats_per_frame": 10.0 ** (-1.5 - 0.5 * number),
        "curate/n_train": 300.0 * (number + 1),
        "finetune/test_energy_rmse_base_mev_per_atom": 68.0 + 4 * number,
        "finetune/test_energy_rmse_before_mev_per_atom": 60.0 * 0.8**number + 8,
        "finetune/test_energy_rmse_after_mev_per_atom": 30.0 * 0.75**number + 6,
        "finetune/test_force_rmse_base_mev_per_ang": 300.0 + 10 * number,
        "finetune/test_force_rmse_before_mev_per_ang": 260.0 * 0.8**number + 40,
        "finetune/test_force_rmse_after_mev_per_ang": 140.0 * 0.75**number + 35,
    }
    if number == 0:
        return Iteration(0, metrics | {"seed/n_frames": 320})
    stable = int((above < STABLE_BELOW).sum())
    n = len(above)
    metrics |= {
        "generate/n_generated": n,
        "screen/n_stable": stable,
        "screen/n_unique": round(0.95 * n),
        "screen/n_novel": round((0.9 - 0.05 * number) * n),
        "screen/n_sun": round((0.8 - 0.05 * number) * stable),
        "screen/lowest_e_above_hull_ev_per_atom": float(above.min()) if n else float("nan"),
        "label/n_frames": 3 * stable,
    }
    return Iteration(number, metrics, above)


def parity(n: int, error: float, rng: np.random.Generator) -> Parity:
    label = rng.normal(size=n)
    return Parity(label, label + 2.5 * error * rng.normal(size=n), label + error * rng.normal(size=n))


def measurements(catalogue: MotifCatalogue, rng: np.random.Generator) -> list[Completeness]:
    """The estimators at work: the real ones, on the motifs there are and on a made-up population of environments."""
    shares = 1 / np.arange(1, 400)
    hosts = [entry.host for entry in catalogue.entries]
    known = np.array([entry.is_known for entry in catalogue.entries])
    places = range(len(shares))
    left, before = catalogue.occurrences(), 0
    counts, motifs = np.zeros(len(shares), dtype=int), np.zeros(len(left), dtype=int)
    found: list[Completeness] = [Completeness(0, 6.7, 0.02, 0.03, n_environments=N_COMPARED)]
    for number in range(1, N_ITERATIONS + 1):
        n = catalogue.n_structures * number // N_ITERATIONS
        further = max(1, catalogue.n_structures // N_ITERATIONS)
        expected = [
            completeness.predict(seen, before, hosts_of, n - before)
            for seen, hosts_of in ((counts, places), (motifs, hosts))
        ]
        drawn = rng.binomial(left, 1 / (N_ITERATIONS + 1 - number))
        counts = counts + rng.binomial(n - before, 0.3 * shares)
        left, motifs, before = left - drawn, np.minimum(motifs + drawn, n), n
        found.append(
            Completeness(
                number, 8.2 - 1.5 * 0.55**number, 0.02, 10.0 ** (-1.5 - 0.5 * number), 0.99 - 0.3 * 0.6**number, 0.01,
                completeness.seen(counts, n, counts > n / 50, places, further, predicted=expected[0]),
                completeness.seen(motifs, n, known, hosts, further, predicted=expected[1]),
                n_environments=N_COMPARED,
            )
        )  # fmt: skip
    return found


def embedding(cards: dict[str, StructureCard], rng: np.random.Generator) -> Embedding:
    """Made up: structures of one motif lie around one point."""
    keys = [card.motifs[0] if card.motifs else "" for card in cards.values()]
    places = {key: rng.normal(scale=30, size=2) for key in sorted(set(keys))}
    centres = np.array([places[key] for key in keys])
    framework, whole = (centres + rng.normal(scale=2.5, size=centres.shape) for _ in range(2))
    return Embedding(list(cards), framework, whole)


def origins() -> list[Origin]:
    """Two generators, one of them with operators."""
    lost = {"outside the system": 12, "too close": 41, "duplicate": 7}
    return [
        Origin("evolution", "", 300, 240, 31, 0.14, 420, lost),
        Origin("evolution", "heredity", 180, 150, 22, 0.12),
        Origin("evolution", "lattice mutation", 120, 90, 9, 0.17),
        Origin("random", "", 300, 291, 8, 0.42, 900, {"attempt: no symmetric placement": 600, "duplicate": 9}),
    ]


def drops() -> list[Drop]:
    return [
        Drop("generate", "distances too small", 210),
        Drop("relax", "not converged after 500 steps", 64),
        Drop("screen", "duplicate", 48),
        Drop("screen", "matches a known structure", 31),
        Drop("label", "no convergence of the made-up label", 1, "i02-g0002"),
    ]


def main() -> None:
    """Write the demonstration and print where it is."""
    from chemloop.report.page import write_report

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="file to write")
    parser.add_argument("--structures", type=int, default=600, help="number of new structures, default 600")
    arguments = parser.parse_args()
    arguments.path.parent.mkdir(parents=True, exist_ok=True)
    write_report(demonstration(arguments.structures), arguments.path)
    print(arguments.path.resolve())


if __name__ == "__main__":
    main()
