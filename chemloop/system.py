"""The chemical system that a campaign explores: its elements, mobile ion, bonds and known structures."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement

from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from chemloop.physics.topology import Topology
from chemloop.reference import read_reference
from chemloop.runtime.errors import ConfigError, StructureError

AUTO = "auto"
MOBILE_IONS = ("Li", "Na", "K", "Rb", "Cs", "Ag", "Cu")  # the usual monovalent carriers of solid electrolytes
# Bonds of a framework are within 1.1 times the sum of covalent radii, the next neighbours beyond 1.35 times
# (Li-P-S: P-P 2.4 and 2.9 A, S-S 2.1 and 3.0 A).
BOND_SCALE = 1.15


def system_name(name: str | None, elements: Sequence[str]) -> str:
    """As given, else the elements, e.g. na-p-s."""
    return name or "-".join(elements).lower()


@dataclass
class System:
    """A chemical system as configured: `conf/system/NAME.yaml`.

    name: in campaign names; null = the elements, e.g. na-p-s
    mobile_ion: an element; auto = the alkali metal, Ag or Cu of the system where there is just one; null = none
    bond_cutoffs: A; pairs of elements of the framework that it lacks get 1.15 times the sum of their covalent radii,
        pairs of elements that are not in the framework, the system without its mobile ion, are of no effect
    topology: rules for the bonds of generated structures, see `loop.generate.topology`; null = none
    """

    elements: list[str]
    reference: str | None = None
    name: str | None = None
    mobile_ion: str | None = AUTO
    bond_cutoffs: dict[str, float] = field(default_factory=dict)
    min_distance_ratio: float = 0.5
    downloads: str = "outputs/references"
    topology: Topology | None = None

    def __post_init__(self) -> None:
        check_elements(self.elements, "system.elements")
        self.name = system_name(self.name, self.elements)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ConfigError(f"system.name = {self.name!r}: letters, digits, dot, dash and underscore are allowed")
        if not 0 < self.min_distance_ratio < 1:
            raise ConfigError(f"system.min_distance_ratio = {self.min_distance_ratio}: must be between 0 and 1")
        if self.mobile_ion == AUTO:
            ions = [element for element in self.elements if element in MOBILE_IONS]
            self.mobile_ion = ions[0] if len(ions) == 1 else None
        elif self.mobile_ion is not None and self.mobile_ion not in self.elements:
            raise ConfigError(
                f"system.mobile_ion = {self.mobile_ion}: must be one of {', '.join(self.elements)}, auto, or null"
            )
        self.bond_cutoffs = self._all_bond_cutoffs()
        if self.topology is not None:
            self.topology.check_elements(self.framework)

    @property
    def framework(self) -> list[str]:
        """The elements without the mobile ion, in alphabetical order."""
        return sorted(element for element in self.elements if element != self.mobile_ion)

    def references(self, max_atoms: int | None = None) -> list[Atoms]:
        """The known structures, with `id`, `name`, `formula` and `phase`; each element has at least one of its own.

        max_atoms: larger cells are left out, but an element whose structures are all larger keeps its smallest

        Raises: StructureError for a file or a structure that cannot be used, or an element without a structure
        """
        structures = read_reference(self.reference, self.elements, self.min_distance_ratio, self.downloads)
        missing = [element for element in self.elements if not elemental(structures, element)]
        if missing:
            raise StructureError(
                f"system.reference = {self.reference or 'null'} has no structure of {' nor of '.join(missing)} alone,"
                " and without one for each element there is no hull; add what is missing, or use"
                " system.reference=materials_project"
            )
        for number, atoms in enumerate(structures):
            atoms.info["id"] = f"i00-r{number:04d}"
        if max_atoms is None:
            return structures
        smallest = {id(min(elemental(structures, element), key=len)) for element in self.elements}
        small_enough = {
            element
            for element in self.elements
            if any(len(atoms) <= max_atoms for atoms in elemental(structures, element))
        }
        return [
            atoms
            for atoms in structures
            if len(atoms) <= max_atoms or (id(atoms) in smallest and not set(atoms.symbols) <= small_enough)
        ]

    def _all_bond_cutoffs(self) -> dict[str, float]:
        """Cut-offs (A) of all bonds inside the system, keys in alphabetical order, e.g. `P-S`."""
        framework = self.framework
        cutoffs = {
            f"{a}-{b}": round(
                BOND_SCALE * float(covalent_radii[atomic_numbers[a]] + covalent_radii[atomic_numbers[b]]), 3
            )
            for a, b in combinations_with_replacement(framework, 2)
        }
        for key, cutoff in self.bond_cutoffs.items():
            pair = sorted(key.split("-"))
            if len(pair) != 2 or not all(symbol in atomic_numbers for symbol in pair):
                raise ConfigError(f"system.bond_cutoffs has {key!r}: must be two element symbols, such as P-S")
            if not 0 < cutoff < math.inf:
                raise ConfigError(f"system.bond_cutoffs.{key} = {cutoff}: must be a distance in A, above 0")
            if set(pair) <= set(framework):
                cutoffs["-".join(pair)] = cutoff
        return cutoffs


def elemental(structures: Sequence[Atoms], element: str) -> list[Atoms]:
    """The structures that hold one element and no other."""
    return [atoms for atoms in structures if set(atoms.symbols) == {element}]


def check_elements(elements: Sequence[str], key: str) -> None:
    """Check that elements are symbols of elements, each given once.

    Raises: ConfigError
    """
    if not elements:
        raise ConfigError(f"{key} is empty: give element symbols, such as [Li,P,S]")
    for symbol in elements:
        if symbol not in chemical_symbols[1:]:
            raise ConfigError(f"{key} has {symbol!r}, which is no element{_did_you_mean(str(symbol))}")
    twice = sorted({symbol for symbol in elements if list(elements).count(symbol) > 1})
    if twice:
        raise ConfigError(
            f"{key} = [{','.join(elements)}] has {', '.join(twice)} more than once; give each element once"
        )


def _did_you_mean(symbol: str) -> str:
    # One wrong letter of two is a likeness of 0.5.
    close = difflib.get_close_matches(symbol.capitalize(), chemical_symbols[1:], n=3, cutoff=0.5)
    exact = symbol.capitalize() in close
    return (
        f"; did you mean {symbol.capitalize() if exact else ' or '.join(close)}?"
        if close
        else "; symbols of the periodic table, such as Li, are allowed"
    )
