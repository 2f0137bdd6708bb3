"""Crystals of one chemistry from the crystals of another: which ions may stand where those of a prototype do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from ase import Atoms

from chemloop.physics.structures import bare

SYMPREC = 0.05  # A; published coordinates have three digits
# Ways to give every site of a prototype an ion, likely or not; with more, all sites of an ion are exchanged together.
MAX_SPLITS = 10_000_000


class Ion(NamedTuple):
    """An element and its oxidation state."""

    symbol: str
    charge: int


class Decoration(NamedTuple):
    """ions: one for each orbit of the prototype; probability: product over the exchanges that it takes."""

    ions: tuple[Ion, ...]
    probability: float


@dataclass(frozen=True)
class Prototype:
    """A primitive cell whose ions may be exchanged.

    charges: (n_atoms,) oxidation states
    """

    name: str
    atoms: Atoms
    charges: np.ndarray

    @classmethod
    def of(cls, name: str, atoms: Atoms, charges: np.ndarray) -> Prototype:
        """The primitive cell of a crystal with whole oxidation states."""
        import spglib

        kinds, of_atom = np.unique(np.stack([atoms.numbers, charges]), axis=1, return_inverse=True)
        found = spglib.find_primitive(
            (atoms.cell.array, atoms.get_scaled_positions(), (of_atom.ravel() + 1).tolist()), symprec=SYMPREC
        )
        if found is None:
            return cls(name, bare(atoms), np.asarray(charges))
        cell, positions, numbers = found[0], found[1], np.asarray(found[2])
        primitive = Atoms(kinds[0][numbers - 1], cell=cell, scaled_positions=positions, pbc=True)
        return cls(name, primitive, kinds[1][numbers - 1])

    @cached_property
    def orbits(self) -> np.ndarray:
        """(n_atoms,) number of the set of equivalent atoms that each atom belongs to."""
        import spglib

        kinds = np.unique(np.stack([self.atoms.numbers, self.charges]), axis=1, return_inverse=True)[1].ravel()
        found = spglib.get_symmetry_dataset(
            (self.atoms.cell.array, self.atoms.get_scaled_positions(), (kinds + 1).tolist()), symprec=SYMPREC
        )
        return kinds if found is None else np.unique(found.equivalent_atoms, return_inverse=True)[1]

    @property
    def ions(self) -> list[Ion]:
        """One for each orbit."""
        firsts = np.unique(self.orbits, return_index=True)[1]
        return [Ion(self.atoms.symbols[k], int(self.charges[k])) for k in firsts]

    def decorated(self, decoration: Decoration) -> Atoms:
        """The prototype with its ions exchanged, in its own cell."""
        crystal = bare(self.atoms)
        crystal.symbols = [decoration.ions[orbit].symbol for orbit in self.orbits]
        return crystal


def decorations(
    prototype: Prototype,
    replacements: Mapping[Ion, Mapping[Ion, float]],
    electronegativities: Mapping[str, float],
    min_probability: float,
) -> list[Decoration]:
    """All neutral ways to exchange the ions of a prototype that are likely enough.

    Where an ion has several orbits they may differ, which lowers the symmetry and costs the probability of one more
    exchange; orbits of different ions may become alike. Every cation must be less electronegative than every anion.
    replacements: for each ion of the prototype those that may replace it, with the probability of the exchange
    """
    sizes = np.bincount(prototype.orbits)
    ions = prototype.ions
    splits = math.prod(len(replacements[ion]) for ion in ions) <= MAX_SPLITS
    return [
        decoration
        for decoration in _exchanges(ions, [int(size) for size in sizes], replacements, min_probability, splits)
        if is_ionic(decoration.ions, electronegativities)
    ]


def is_ionic(ions: Sequence[Ion], electronegativities: Mapping[str, float]) -> bool:
    """Whether there are cations and anions, every cation less electronegative than every anion.

    Source: Pauling test as in doi:10.1016/j.chempr.2016.09.010
    """
    cations = [electronegativities[ion.symbol] for ion in ions if ion.charge > 0]
    anions = [electronegativities[ion.symbol] for ion in ions if ion.charge < 0]
    return bool(cations and anions) and max(cations) < min(anions)


def _exchanges(
    ions: Sequence[Ion],
    sizes: Sequence[int],
    replacements: Mapping[Ion, Mapping[Ion, float]],
    min_probability: float,
    splits: bool,
) -> Iterator[Decoration]:
    """The neutral ones, orbit by orbit; what cannot become neutral or likely enough any more is left at once."""
    charges = [[ion.charge * size for ion in replacements[old]] or [0] for old, size in zip(ions, sizes, strict=True)]
    least = [sum(min(options) for options in charges[k:]) for k in range(len(ions) + 1)]
    most = [sum(max(options) for options in charges[k:]) for k in range(len(ions) + 1)]

    def extend(
        chosen: tuple[Ion, ...], used: frozenset[tuple[Ion, Ion]], p: float, charge: int
    ) -> Iterator[Decoration]:
        k = len(chosen)
        if p < min_probability or not charge + least[k] <= 0 <= charge + most[k]:
            return
        if k == len(ions):
            yield Decoration(chosen, p)
            return
        before = {new for old, new in used if old == ions[k]}
        for new, probability in replacements[ions[k]].items():
            if new in before:
                yield from extend((*chosen, new), used, p, charge + new.charge * sizes[k])
            elif splits or not before:
                pair = (ions[k], new)
                yield from extend((*chosen, new), used | {pair}, p * probability, charge + new.charge * sizes[k])

    yield from extend((), frozenset(), 1.0, 0)
