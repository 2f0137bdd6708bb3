"""Bonded pieces of crystals as labelled graphs with a lattice, and whether two of them are the same."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import NamedTuple

import networkx as nx
import numpy as np
from ase import Atoms
from matscipy.neighbours import neighbour_list

Shift = tuple[int, ...]
HOME: Shift = (0, 0, 0)
# Periodic nets are compared atom by atom up to the radius at which this many atoms are in sight.
MAX_BALL = 250


class Ball(NamedTuple):
    """labels: of the atoms around a root, that first; neighbours: for each of them the bonded ones among them"""

    labels: list[tuple[str, int]]
    neighbours: list[list[int]]


@dataclass(frozen=True)
class Net:
    """A molecule, or one translational unit of a chain, sheet or network.

    symbols: of its atoms
    bonds: (i, j, shift), each once: atom i is bonded to the image of atom j that lies `shift` lattice vectors further
    """

    symbols: tuple[str, ...]
    bonds: tuple[tuple[int, int, Shift], ...]

    @cached_property
    def neighbours(self) -> list[list[tuple[int, Shift]]]:
        """For each atom the atoms bonded to it and where they lie; an atom may appear more than once."""
        found: list[list[tuple[int, Shift]]] = [[] for _ in self.symbols]
        for i, j, shift in self.bonds:
            found[i].append((j, shift))
            found[j].append((i, tuple(-s for s in shift)))
        return found

    @cached_property
    def dimensionality(self) -> int:
        """0 molecule, 1 chain, 2 sheet, 3 network: the rank of the translations that bonds lead through.

        Needs shifts that are zero along a spanning tree, so that every other shift is a translation of the net itself.
        Source: doi:10.1103/PhysRevMaterials.3.034003
        """
        return int(np.linalg.matrix_rank(np.array([shift for _, _, shift in self.bonds]))) if self.bonds else 0

    @cached_property
    def colours(self) -> list[str]:
        """Weisfeiler-Lehman colour of each atom: the same for every choice of cell, because an atom and its images
        see the same bonds.
        """
        return refine(self.symbols, [[j for j, _ in bonded] for bonded in self.neighbours])

    @cached_property
    def n_repeats(self) -> int:
        """How many smallest formula units it holds: 1 for a molecule; for a periodic net the greatest common divisor
        of the numbers of atoms of each colour, which makes formula and hash those of the net, not of the cell.
        """
        return int(np.gcd.reduce(list(Counter(self.colours).values()))) if self.dimensionality else 1

    @cached_property
    def wl_hash(self) -> str:
        """16 hexadecimal digits, equal for equal nets; bond types need no label, colours tell what is bonded."""
        numbers = sorted((colour, n // self.n_repeats) for colour, n in Counter(self.colours).items())
        return _digest((self.dimensionality, numbers))

    def ball(self, root: int, radius: int) -> Ball:
        """The bond graph of the infinite net within `radius` bonds of an atom, labelled with the distance from it."""
        order = {(root, HOME): 0}
        ball = Ball([(self.colours[root], 0)], [[]])
        shell = [(root, HOME)]
        for distance in range(1, radius + 1):
            outer = []
            for node in shell:
                for other in self._bonded(node):
                    if other not in order:
                        order[other] = len(order)
                        ball.labels.append((self.colours[other[0]], distance))
                        ball.neighbours.append([])
                        outer.append(other)
                    ball.neighbours[order[node]].append(order[other])
            shell = outer
        for node in shell:
            ball.neighbours[order[node]] = [order[other] for other in self._bonded(node) if other in order]
        return ball

    def radius_of(self, root: int, max_atoms: int) -> int:
        """The largest radius, in bonds, at which a periodic net has at most `max_atoms` atoms around the root, and 2 at
        the least.
        """
        seen, shell = {(root, HOME)}, [(root, HOME)]
        for radius in count():
            if len(seen) > max_atoms:
                return max(radius - 1, 2)
            outer = {other for node in shell for other in self._bonded(node)} - seen
            seen |= outer
            shell = list(outer)
        raise AssertionError("a periodic net has no end")

    def _bonded(self, node: tuple[int, Shift]) -> list[tuple[int, Shift]]:
        atom, (x, y, z) = node
        return [(j, (x + a, y + b, z + c)) for j, (a, b, c) in self.neighbours[atom]]


def is_same_net(a: Net, b: Net) -> bool:
    """Whether two nets are the same graph, whatever cells they were found in.

    An atom of the rarest colour is compared with each atom of that colour in the other net; they are the same if one of
    those sees the same bonds, rings included: all of a molecule, of a periodic net those among its nearest 250 atoms.
    Equal nets always pass, for any cells; periodic ones would be joined wrongly only if they differ nowhere but further
    out, although they share species, numbers of atoms of each colour and dimensionality.
    """
    if a.wl_hash != b.wl_hash:
        return False
    numbers = Counter(a.colours)
    root = min(range(len(a.symbols)), key=lambda atom: (numbers[a.colours[atom]], a.colours[atom]))
    radius = a.radius_of(root, MAX_BALL) if a.dimensionality else len(a.symbols)
    ball = a.ball(root, radius)
    candidates = [atom for atom, colour in enumerate(b.colours) if colour == a.colours[root]]
    return any(_is_isomorphic(ball, b.ball(atom, radius)) for atom in candidates)


def refine(labels: Sequence[Hashable], neighbours: Sequence[Sequence[int]]) -> list[str]:
    """Weisfeiler-Lehman colours of the nodes of a graph with multiple bonds, iterated until no class splits further.

    networkx has the same for graphs without multiple bonds; an atom bonded to several images of another needs these.
    Source: Shervashidze et al., J. Mach. Learn. Res. 12, 2539 (2011)
    """
    colours = [_digest(label) for label in labels]
    n_classes = 0
    while n_classes < len(set(colours)):
        n_classes = len(set(colours))
        colours = [
            _digest((colour, sorted(colours[j] for j in bonded)))
            for colour, bonded in zip(colours, neighbours, strict=True)
        ]
    return colours


def bonds_of(atoms: Atoms, cutoffs: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """i, j (n_bonds,) and shifts (n_bonds, 3) of all bonds, each in both directions.

    cutoffs: A, longer than the longest bond, by pairs of elements such as `P-S`; other pairs form no bond
    """
    present = set(atoms.symbols)
    pairs = {(*pair.split("-"),): cutoff for pair, cutoff in cutoffs.items() if present.issuperset(pair.split("-"))}
    if not pairs:
        return np.zeros(0, int), np.zeros(0, int), np.zeros((0, 3), int)
    return neighbour_list("ijS", atoms, pairs)


def connected_nets(
    symbols: Sequence[str], i: np.ndarray, j: np.ndarray, shifts: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray, Net]]:
    """The connected pieces of a periodic bond graph: atoms (n,), the shifts (n, 3) that unwrap them, and the net.

    i, j, shifts: (n_bonds,), (n_bonds,), (n_bonds, 3), each bond in both directions, as neighbour lists have it
    """
    bonded: list[list[tuple[int, Shift]]] = [[] for _ in symbols]
    for a, b, shift in zip(i.tolist(), j.tolist(), shifts.tolist(), strict=True):
        bonded[a].append((b, tuple(shift)))
    graph = nx.Graph()
    graph.add_nodes_from(range(len(symbols)))
    graph.add_edges_from(zip(i.tolist(), j.tolist(), strict=True))
    pieces = []
    for members in nx.connected_components(graph):
        places = _unwrap(min(members), bonded)
        order = {atom: number for number, atom in enumerate(places)}
        bonds = set()
        for a, offset in places.items():
            for b, shift in bonded[a]:
                net_shift = tuple(o + s - p for o, s, p in zip(offset, shift, places[b], strict=True))
                bond = (order[a], order[b], net_shift)
                bonds.add(min(bond, (order[b], order[a], tuple(-s for s in net_shift))))
        net = Net(tuple(symbols[atom] for atom in places), tuple(sorted(bonds)))
        pieces.append((np.array(list(places)), np.array(list(places.values())), net))
    return pieces


def _unwrap(start: int, bonded: Sequence[Sequence[tuple[int, Shift]]]) -> dict[int, Shift]:
    """For each atom reached from `start` the image that is reached first."""
    places: dict[int, Shift] = {start: HOME}
    queue = deque([start])
    while queue:
        a = queue.popleft()
        for b, shift in bonded[a]:
            if b not in places:
                places[b] = tuple(o + s for o, s in zip(places[a], shift, strict=True))
                queue.append(b)
    return places


def lattice_basis(vectors: np.ndarray) -> np.ndarray:
    """(rank, 3) integers: a basis of the lattice that integer vectors (n, 3) generate, by Euclid's algorithm."""
    rows = [row for row in np.unique(vectors, axis=0) if row.any()]
    basis = []
    for column in range(3):
        while sum(row[column] != 0 for row in rows) > 1:
            pivot = min((row for row in rows if row[column]), key=lambda row: abs(row[column]))
            reduced = [row - (row[column] // pivot[column]) * pivot for row in rows if row is not pivot]
            rows = [pivot, *(row for row in reduced if row.any())]
        basis += [row for row in rows if row[column]]
        rows = [row for row in rows if not row[column]]
    return np.array(basis).reshape(-1, 3)


def _is_isomorphic(a: Ball, b: Ball) -> bool:
    """Whether a mapping of a onto b keeps labels and bonds."""
    if Counter(a.labels) != Counter(b.labels):
        return False
    return _is_mapped(*_core(a), *_core(b))


def _core(ball: Ball) -> tuple[list[str], list[list[int]]]:
    """Labels and neighbours of what decides whether two balls are the same graph, usually a fraction of their atoms.

    Atoms with one bond are folded into the label of their neighbour, round by round, so that branches vanish; of those
    with equal labels and the same neighbours one remains, its label with their number.
    """
    labels = [_digest(label) for label in ball.labels]
    bonded = {node: set(others) for node, others in enumerate(ball.neighbours)}
    n_before = 0
    while n_before != len(bonded):
        n_before = len(bonded)
        folded: dict[int, list[int]] = {}
        for node, others in bonded.items():
            if len(others) == 1 and len(bonded[min(others)]) > 1:
                folded.setdefault(min(others), []).append(node)
        for node, ends in folded.items():
            labels[node] = _digest((labels[node], sorted(labels[end] for end in ends)))
            bonded[node] -= set(ends)
            for end in ends:
                del bonded[end]
        alike: dict[tuple[str, frozenset[int]], list[int]] = {}
        for node, others in bonded.items():
            alike.setdefault((labels[node], frozenset(others)), []).append(node)
        for kept, *twins in alike.values():
            if twins:
                labels[kept] = _digest((labels[kept], len(twins)))
                for twin in twins:
                    for other in bonded.pop(twin):
                        bonded[other].discard(twin)
    order = {node: number for number, node in enumerate(bonded)}
    return [labels[node] for node in bonded], [[order[other] for other in others] for others in bonded.values()]


def _is_mapped(
    labels_a: Sequence[str], bonded_a: list[list[int]], labels_b: Sequence[str], bonded_b: list[list[int]]
) -> bool:
    """Whether a mapping keeps labels and bonds, by individualisation and refinement: while atoms of a share a colour,
    one of them is told apart, in b each of that colour in turn. A search that matches atom by atom takes exponential
    time on nets of high symmetry.

    Source: doi:10.1016/j.jsc.2013.09.003
    """
    colours_a, colours_b = refine(labels_a, bonded_a), refine(labels_b, bonded_b)
    numbers = Counter(colours_a)
    if numbers != Counter(colours_b):
        return False
    shared = [(n, colour) for colour, n in numbers.items() if n > 1]
    if not shared:
        image = [colours_b.index(colour) for colour in colours_a]
        return all({image[j] for j in bonded} == set(bonded_b[image[i]]) for i, bonded in enumerate(bonded_a))
    _, colour = min(shared)
    told_apart = _told_apart(colours_a, colours_a.index(colour))
    candidates = [node for node, other in enumerate(colours_b) if other == colour]
    return any(_is_mapped(told_apart, bonded_a, _told_apart(colours_b, node), bonded_b) for node in candidates)


def _told_apart(colours: Sequence[str], node: int) -> list[str]:
    return [_digest(colour) if number == node else colour for number, colour in enumerate(colours)]


def _digest(content: object) -> str:
    return hashlib.blake2b(repr(content).encode(), digest_size=8).hexdigest()
