"""What matching needs to know of a crystal, found once: its reduced primitive cell and its bonded pieces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from chemloop.physics.nets import Net, is_same_net

if TYPE_CHECKING:
    from pymatgen.core import Structure


@dataclass(frozen=True, eq=False)
class CrystalKey:
    """The cell that StructureMatcher compares: Niggli reduced, then primitive within pymatgen's 0.25 A.

    numbers: (n,) atomic; cell: (3, 3) A; positions: (n, 3) fractional
    nets: one bonded piece of each Weisfeiler-Lehman hash, and how many there are, in lowest terms; the same for a cell
        and its supercells; none where no bond lengths were given
    """

    numbers: np.ndarray
    cell: np.ndarray
    positions: np.ndarray
    nets: tuple[tuple[Net, int], ...] = ()

    @cached_property
    def bucket(self) -> Hashable:
        """What two crystals must share to be equal, so only crystals that share it are compared.

        The number of atoms in the cell as given says nothing, and neither does the volume, because volumes are made
        equal. The numbers in the cell that the matcher reduces to do: it tries no supercells, so it never pairs cells
        of different size.
        """
        atoms = tuple(sorted(Counter(self.numbers.tolist()).items()))
        return atoms, tuple((net.wl_hash, n) for net, n in self.nets)

    @cached_property
    def search_terms(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cell of volume n, fractional positions, kinds: the arguments of `lattice_search.compare`."""
        scale = (len(self.numbers) / abs(np.linalg.det(self.cell))) ** (1 / 3)
        return self.cell * scale, self.positions, self.numbers

    @cached_property
    def structure(self) -> Structure:
        """The cell for pymatgen; made only for the few crystals that its matcher has to look at."""
        from pymatgen.core import Structure

        return Structure(self.cell, self.numbers.tolist(), self.positions)

    def has_nets_of(self, other: CrystalKey) -> bool:
        """Whether the bonded pieces are the same graphs, for two keys of one bucket.

        A hash tells trees apart by itself, so only rings and periodic nets are compared in full.
        """
        return all(
            len(net.bonds) == len(net.symbols) - 1 or is_same_net(net, twin)
            for (net, _), (twin, _) in zip(self.nets, other.nets, strict=True)
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON; numbers keep all their digits."""
        nets = [{"symbols": net.symbols, "bonds": net.bonds, "n": n} for net, n in self.nets]
        arrays = {"numbers": self.numbers, "cell": self.cell, "positions": self.positions}
        return {name: array.tolist() for name, array in arrays.items()} | {"nets": nets}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> CrystalKey:
        nets = tuple(
            (Net(tuple(net["symbols"]), tuple((i, j, tuple(shift)) for i, j, shift in net["bonds"])), net["n"])
            for net in content["nets"]
        )
        numbers, cell, positions = (np.array(content[name]) for name in ("numbers", "cell", "positions"))
        return cls(numbers, cell, positions, nets)
