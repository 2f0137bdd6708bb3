"""Which structures of a pool become parents, how likely each is to breed, and which operators have paid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from ase import Atoms

# Imaginary proposals of average success that every operator starts with: a few lucky ones prove nothing.
N_PRIOR = 20
# Of its weight, what an operator that never pays keeps: what pays changes in the course of a campaign.
SMALLEST_FACTOR = 0.2


def choose_parents(
    pool: Sequence[Atoms], n: int, max_per_composition: int, max_e_above_hull: float, same_energy: float
) -> list[Atoms]:
    """The n lowest in energy above the hull, with no more than `max_per_composition` of one reduced composition.

    The best of all iterations are therefore always among them. Whatever is on the hull or below counts as on it: how
    far below is mostly the error of the force field of its iteration. Of equals labels come first, then the latest. A
    label stands in for the candidate of the same id.
    pool: structures with `id`, `role`, `e_above_hull` and, where they are candidates, `is_unique`; earliest first;
        lost ones among them are left out
    max_e_above_hull: eV/atom; same_energy: eV/atom, within which two of one composition count as the same structure
    """
    labelled = {atoms.info["id"] for atoms in pool if atoms.info["role"] == "label"}
    chosen: list[Atoms] = []
    energies: dict[str, list[float]] = {}
    for atoms in sorted((atoms for atoms in reversed(pool) if atoms.info["role"] != "lost"), key=_rank):
        energy = atoms.info["e_above_hull"]
        of_composition = energies.setdefault(reduced_formula(atoms), [])
        if (
            len(chosen) < n
            and len(of_composition) < max_per_composition
            and energy <= max_e_above_hull
            and _is_worth_a_look(atoms, labelled)
            and not any(abs(energy - other) < same_energy for other in of_composition)
        ):
            of_composition.append(energy)
            chosen.append(atoms)
    return chosen


def _rank(atoms: Atoms) -> tuple[float, bool]:
    return _energy(atoms), atoms.info["role"] != "label"


def _energy(atoms: Atoms) -> float:
    """eV/atom above the hull, 0 below it."""
    return max(float(atoms.info["e_above_hull"]), 0.0)


def _is_worth_a_look(atoms: Atoms, labelled: set[str]) -> bool:
    info = atoms.info
    return info["role"] == "label" or (info["id"] not in labelled and bool(info["is_unique"]))


def reduced_formula(atoms: Atoms) -> str:
    """E.g. `Li3PS4`, for any number of formula units."""
    return str(atoms.get_chemical_formula("hill", empirical=True))


def mating_weights(parents: Sequence[Atoms], temperature: float) -> np.ndarray:
    """(n_parents,) Boltzmann factors of the energies above the hull, shared among the parents of one composition.

    temperature: eV/atom
    """
    energies = np.array([_energy(atoms) for atoms in parents])
    formulas = [reduced_formula(atoms) for atoms in parents]
    crowd = Counter(formulas)
    # never 0: where the best ones fit no operator, the others still breed
    factors = np.maximum(np.exp((energies.min() - energies) / temperature), 1e-12)
    return factors / [crowd[formula] for formula in formulas]


def operator_success(pool: Sequence[Atoms], operators: Sequence[str]) -> dict[str, dict[str, float]]:
    """How often what each operator made was stable, unique and novel: `n_made`, `n_sun` and `factor`, over the average.

    pool: candidates and lost ones among them carry `operator`, candidates `is_stable`, `is_unique` and `is_novel` too
    """
    made: Counter[str] = Counter()
    paid: Counter[str] = Counter()
    for atoms in pool:
        if atoms.info["role"] in ("candidate", "lost") and (operator := atoms.info.get("operator")) in operators:
            made[operator] += 1
            paid[operator] += all(bool(atoms.info.get(flag)) for flag in ("is_stable", "is_unique", "is_novel"))
    average = paid.total() / max(made.total(), 1)
    success = {}
    for name in operators:
        expected = average * made[name]
        factor = (paid[name] + N_PRIOR * average) / (expected + N_PRIOR * average) if average else 1.0
        success[name] = {"n_made": made[name], "n_sun": paid[name], "factor": max(factor, SMALLEST_FACTOR)}
    return success
