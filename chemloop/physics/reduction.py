"""From a crystal to its key: the cell that pymatgen's StructureMatcher reduces it to, and its bonded pieces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from ase import Atoms

from chemloop.physics.crystal_key import CrystalKey
from chemloop.physics.nets import Net, bonds_of, connected_nets
from chemloop.physics.structures import check_structure
from chemloop.runtime.errors import StructureError


def find_key(atoms: Atoms, bond_cutoffs: Mapping[str, float]) -> CrystalKey:
    """The key of a crystal.

    bond_cutoffs: A, by pairs of elements such as `P-S`; other pairs form no bond

    Raises: StructureError for a structure that breaks the conventions, or whose cell cannot be reduced
    """
    check_structure(atoms)
    nets = bonded_pieces(atoms, bond_cutoffs) if bond_cutoffs else ()
    return CrystalKey(*reduced_cell(atoms), nets)


def reduced_cell(atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atomic numbers, cell and fractional positions of pymatgen's `StructureMatcher._get_reduced_structure`.

    The same numbers, but its search for a smaller cell, most of the time it takes, is made only where one may exist.

    Raises: StructureError where pymatgen finds no Niggli cell
    """
    from pymatgen.core import Lattice, Structure

    from chemloop.physics.translations import may_be_reduced

    lattice = Lattice(atoms.cell.array)
    try:
        niggli = lattice.get_niggli_reduced_lattice()
    except ValueError as error:
        name = atoms.info.get("id", "structure")
        raise StructureError(
            f"{name} has the cell {atoms.cell.cellpar().round(3).tolist()}, for which pymatgen finds no Niggli cell"
            f" ({error}); leave it out"
        ) from error
    lattice = lattice if niggli == lattice else niggli
    numbers, cell = atoms.numbers.astype(np.int64), lattice.matrix.copy()
    positions = np.linalg.solve(cell.T, atoms.positions.T).T % 1.0
    counts = Counter(atoms.get_chemical_symbols())
    rarest = min(sorted(counts), key=counts.__getitem__)
    kind = numbers[atoms.symbols == rarest][0]
    if may_be_reduced(cell, positions, numbers, kind, int(np.gcd.reduce(list(counts.values())))):
        structure = Structure(lattice, numbers.tolist(), positions).get_primitive_structure()
        numbers = np.array(structure.atomic_numbers, dtype=np.int64)
        cell, positions = structure.lattice.matrix.copy(), structure.frac_coords.copy()
    return numbers, cell, np.ascontiguousarray(positions)


def bonded_pieces(atoms: Atoms, cutoffs: Mapping[str, float]) -> tuple[tuple[Net, int], ...]:
    """One bonded piece of each Weisfeiler-Lehman hash, in the order of hashes, and their numbers in lowest terms."""
    nets: dict[str, Net] = {}
    numbers: Counter[str] = Counter()
    for _, _, net in connected_nets(atoms.get_chemical_symbols(), *bonds_of(atoms, cutoffs)):
        nets.setdefault(net.wl_hash, net)
        numbers[net.wl_hash] += net.n_repeats
    unit = int(np.gcd.reduce(list(numbers.values())))
    return tuple((nets[name], numbers[name] // unit) for name in sorted(nets))
