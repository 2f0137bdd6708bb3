"""What the new structures are made of: their local environments, anion motifs and fingerprints."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

from chemloop.physics.structures import read_structures, write_structures
from chemloop.runtime.disk import read_json, write_json, write_whole
from chemloop.runtime.errors import ConfigError
from chemloop.runtime.item import Item
from chemloop.runtime.ledger import Ledger
from chemloop.stages.label import RELAXED
from chemloop.stages.relax import converged
from chemloop.stages.select import why_not
from chemloop.stages.stage import OUTPUT, Stage

if TYPE_CHECKING:
    from chemloop.physics.motifs import Motif

MOTIFS = "motifs.json"
FINGERPRINTS = "fingerprints.npz"
ENVIRONMENTS = "environments.npz"
FAILURES = "failures.json"


@dataclass
class DescribeSettings:
    """per_item: structures per worker item."""

    per_item: int = 64

    def __post_init__(self) -> None:
        if self.per_item < 1:
            raise ConfigError(f"loop.describe.per_item = {self.per_item}: must be 1 or above")


class Describe(Stage):
    """output.extxyz: the structures that count as explored; iteration 0: the references as the labeler relaxed them,
    later: the converged candidates that are unique and novel.

    environments.npz: sizes (n,) and environments (sum of sizes, n_features), as `physics.descriptors.environments`
    motifs.json: id -> [motif], as `Motif.to_json`
    fingerprints.npz: ids (n,), framework and whole (n, n_features), without and with the mobile ion; NaN where there is
        none, for which failures.json has the reasons, id -> words
    """

    name = "describe"

    def plan(self) -> list[Item]:
        return self.plan_chunks(self._structures(), self.settings.loop.describe.per_item)

    def _structures(self) -> list[Atoms]:
        """Not the labelled frames: at the protocol's amplitudes every perturbed environment is new, and the entropy of
        such a pool is log n from the first iteration on.
        """
        if self.iteration == 0:
            return [atoms for path in self.earlier("seed") for atoms in converged(path / RELAXED)]
        screened = read_structures(self.earlier("screen", since=self.iteration)[0] / OUTPUT)
        return [atoms for atoms in screened if why_not(atoms) == "not selected"]

    def run(self, item: Item) -> Sequence[str]:
        from chemloop.physics.descriptors import environments
        from chemloop.physics.motifs import find_motifs

        system, curate = self.settings.system, self.settings.loop.curate
        structures = read_structures(item.folder / "input.extxyz")
        motifs = {
            atoms.info["id"]: [motif.to_json() for motif in find_motifs(atoms, system.bond_cutoffs, system.mobile_ion)]
            for atoms in structures
        }
        fingerprints, failures = self._fingerprints(structures)
        write_structures(item.folder / OUTPUT, structures)
        write_environments(
            item.folder / ENVIRONMENTS,
            environments(structures, system.elements, curate.n_neighbors, curate.cutoff),
        )
        write_json(item.folder / MOTIFS, motifs)
        write_arrays(item.folder / FINGERPRINTS, fingerprints)
        write_json(item.folder / FAILURES, failures)
        return [OUTPUT, ENVIRONMENTS, MOTIFS, FINGERPRINTS, FAILURES]

    def _fingerprints(self, structures: Sequence[Atoms]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        from chemloop.physics.fingerprints import structure_fingerprint

        rows: dict[str, list[np.ndarray]] = {"framework": [], "whole": []}
        failures: dict[str, str] = {}
        for atoms in structures:
            reasons: Counter[str] = Counter()
            rows["framework"].append(structure_fingerprint(atoms, self.settings.system.mobile_ion, reasons))
            rows["whole"].append(structure_fingerprint(atoms, None, reasons))
            if reasons:
                failures[atoms.info["id"]] = "; ".join(sorted(reasons))
        return fingerprint_arrays([atoms.info["id"] for atoms in structures], **rows), failures

    def collect(self, items: Sequence[Item]) -> dict[str, float]:
        structures = self.merge(items, OUTPUT)
        found = [part for item in items for part in read_environments(item.folder)]
        write_environments(self.folder / ENVIRONMENTS, found)
        motifs, failures = (
            {id: content for item in items for id, content in read_json(item.folder / name).items()}
            for name in (MOTIFS, FAILURES)
        )
        write_json(self.folder / MOTIFS, motifs)
        write_json(self.folder / FAILURES, failures)
        parts = [read_arrays(item.folder / FINGERPRINTS) for item in items]
        merged = {key: [row for part in parts for row in part[key]] for key in ("ids", "framework", "whole")}
        write_arrays(self.folder / FINGERPRINTS, fingerprint_arrays(**merged))
        return {
            "n_described": len(structures),
            "n_environments": sum(map(len, found)),
            "n_without_fingerprint": len(failures),
        }

    def final_files(self) -> list[Path]:
        names = (ENVIRONMENTS, MOTIFS, FINGERPRINTS, FAILURES)
        return [*super().final_files(), *(self.folder / name for name in names)]

    def record_in(self, ledger: Ledger) -> None:
        """Nothing: what a structure is made of has no column there."""


def read_motifs(folder: Path) -> list[tuple[Atoms, list[Motif]]]:
    """The structures of a finished stage, in their order, and the motifs of each."""
    from chemloop.physics.motifs import Motif

    motifs = read_json(folder / MOTIFS)
    return [
        (atoms, [Motif.from_json(motif) for motif in motifs[atoms.info["id"]]])
        for atoms in read_structures(folder / OUTPUT)
    ]


def read_environments(folder: Path) -> list[np.ndarray]:
    """Of each structure of a finished stage, in their order: (n_atoms, n_features)."""
    arrays = read_arrays(folder / ENVIRONMENTS)
    return np.split(arrays["environments"], np.cumsum(arrays["sizes"])[:-1]) if len(arrays["sizes"]) else []


def write_environments(path: Path, parts: Sequence[np.ndarray]) -> None:
    x = np.vstack(parts) if parts else np.zeros((0, 0), np.float32)
    write_arrays(path, {"sizes": np.array([len(part) for part in parts], dtype=int), "environments": x})


def fingerprint_arrays(
    ids: Sequence[str], framework: Sequence[np.ndarray], whole: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    from chemloop.physics.fingerprints import N_FEATURES

    tables = {"framework": framework, "whole": whole}
    arrays = {key: np.array(rows, dtype=float).reshape(-1, N_FEATURES) for key, rows in tables.items()}
    return {"ids": np.array(ids, dtype=str), **arrays}


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An npz file that appears whole or not at all."""
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_whole(path, content.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz file."""
    with np.load(path) as arrays:
        return dict(arrays)
