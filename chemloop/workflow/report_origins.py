"""For the report: what became of the proposals of each generator and operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ase import Atoms

from chemloop.report.data import Origin
from chemloop.stages.proposals import PROPOSALS, Made, Proposals, read_proposals
from chemloop.stages.relax import is_sun
from chemloop.workflow.report_rounds import Round, having


def origins(rounds: Sequence[Round]) -> list[Origin]:
    """Each generator, and after it its operators, those that found most first; empty where nobody counted.

    Of the iterations that are screened: of the others nobody can have found anything yet.
    """
    proposals, screened = Proposals(), list[Atoms]()
    for each in having(rounds, "generate", "screen"):
        folder = each.stages["generate"].folder
        if (folder / PROPOSALS).exists():
            proposals += read_proposals(folder)
            screened += each.screened
    found = []
    for generator in proposals.generators:
        own = [atoms for atoms in screened if atoms.info["generator"] == generator]
        whole = origin(proposals.of_generator(generator), own)
        whole.n_attempts = proposals.n_attempts.get(generator)
        whole.lost = lost(proposals, generator)
        operators = [
            origin(row, [atoms for atoms in own if atoms.info.get("operator") == row.operator])
            for row in proposals.made.values()
            if row.generator == generator and row.operator
        ]
        found += [whole, *sorted(operators, key=lambda each: (-each.n_sun, -each.n_valid, each.operator))]
    return found


def origin(made: Made, screened: Sequence[Atoms]) -> Origin:
    """screened: those of the valid ones that were relaxed and not sorted out"""
    energies = [float(atoms.info["e_above_hull"]) for atoms in screened if atoms.info["converged"]]
    mean = sum(energies) / len(energies) if energies else None
    return Origin(made.generator, made.operator, made.n_proposed, made.n_valid, sum(map(is_sun, screened)), mean)


def lost(proposals: Proposals, generator: str) -> dict[str, int]:
    """Proposals of a generator that were dropped and attempts that it gave up itself, by reason."""
    dropped: Counter[str] = proposals.of_generator(generator).dropped
    rejected = proposals.rejected.get(generator, Counter())
    return {**dropped, **{f"attempt: {reason}": n for reason, n in rejected.items()}}
