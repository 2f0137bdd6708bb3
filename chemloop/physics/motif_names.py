"""Formula, formal charge, shape and name of a motif.

The charge follows from the bonds alone where every atom completes its octet with the single bonds that it has: an atom
of group g with b bonds then carries g + b - 18 (g = 14 to 17), so that a terminal S is -1, a bridging S 0, an isolated
S -2; P with four bonds +1, with three 0, with two -1; a P-P bond counts like any other. PS4 is -3, P2S6 with a P-P bond
-4 and with shared edges -2. The rule says nothing of an atom with more than four bonds, and it may be wrong next to a
lone pair, where bonds may be double or electrons missing (PS3, S2). There the mobile ions of the host decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import networkx as nx

from chemloop.physics.nets import Net

GROUPS = {
    13: ("B", "Al", "Ga", "In", "Tl"),
    14: ("C", "Si", "Ge", "Sn", "Pb"),
    15: ("N", "P", "As", "Sb", "Bi"),
    16: ("O", "S", "Se", "Te"),
    17: ("F", "Cl", "Br", "I"),
}
GROUP_OF = {symbol: group for group, symbols in GROUPS.items() for symbol in symbols}
# As formulae are written: Si before P before S before Cl, and in a group the heavier first.
ORDER = [symbol for symbols in GROUPS.values() for symbol in reversed(symbols)]
ION_CHARGES = {
    **dict.fromkeys(("Li", "Na", "K", "Rb", "Cs", "Ag", "Cu"), 1),
    **dict.fromkeys(("Be", "Mg", "Ca", "Sr", "Ba", "Zn"), 2),
}
SHAPES = {1: "chain", 2: "sheet", 3: "network"}


def formula_of(net: Net) -> str:
    """Formula of a molecule, or of the smallest unit that a periodic net repeats, e.g. P2S6."""
    return "".join(f"{symbol}{n if n > 1 else ''}" for symbol, n in _composition(net))


def shape_of(net: Net) -> str:
    """atom, molecule (no ring), ring (one), cage (more), chain, sheet or network."""
    if net.dimensionality:
        return SHAPES[net.dimensionality]
    n_rings = len(net.bonds) - len(net.symbols) + 1
    return ("molecule" if net.bonds else "atom") if n_rings == 0 else "ring" if n_rings == 1 else "cage"


def octet_charge(net: Net) -> int | None:
    """Formal charge of a molecule, or of one repeat unit, as this module's docstring has it; None beyond the rule."""
    total = 0
    for symbol, bonded in zip(net.symbols, net.neighbours, strict=True):
        group = GROUP_OF.get(symbol, 0)
        if group < 13 or len(bonded) > 4 or (group == 13 and len(bonded) < 4):
            return None
        total += group + len(bonded) - 18
    return total // net.n_repeats


def is_open(net: Net) -> bool:
    """Whether the octet rule leaves room for double bonds or missing electrons: a negative atom next to a lone pair."""
    for atom, bonded in enumerate(net.neighbours):
        negative = len(bonded) < min(18 - GROUP_OF.get(net.symbols[atom], 18), 4)
        if negative and any(len(net.neighbours[other]) < 4 for other, _ in bonded):
            return True
    return octet_charge(net) is None


def charges_of(nets: Sequence[Net], counts: Sequence[int], ion: str | None, n_ions: int) -> list[int | None]:
    """Formal charges of all kinds of motif in one cell, per molecule or repeat unit.

    Where the octet charges balance the mobile ions, those are the charges. Where they do not, closed motifs keep theirs
    and the only open one gets what is left, if that is a whole number from its octet charge to 0; else it has None.
    Single atoms are open where there are too few electrons for all octets.
    counts: molecules or repeat units of each kind in the cell; n_ions: mobile ions in it
    """
    octet = [octet_charge(net) for net in nets]
    given = 0 if ion is None else n_ions * ION_CHARGES[ion] if ion in ION_CHARGES else None
    if None not in octet and given == -_total(octet, counts):
        return octet
    charges = [None if is_open(net) else charge for net, charge in zip(nets, octet, strict=True)]
    if given is not None and given < -_total(charges, counts):
        # The ions give fewer electrons than the octets need: an atom without bonds says nothing of its charge.
        charges = [charge if net.bonds else None for net, charge in zip(nets, charges, strict=True)]
    unknown = [kind for kind, charge in enumerate(charges) if charge is None]
    if len(unknown) == 1 and given is not None:
        (kind,) = unknown
        left, rest = divmod(-given - _total(charges, counts), counts[kind])
        lowest = octet[kind]
        if rest == 0 and (left if lowest is None else lowest) <= left <= 0:
            charges[kind] = left
    return charges


def _total(charges: Sequence[int | None], counts: Sequence[int]) -> int:
    return sum(n * charge for n, charge in zip(counts, charges, strict=True) if charge is not None)


def name_of(net: Net, charge: int | None) -> str:
    """`PS4^3-`, `1,3-P2S8^2-`, `(PS3)_n^n-`, `P_n`; without a charge where that is 0 or not defined."""
    sign = "-" if (charge or 0) < 0 else "+"
    size = abs(charge or 0)
    if not net.dimensionality:
        return _locants(net) + formula_of(net) + (f"^{size if size > 1 else ''}{sign}" if size else "")
    composition = _composition(net)
    body = composition[0][0] if len(composition) == 1 and composition[0][1] == 1 else f"({formula_of(net)})"
    return f"{body}_n" + (f"^{size if size > 1 else ''}n{sign}" if size else "")


def _composition(net: Net) -> list[tuple[str, int]]:
    numbers = Counter(net.symbols)
    order = sorted(numbers, key=lambda symbol: (ORDER.index(symbol) if symbol in ORDER else -1, symbol))
    return [(symbol, numbers[symbol] // net.n_repeats) for symbol in order]


def _locants(net: Net) -> str:
    """Positions of the other atoms, if there are several, in the only ring where it holds S-S bonds (or Se-Se, ...), as
    `1,3-` in P2S8^2-.
    """
    if shape_of(net) != "ring":
        return ""
    ring = [a for a, _ in nx.find_cycle(nx.Graph((i, j) for i, j, _ in net.bonds))]
    anions = [GROUP_OF.get(net.symbols[atom]) == 16 for atom in ring]
    has_anion_bond = any(here and after for here, after in zip(anions, anions[1:] + anions[:1], strict=True))
    if anions.count(False) < 2 or not has_anion_bond:
        return ""
    n = len(ring)
    others = [place for place in range(n) if not anions[place]]
    numberings = [
        sorted((direction * (place - start)) % n + 1 for place in others) for start in others for direction in (1, -1)
    ]
    return ",".join(str(locant) for locant in min(numberings)) + "-"
