"""Which crystals of other chemistries can become crystals of the system, and how likely that is."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from chemloop.generator.prototypes import read_prototypes
from chemloop.physics.decoration import Decoration, Ion, Prototype, decorations
from chemloop.reference import MATERIALS_PROJECT

if TYPE_CHECKING:
    from pymatgen.analysis.structure_prediction.substitution_probability import SubstitutionProbability


class Proposal(NamedTuple):
    """A prototype and what to put on its sites."""

    prototype: Prototype
    decoration: Decoration

    @property
    def keeps_symmetry(self) -> bool:
        """Whether all sites of each ion get the same new ion."""
        pairs = set(zip(self.prototype.ions, self.decoration.ions, strict=True))
        return len(pairs) == len(set(self.prototype.ions))


@functools.lru_cache(maxsize=8)
def all_proposals(
    sources: tuple[str, ...],
    elements: tuple[str, ...],
    related: tuple[str, ...],
    n_related: int,
    max_atoms: int,
    min_probability: float,
    downloads: str,
) -> list[Proposal]:
    """The decorations of all prototypes, likeliest first; kept from one item of a worker to the next."""
    from pymatgen.core import Element

    table = load_table()
    if MATERIALS_PROJECT in sources and not related:
        related = tuple(related_systems(elements, table, n_related))
    prototypes = read_prototypes(sources, related, max_atoms, downloads)
    chosen = [Element(element) for element in elements]
    states = {
        Ion(ion.symbol, int(ion.oxi_state))
        for ion in table.species
        if ion.symbol in elements and ion.oxi_state == int(ion.oxi_state)
    }
    states |= {Ion(element.symbol, state) for element in chosen for state in element.icsd_oxidation_states}
    replacements = {
        ion: exchange_probabilities(ion, sorted(states), table)
        for ion in sorted({ion for prototype in prototypes for ion in prototype.ions})
    }
    electronegativities = {element.symbol: float(element.X) for element in chosen}
    found = [
        Proposal(prototype, decoration)
        for prototype in prototypes
        for decoration in decorations(prototype, replacements, electronegativities, min_probability)
    ]
    return sorted(found, key=lambda proposal: -proposal.decoration.probability)


def exchange_probabilities(old: Ion, candidates: Sequence[Ion], table: SubstitutionProbability) -> dict[Ion, float]:
    """How likely each of the candidates is to replace an ion of the same sign, by pymatgen's table.

    An exchange that the table lacks has the weight that it gives to exchanges never seen. An ion that it lacks has no
    sum of weights to be normalised with: all ions of the table are then taken to be equally likely.
    Source: doi:10.1021/ic102031h
    """
    from pymatgen.core import Species

    fixed = Species(old.symbol, old.charge)
    unseen = math.exp(table.alpha)
    total = table.get_px(fixed) if fixed in table.species else len(table.species) * unseen
    return {
        new: math.exp(table.get_lambda(Species(new.symbol, new.charge), fixed)) / total
        for new in candidates
        if new.charge * old.charge > 0
    }


def related_systems(elements: Sequence[str], table: SubstitutionProbability, n: int) -> list[str]:
    """The n chemical systems, such as Na-P-S, whose ions are likeliest to stand where those of the elements do.

    For each element: the ions of the same charge that may replace one of its own. The system itself is not among them.
    """

    def likely(element: str) -> dict[str, float]:
        best: dict[str, float] = {}
        for old, new in product((ion for ion in table.species if ion.symbol == element), table.species):
            if new.oxi_state == old.oxi_state:
                best[new.symbol] = max(best.get(new.symbol, 0.0), table.cond_prob(new, old))
        return best

    options = [likely(element) for element in elements]
    scores: dict[str, float] = {}
    for chosen in product(*(sorted(option, key=option.__getitem__, reverse=True)[: n + 1] for option in options)):
        if len(set(chosen)) == len(elements) and set(chosen) != set(elements):
            name = "-".join(sorted(chosen))
            score = math.prod(option[symbol] for option, symbol in zip(options, chosen, strict=True))
            scores[name] = max(scores.get(name, 0.0), score)
    return sorted(scores, key=lambda name: (-scores[name], name))[:n]


@functools.cache
def load_table() -> SubstitutionProbability:
    """pymatgen's probabilities of ionic substitution, mined from the ICSD.

    Source: doi:10.1021/ic102031h
    """
    from pymatgen.analysis.structure_prediction.substitution_probability import SubstitutionProbability

    return SubstitutionProbability()
