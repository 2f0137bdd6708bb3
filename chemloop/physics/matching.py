"""When two crystals count as the same: duplicates within a set, and novelty against a known set."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list

from chemloop.runtime.errors import ConfigError

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

NO_SPACE_GROUP = "-"


@dataclass
class Matcher:
    """pymatgen's StructureMatcher (primitive cells, volumes made equal), and on request equal numbers of bonds.

    ltol: fraction by which the lattice vectors of equal structures may differ
    stol: (V/N)^(1/3), by which each of their atoms may be displaced; pymatgen's own default is 0.3
    angle_tol: degrees by which the angles of their lattices may differ
    bond_cutoffs: A, e.g. {"P-P": 2.5}; structures whose atoms differ in their numbers of bonds within these cut-offs
        are not equal, however small the displacements; empty = positions alone decide
    """

    ltol: float = 0.2
    stol: float = 0.2
    angle_tol: float = 5.0
    bond_cutoffs: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("ltol", "stol", "angle_tol"):
            if not getattr(self, key) > 0:
                raise ConfigError(f"loop.screen.matcher.{key} = {getattr(self, key)}: must be above 0")
        for pair, cutoff in self.bond_cutoffs.items():
            if not cutoff > 0 or len(pair.split("-")) != 2:
                raise ConfigError(
                    f"loop.screen.matcher.bond_cutoffs has {pair}: {cutoff}; two elements such as P-S and a distance"
                    " in A above 0 are allowed"
                )

    def duplicates(self, structures: Sequence[Atoms]) -> list[int]:
        """For each structure the index of the first structure of its group; its own index where it is that first one.

        A structure joins the first group whose first member it matches, so the groups are those of
        `StructureMatcher.group_structures`, and they depend on nothing but the order given.
        """
        matcher = self._matcher()
        groups: dict[Hashable, list[tuple[int, Structure]]] = defaultdict(list)
        first = []
        for number, atoms in enumerate(structures):
            reduced = reduced_structure(atoms)
            bucket = groups[self._invariant(atoms, reduced)]
            for index, founder in bucket:
                if matcher.fit(founder, reduced, skip_structure_reduction=True):
                    first.append(index)
                    break
            else:
                first.append(number)
                bucket.append((number, reduced))
        return first

    def is_known(self, structures: Sequence[Atoms], known: Sequence[Atoms]) -> list[bool]:
        """For each structure whether it matches one of the known ones."""
        matcher = self._matcher()
        buckets: dict[Hashable, list[Structure]] = defaultdict(list)
        for atoms in known:
            reduced = reduced_structure(atoms)
            buckets[self._invariant(atoms, reduced)].append(reduced)
        flags = []
        for atoms in structures:
            reduced = reduced_structure(atoms)
            bucket = buckets.get(self._invariant(atoms, reduced), [])
            flags.append(any(matcher.fit(other, reduced, skip_structure_reduction=True) for other in bucket))
        return flags

    def _matcher(self) -> StructureMatcher:
        from pymatgen.analysis.structure_matcher import StructureMatcher

        return StructureMatcher(ltol=self.ltol, stol=self.stol, angle_tol=self.angle_tol)

    def _invariant(self, atoms: Atoms, reduced: Structure) -> Hashable:
        """What two structures must share for the matcher to join them, so only structures that share it are compared.

        The number of atoms in the cell as given says nothing, and neither does the volume, because volumes are made
        equal. The number in the cell that the matcher itself reduces to does: it tries no supercells, so it never pairs
        cells of different size.
        """
        return (
            reduced.composition.reduced_formula,
            len(reduced),
            bond_counts(atoms, self.bond_cutoffs) if self.bond_cutoffs else None,
        )


def reduced_structure(atoms: Atoms) -> Structure:
    """The cell that StructureMatcher compares: Niggli reduced, then primitive within pymatgen's 0.25 A."""
    from pymatgen.core import Structure

    structure = Structure(atoms.cell.array, atoms.get_chemical_symbols(), atoms.get_scaled_positions())
    return structure.get_reduced_structure(reduction_algo="niggli").get_primitive_structure()


def bond_counts(atoms: Atoms, cutoffs: dict[str, float]) -> Hashable:
    """How many atoms there are of each kind, in lowest terms; a kind is an element and its bonds to each element.

    cutoffs: A, by pairs of elements such as `P-S`; other pairs form no bond. The same for a cell and its supercells.
    """
    present = set(atoms.symbols)
    pairs = {(*pair.split("-"),): cutoff for pair, cutoff in cutoffs.items() if present.issuperset(pair.split("-"))}
    symbols = atoms.get_chemical_symbols()
    bonds: list[Counter[str]] = [Counter() for _ in symbols]
    if pairs:
        for i, j in zip(*neighbor_list("ij", atoms, pairs), strict=True):
            bonds[i][symbols[j]] += 1
    kinds = Counter((symbol, tuple(sorted(count.items()))) for symbol, count in zip(symbols, bonds, strict=True))
    unit = int(np.gcd.reduce(list(kinds.values())))
    return tuple(sorted((kind, count // unit) for kind, count in kinds.items()))


def space_group(atoms: Atoms, symprec: float = 0.1) -> str:
    """Hermann-Mauguin symbol of the space group, e.g. `Pnma`; `-` where the symmetry search finds none.

    symprec: A; relaxed coordinates are only as symmetric as the relaxation was tight
    """
    import spglib

    try:
        found = spglib.get_symmetry_dataset(
            (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=symprec
        )
    except spglib.SpglibError:
        return NO_SPACE_GROUP
    return NO_SPACE_GROUP if found is None else str(found.international)
