"""When two crystals count as the same: duplicates within a set, and novelty against a known set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from chemloop.runtime.errors import ConfigError

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    from chemloop.physics.crystal_key import CrystalKey

NO_SPACE_GROUP = "-"
CHUNK = 200  # structures per task of a process


@dataclass
class Matcher:
    """pymatgen's StructureMatcher (primitive cells, volumes made equal), and on request equal bond graphs.

    The matcher itself sees only pairs that share composition, size of the primitive cell and bonds, and for which
    `lattice_search.compare` cannot tell what it would say, so the partition is the matcher's own.

    ltol: fraction by which the lattice vectors of equal structures may differ
    stol: (V/N)^(1/3), by which each of their atoms may be displaced; pymatgen's own default is 0.3
    angle_tol: degrees by which the angles of their lattices may differ
    bond_cutoffs: A, e.g. {"P-P": 2.5}; structures with other bonded pieces, or other numbers of them, are not equal,
        however small the displacements; empty = positions alone decide
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

    def keys(self, structures: Sequence[Atoms], n_jobs: int = 1) -> list[CrystalKey]:
        """What matching needs to know of each structure; it can be stored as JSON.

        n_jobs: processes; more than one pays from some thousand structures on
        Raises: StructureError for a structure that breaks the conventions
        """
        from chemloop.physics.reduction import find_key

        if n_jobs == 1:
            return [find_key(atoms, self.bond_cutoffs) for atoms in structures]
        chunks = [(structures[begin : begin + CHUNK],) for begin in range(0, len(structures), CHUNK)]
        return [key for part in _in_parallel(n_jobs, self.keys, chunks) for key in part]

    def duplicates(self, structures: Sequence[Atoms | CrystalKey], n_jobs: int = 1) -> list[int]:
        """For each structure the index of the first structure of its group; its own index where it is that first one.

        A structure joins the first group whose first member it matches, so the groups are those of
        `StructureMatcher.group_structures`, and they depend on nothing but the order given. n_jobs: processes
        """
        keys = self._keys(structures, n_jobs)
        buckets = list(_buckets(keys).values())
        parts = _in_parallel(n_jobs, self._founders, [([keys[number] for number in bucket],) for bucket in buckets])
        first = list(range(len(keys)))
        for bucket, founders in zip(buckets, parts, strict=True):
            for number, founder in zip(bucket, founders, strict=True):
                first[number] = bucket[founder]
        return first

    def is_known(
        self, structures: Sequence[Atoms | CrystalKey], known: Sequence[Atoms | CrystalKey], n_jobs: int = 1
    ) -> list[bool]:
        """For each structure whether it matches one of the known ones; n_jobs: processes."""
        keys, known_keys = self._keys(structures, n_jobs), self._keys(known, n_jobs)
        known_buckets = _buckets(known_keys)
        chunks = [
            (bucket[begin : begin + CHUNK], known_buckets[name])
            for name, bucket in _buckets(keys).items()
            if name in known_buckets
            for begin in range(0, len(bucket), CHUNK)
        ]
        tasks = [([keys[number] for number in new], [known_keys[number] for number in old]) for new, old in chunks]
        flags = [False] * len(keys)
        for (new, _), found in zip(chunks, _in_parallel(n_jobs, self._are_known, tasks), strict=True):
            for number, is_known in zip(new, found, strict=True):
                flags[number] = is_known
        return flags

    def _keys(self, structures: Sequence[Atoms | CrystalKey], n_jobs: int) -> list[CrystalKey]:
        found = iter(self.keys([atoms for atoms in structures if isinstance(atoms, Atoms)], n_jobs))
        return [next(found) if isinstance(atoms, Atoms) else atoms for atoms in structures]

    def _founders(self, bucket: Sequence[CrystalKey]) -> list[int]:
        """For each member of a bucket the first member of its group."""
        cells, positions, kinds = _stacked(bucket)
        founders: list[int] = []
        earlier: list[CrystalKey] = []
        first: list[int] = []
        for number, key in enumerate(bucket):
            n = len(founders)
            found = self._find(key, earlier, (cells[:n], positions[:n], kinds[:n]))
            first.append(number if found is None else founders[found])
            if found is None:
                # founders move to the front; whoever stood there has had its turn
                cells[n], positions[n], kinds[n] = key.search_terms
                founders.append(number)
                earlier.append(key)
        return first

    def _are_known(self, bucket: Sequence[CrystalKey], known: Sequence[CrystalKey]) -> list[bool]:
        terms = _stacked(known)
        return [self._find(key, known, terms) is not None for key in bucket]

    def _find(
        self, key: CrystalKey, earlier: Sequence[CrystalKey], terms: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> int | None:
        """Index of the first of the earlier crystals of the same bucket that this one equals; terms: theirs, stacked.

        The matcher's answer depends on the order for a few pairs; it is given the earlier one first.
        """
        from chemloop.physics.lattice_search import YES, next_match

        tolerances = self.ltol, self.stol, self.angle_tol
        number, verdict = next_match(0, *terms, *key.search_terms, *tolerances)
        while number < len(earlier):
            other = earlier[number]
            is_match = verdict == YES or self._matcher.fit(
                other.structure, key.structure, skip_structure_reduction=True
            )
            if is_match and other.has_nets_of(key):
                return number
            number, verdict = next_match(number + 1, *terms, *key.search_terms, *tolerances)
        return None

    @cached_property
    def _matcher(self) -> StructureMatcher:
        from pymatgen.analysis.structure_matcher import StructureMatcher

        return StructureMatcher(ltol=self.ltol, stol=self.stol, angle_tol=self.angle_tol)


def _stacked(keys: Sequence[CrystalKey]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    cells, positions, kinds = zip(*(key.search_terms for key in keys), strict=True)
    return np.stack(cells), np.stack(positions), np.stack(kinds)


def _buckets(keys: Sequence[CrystalKey]) -> dict[Hashable, list[int]]:
    buckets: dict[Hashable, list[int]] = defaultdict(list)
    for number, key in enumerate(keys):
        buckets[key.bucket].append(number)
    return buckets


def _in_parallel(n_jobs: int, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The function's values in the order of the tasks."""
    if n_jobs == 1:
        return [function(*arguments) for arguments in tasks]
    from joblib import Parallel, delayed

    return list(Parallel(n_jobs=n_jobs)(delayed(function)(*arguments) for arguments in tasks))


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
