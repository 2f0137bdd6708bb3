"""Oxidation states guessed from a formula, as pymatgen does, without going through all assignments."""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType
from typing import Any


@lru_cache(maxsize=65536)
def guess_oxidation_states(counts: tuple[tuple[str, int], ...]) -> MappingProxyType[str, float]:
    """By element, the mean of the most frequent states that add up to no charge; all 0 where none do.

    The first guess of pymatgen's `Composition.oxi_state_guesses`, which for 20 atoms takes up to a second and for 60
    minutes: here the best score of each sum of states is carried on from atom to atom. One element has state 0.

    counts: of atoms by element, such as (("Li", 3), ("P", 1), ("S", 4))
    """
    neutral = {symbol: 0.0 for symbol, _ in counts}
    if len(counts) == 1:
        return MappingProxyType(neutral)
    totals: dict[int, tuple[float, dict[str, int]]] = {0: (0.0, {})}
    for symbol, number in counts:
        scores = _scores(symbol, number)
        joined: dict[int, tuple[float, dict[str, int]]] = {}
        for total, (score, sums) in totals.items():
            for charge, more in scores.items():
                known = joined.get(total + charge)
                if known is None or score + more > known[0]:
                    joined[total + charge] = (score + more, {**sums, symbol: charge})
        totals = joined
    if 0 not in totals:
        return MappingProxyType(neutral)
    return MappingProxyType({symbol: totals[0][1][symbol] / number for symbol, number in counts})


def _scores(symbol: str, number: int) -> dict[int, float]:
    """Of each sum of the states of so many atoms, how often states that add up to it occur in the ICSD, at best."""
    best: list[dict[int, float]] = [{0: 0.0}, *({} for _ in range(number))]
    for state, frequency in _frequencies(symbol):
        for used in range(number):
            for total, score in best[used].items():
                previous = best[used + 1].get(total + state, -1.0)
                best[used + 1][total + state] = max(previous, score + frequency)
    return best[number]


@lru_cache(maxsize=128)
def _frequencies(symbol: str) -> tuple[tuple[int, float], ...]:
    from pymatgen.core import Composition, Element, Species

    if Composition.oxi_prob is None:
        Composition("LiF").oxi_state_guesses()  # reads the table
    table: Any = Composition.oxi_prob
    element = Element(symbol)
    states = element.icsd_oxidation_states or element.common_oxidation_states
    return tuple((int(state), float(table.get(Species(symbol, state), 0))) for state in states)
