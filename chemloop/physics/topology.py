"""Which bonds, coordination numbers and shared polyhedra a framework may have: constraints on its bond graph."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms

from chemloop.runtime.errors import ConfigError

SHARING = ("none", "corner", "edge", "face")
"""What two polyhedra share: no, one, two, or three and more of the atoms at their corners."""
MAX_COORDINATION = 24  # of Ca in CaB6, the most in any common structure type
SYMBOL = "[A-Z][a-z]?"
PAIR = f"{SYMBOL}-{SYMBOL}"


@dataclass
class Topology:
    """Rules for the bond graph of the framework, the structure without its mobile ion: `system.topology`.

    The bonds are those of `system.bond_cutoffs`. A rule about elements that a structure lacks is kept by it.

    bonds: pairs of elements that may be bonded, e.g. P-S, and no others; null = all
    forbidden_bonds: pairs of elements that may not be
    coordination: allowed numbers of neighbours, e.g. P-S: [3, 4] for the S around each P, P: [4] for all around each P
    sharing: by element at the centre of a polyhedron the most that it may share with any other polyhedron around an
        element named here, one of SHARING; the corners are the bonded atoms of other elements than these
    isolated: elements whose atoms may stand without a bond; null = all, [] = none
    max_dimensionality: 0 molecules only, 1 also chains, 2 also sheets, null or 3 also networks

    Raises: ConfigError
    Source: doi:10.48550/arXiv.2510.09406 (TOPIC, corner sharing only)
    """

    bonds: list[str] | None = None
    forbidden_bonds: list[str] = field(default_factory=list)
    coordination: dict[str, list[int]] = field(default_factory=dict)
    sharing: dict[str, str] = field(default_factory=dict)
    isolated: list[str] | None = None
    max_dimensionality: int | None = None

    def __post_init__(self) -> None:
        for key, name, pattern in self._names():
            if not re.fullmatch(pattern, name):
                form = {PAIR: "two elements such as P-S", SYMBOL: "an element such as P"}
                allowed = form.get(pattern, f"{form[SYMBOL]} or {form[PAIR]}")
                raise ConfigError(f"system.topology.{key} has {name!r}: must be {allowed}")
        both = {ordered(pair) for pair in self.bonds or ()} & {ordered(pair) for pair in self.forbidden_bonds}
        if both:
            raise ConfigError(
                f"system.topology allows and forbids {', '.join(sorted(both))}: name it in bonds or in forbidden_bonds"
            )
        for name, numbers in self.coordination.items():
            self._check_coordination(name, numbers)
        for name, most in self.sharing.items():
            if most not in SHARING:
                raise ConfigError(f"system.topology.sharing.{name} = {most}: must be one of {', '.join(SHARING)}")
        if self.max_dimensionality is not None and not 0 <= self.max_dimensionality <= 3:
            raise ConfigError(
                f"system.topology.max_dimensionality = {self.max_dimensionality}: must be 0 (molecules), 1, 2, 3 or"
                " null"
            )

    def _check_coordination(self, name: str, numbers: list[int]) -> None:
        if not numbers or not all(0 <= number <= MAX_COORDINATION for number in numbers):
            raise ConfigError(
                f"system.topology.coordination.{name} = {numbers}: must be one or more numbers of neighbours between"
                f" 0 and {MAX_COORDINATION}, such as [3, 4]"
            )
        if "-" in name and 0 not in numbers and not self.allows(ordered(name)):
            raise ConfigError(
                f"system.topology.coordination.{name} = {numbers} needs {ordered(name)} bonds, which"
                " system.topology does not allow; allow them, or allow 0 neighbours"
            )

    def _names(self) -> Iterator[tuple[str, str, str]]:
        """Key, name given there, and the pattern of the names that the key takes."""
        for key, names, pattern in (
            ("bonds", self.bonds or (), PAIR),
            ("forbidden_bonds", self.forbidden_bonds, PAIR),
            ("coordination", self.coordination, f"{SYMBOL}|{PAIR}"),
            ("sharing", self.sharing, SYMBOL),
            ("isolated", self.isolated or (), SYMBOL),
        ):
            yield from ((key, name, pattern) for name in names)

    def check_elements(self, framework: Iterable[str]) -> None:
        """Check that every rule is about elements of the framework.

        Raises: ConfigError
        """
        allowed = sorted(framework)
        for key, name, _ in self._names():
            for symbol in name.split("-"):
                if symbol not in allowed:
                    raise ConfigError(
                        f"system.topology.{key} has {name}, but {symbol} is not in the framework (the elements without"
                        f" the mobile ion); allowed are {', '.join(allowed)}"
                    )

    def allows(self, pair: str) -> bool:
        """Whether two elements may be bonded; pair: e.g. `P-S`, in alphabetical order."""
        if self.bonds is not None and pair not in {ordered(other) for other in self.bonds}:
            return False
        return pair not in {ordered(other) for other in self.forbidden_bonds}


def ordered(pair: str) -> str:
    return "-".join(sorted(pair.split("-")))


def breaks(atoms: Atoms, topology: Topology, bond_cutoffs: Mapping[str, float]) -> str | None:
    """The first rule that a structure breaks, in words that are the same for every structure which breaks it likewise,
    such as `P with 3 S`; None where it keeps them all.

    bond_cutoffs: A, longest bond by pairs of elements such as `P-S`; they name the elements of the framework
    """
    from chemloop.physics.nets import bonds_of, connected_nets

    elements = {symbol for pair in bond_cutoffs for symbol in pair.split("-")}
    framework = atoms[[symbol in elements for symbol in atoms.get_chemical_symbols()]]
    symbols = framework.get_chemical_symbols()
    i, j, shifts = bonds_of(framework, bond_cutoffs)
    for pair in sorted({ordered(f"{symbols[a]}-{symbols[b]}") for a, b in zip(i, j, strict=True)}):
        if not topology.allows(pair):
            return f"{pair} bond"
    broken = _broken_coordination(symbols, i, j, topology) or _broken_sharing(symbols, i, j, shifts, topology)
    if broken is not None or topology.max_dimensionality is None:
        return broken
    highest = max((net.dimensionality for _, _, net in connected_nets(symbols, i, j, shifts)), default=0)
    return f"{highest}-dimensional framework" if highest > topology.max_dimensionality else None


def _broken_coordination(symbols: list[str], i: np.ndarray, j: np.ndarray, topology: Topology) -> str | None:
    bonded: list[Counter[str]] = [Counter() for _ in symbols]
    for a, b in zip(i.tolist(), j.tolist(), strict=True):
        bonded[a][symbols[b]] += 1
    for symbol, around in zip(symbols, bonded, strict=True):
        if not around and topology.isolated is not None and symbol not in topology.isolated:
            return f"isolated {symbol}"
    for name, allowed in topology.coordination.items():
        centre, _, other = name.partition("-")
        for symbol, around in zip(symbols, bonded, strict=True):
            n = around[other] if other else around.total()
            if symbol == centre and n not in allowed:
                return f"{centre} with {n} {other or 'neighbours'}"
    return None


def _broken_sharing(
    symbols: list[str], i: np.ndarray, j: np.ndarray, shifts: np.ndarray, topology: Topology
) -> str | None:
    centres_of: dict[int, list[tuple[int, np.ndarray]]] = defaultdict(list)
    for a, b, shift in zip(i.tolist(), j.tolist(), shifts, strict=True):
        if symbols[a] in topology.sharing and symbols[b] not in topology.sharing:
            centres_of[b].append((a, shift))
    # Two polyhedra are a pair of atoms and how many lattice vectors lie between them: one may share with its own image.
    shared: Counter[tuple[int, int, tuple[int, ...]]] = Counter()
    for centres in centres_of.values():
        for n, (a, shift_a) in enumerate(centres):
            for m, (b, shift_b) in enumerate(centres):
                if n != m:
                    shared[a, b, tuple((shift_a - shift_b).tolist())] += 1
    worst: Counter[str] = Counter()
    for (a, b, _), n in shared.items():
        pair = ordered(f"{symbols[a]}-{symbols[b]}")
        worst[pair] = max(worst[pair], min(n, SHARING.index("face")))
    for pair, n in sorted(worst.items()):
        if n > min(SHARING.index(topology.sharing[symbol]) for symbol in pair.split("-")):
            return f"{pair} polyhedra share {'an' if SHARING[n] == 'edge' else 'a'} {SHARING[n]}"
    return None
