"""Anion motifs: the bonded pieces of a crystal without its mobile ion, recognised across cells, and their catalogue."""

from __future__ import annotations

import io
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from ase import Atoms
from ase.cell import Cell
from ase.geometry import minkowski_reduce
from ase.io import write

from chemloop.physics.motif_names import charges_of, formula_of, name_of, shape_of
from chemloop.physics.nets import Net, bonds_of, connected_nets, is_same_net, lattice_basis
from chemloop.physics.structures import check_structure
from chemloop.runtime.errors import StructureError


@dataclass(frozen=True)
class Motif:
    """One kind of bonded piece in one structure.

    name: e.g. `P2S7^4-`, `(PS3)_n^n-`; formula: of the molecule or of the smallest repeat unit
    charge: formal, per formula; None where it is not defined (see `motif_names`)
    dimensionality: 0 molecule, 1 chain, 2 sheet, 3 network; shape: that in words, molecules also as atom, ring or cage
    count: formula units in the cell
    atoms: one molecule, or one translational unit, unwrapped around the origin; its cell holds the periods, if any
    net: its bonds, shifts in terms of that cell
    """

    name: str
    formula: str
    charge: int | None
    dimensionality: int
    shape: str
    count: int
    atoms: Atoms = field(compare=False)
    net: Net = field(compare=False)

    @property
    def wl_hash(self) -> str:
        """Equal for equal motifs of whatever cell."""
        return self.net.wl_hash

    @property
    def title(self) -> str:
        """The name, with the shape where that is not plain, e.g. `P3S9^3- ring`."""
        return self.name if self.shape in ("atom", "molecule") else f"{self.name} {self.shape}"

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and words, from which `from_json` makes the same motif."""
        return {
            "name": self.name,
            "charge": self.charge,
            "count": self.count,
            "symbols": list(self.net.symbols),
            "bonds": [[i, j, list(shift)] for i, j, shift in self.net.bonds],
            "positions": self.atoms.positions.tolist(),
            "cell": self.atoms.cell.array.tolist(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Motif:
        net = Net(tuple(content["symbols"]), tuple((i, j, tuple(shift)) for i, j, shift in content["bonds"]))
        is_periodic = np.arange(3) < net.dimensionality
        atoms = Atoms(net.symbols, content["positions"], cell=content["cell"], pbc=is_periodic)
        return cls(
            content["name"], formula_of(net), content["charge"], net.dimensionality, shape_of(net), content["count"],
            atoms, net,
        )  # fmt: skip


def find_motifs(atoms: Atoms, cutoffs: Mapping[str, float], mobile_ion: str | None) -> list[Motif]:
    """The kinds of motif of one structure, in the order of their first atoms; [] where all atoms are mobile ions.

    cutoffs: A, longest bond by pairs of elements such as `P-S`; other pairs form no bond

    Raises: StructureError for a structure that breaks the conventions, such as positions that are not finite
    """
    check_structure(atoms)
    framework = atoms[[symbol != mobile_ion for symbol in atoms.get_chemical_symbols()]]
    symbols = framework.get_chemical_symbols()
    kinds: list[tuple[np.ndarray, np.ndarray, Net]] = []
    counts: list[int] = []
    for members, shifts, net in connected_nets(symbols, *bonds_of(framework, cutoffs)):
        for kind, (_, _, other) in enumerate(kinds):
            if is_same_net(net, other):
                counts[kind] += net.n_repeats
                break
        else:
            kinds.append((members, shifts, net))
            counts.append(net.n_repeats)
    nets = [net for _, _, net in kinds]
    charges = charges_of(nets, counts, mobile_ion, len(atoms) - len(framework))
    return [
        Motif(
            name_of(net, charge), formula_of(net), charge, net.dimensionality, shape_of(net), n,
            *_cut_out(framework, members, shifts, net),
        )
        for (members, shifts, net), n, charge in zip(kinds, counts, charges, strict=True)
    ]  # fmt: skip


def _cut_out(atoms: Atoms, members: np.ndarray, shifts: np.ndarray, net: Net) -> tuple[Atoms, Net]:
    """One molecule or translational unit, unwrapped, in the cell of its own periods, and its bonds in that cell."""
    cell = atoms.cell.array
    positions = atoms.positions[members] + shifts @ cell
    dimensionality = net.dimensionality
    periods, is_periodic = np.zeros((3, 3)), np.arange(3) < dimensionality
    if dimensionality:
        steps = np.array([shift for _, _, shift in net.bonds])
        periods[:dimensionality] = lattice_basis(steps) @ cell
        reduced, _ = minkowski_reduce(Cell(periods).complete(), is_periodic)
        periods = np.where(is_periodic[:, None], reduced, 0.0)
        coefficients = np.rint(steps @ cell @ np.linalg.pinv(periods)).astype(int)
        own = tuple((i, j, tuple(step)) for (i, j, _), step in zip(net.bonds, coefficients.tolist(), strict=True))
        net = Net(net.symbols, own)
    motif = Atoms(net.symbols, positions - positions.mean(axis=0), cell=periods, pbc=is_periodic)
    return motif, net


def xyz_text(motif: Motif) -> str:
    """The motif as an extended xyz file, with its periods where it has some, and its name and charge."""
    atoms = motif.atoms.copy()
    atoms.info = {"name": motif.title, "dimensionality": motif.dimensionality}
    if motif.charge is not None:
        atoms.info["charge"] = motif.charge
    text = io.StringIO()
    write(text, atoms, format="extxyz")
    return text.getvalue()


@dataclass
class CatalogueEntry:
    """One kind of motif among all structures so far.

    motif: as found in its best host, the structure of lowest E_hull
    first_iteration: in which it was seen first
    n_structures, n_references: structures of the campaign, and references, that hold it
    count: molecules or repeat units in all of them
    host, e_above_hull: id and eV/atom of the best host, None where no host has an E_hull; of a reference by its label,
        of a structure of the campaign by the force field that screened it
    first_structure: id of the first structure of the campaign that holds it; None where only references do
    isomer: 1, 2, ... among the entries that would have the same title otherwise
    """

    motif: Motif
    first_iteration: int
    host: str
    e_above_hull: float | None
    isomer: int
    n_structures: int = 0
    n_references: int = 0
    count: int = 0
    first_structure: str | None = None

    @property
    def is_known(self) -> bool:
        """Whether a reference has it."""
        return self.n_references > 0

    @property
    def title(self) -> str:
        return self.motif.title + (f", isomer {self.isomer}" if self.isomer > 1 else "")

    @property
    def file_stem(self) -> str:
        """A file name without its ending, e.g. `P3S9_3-_ring`; the hash keeps it unique."""
        return re.sub(r"[^A-Za-z0-9,+-]+", "_", self.title).strip("_") + f"_{self.motif.wl_hash[:6]}-{self.isomer}"


@dataclass
class MotifCatalogue:
    """Every kind of motif seen, filled structure by structure in the order of the campaign.

    n_structures: structures of the campaign seen, references not counted
    """

    entries: list[CatalogueEntry] = field(default_factory=list)
    n_structures: int = 0
    _by_hash: dict[str, list[CatalogueEntry]] = field(default_factory=lambda: defaultdict(list), repr=False)
    _names: Counter[tuple[str, str]] = field(default_factory=Counter, repr=False)

    def __post_init__(self) -> None:
        for entry in self.entries:
            self._index(entry)

    def add(
        self,
        motifs: Sequence[Motif],
        host: str,
        iteration: int,
        e_above_hull: float | None = None,
        is_reference: bool = False,
    ) -> list[CatalogueEntry]:
        """Enter the motifs of one structure; returns the entries that are new.

        host: the structure's id; e_above_hull: eV/atom, None where it is not known

        Raises: StructureError for an E_hull that is not finite
        """
        if e_above_hull is not None and not math.isfinite(e_above_hull):
            raise StructureError(f"{host} has e_above_hull = {e_above_hull}: a finite number, or None, is needed")
        self.n_structures += not is_reference
        new = []
        for motif in motifs:
            entry = self.find(motif)
            if entry is None:
                entry = self._enter(motif, host, iteration, e_above_hull)
                new.append(entry)
            entry.first_iteration = min(entry.first_iteration, iteration)
            entry.count += motif.count
            if not is_reference:
                entry.n_structures += 1
                entry.first_structure = entry.first_structure or host
            entry.n_references += is_reference
            if e_above_hull is not None and (entry.e_above_hull is None or e_above_hull < entry.e_above_hull):
                entry.motif, entry.host, entry.e_above_hull = motif, host, e_above_hull
        return new

    def find(self, motif: Motif) -> CatalogueEntry | None:
        """The entry of the same motif."""
        same = (entry for entry in self._by_hash.get(motif.wl_hash, ()) if is_same_net(entry.motif.net, motif.net))
        return next(same, None)

    def occurrences(self) -> np.ndarray:
        """(n_entries,) structures of the campaign that hold each motif: what the estimators in `unseen` take, with
        `n_structures` as the number of samples.
        """
        return np.array([entry.n_structures for entry in self.entries], dtype=int)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and words, from which `from_json` makes the same catalogue."""
        plain = [{field.name: getattr(entry, field.name) for field in fields(entry)} for entry in self.entries]
        entries = [{**entry, "motif": entry["motif"].to_json()} for entry in plain]
        return {"n_structures": self.n_structures, "entries": entries}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> MotifCatalogue:
        entries = [
            CatalogueEntry(**{**entry, "motif": Motif.from_json(entry["motif"])}) for entry in content["entries"]
        ]
        return cls(entries, content["n_structures"])

    def _enter(self, motif: Motif, host: str, iteration: int, e_above_hull: float | None) -> CatalogueEntry:
        entry = CatalogueEntry(motif, iteration, host, e_above_hull, isomer=0)
        self.entries.append(entry)
        entry.isomer = self._index(entry)
        return entry

    def _index(self, entry: CatalogueEntry) -> int:
        """Make the entry one that can be found; returns how many have its name by now."""
        # Without the charge: it may differ from host to host of one motif.
        name = (name_of(entry.motif.net, None), entry.motif.shape)
        self._names[name] += 1
        self._by_hash[entry.motif.wl_hash].append(entry)
        return self._names[name]
