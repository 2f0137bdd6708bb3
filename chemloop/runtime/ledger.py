"""structures.db: one row per structure from birth to label, in an ASE database that `ase db` and `ase gui` open.

It is an index: everything in it comes from the stages' output files and is written again at any time by
`python -m chemloop workflow=ledger`. Recording the same stage twice changes nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from chemloop.runtime.campaign import STAGES

KEPT = (
    "parent",
    "name",
    "role",
    "generator",
    "operator",
    "parents",
    "dropped",
    "converged",
    "e_above_hull",
    "is_stable",
    "is_unique",
    "is_novel",
    "spacegroup",
    "n_relax_steps",
    "label_failure",
)
"""Keys of a structure that become columns under their own names."""
JUDGED = ("e_above_hull", "is_stable", "is_unique", "is_novel")
"""Those that labels judge again: `label_<key>` is what the curate stage says."""


class Ledger:
    """One row per structure; `structure_id` names it, `stage` is the last stage that it reached.

    It is opened without ASE's lock file, for which a driver waits for ever when another was killed while it wrote:
    campaign.lock admits one driver already, and SQLite itself keeps readers apart from it.
    """

    def __init__(self, path: Path):
        self.path = path

    def record(self, structures: Sequence[Atoms], stage: str, iteration: int) -> None:
        """Insert or update the rows of these structures with what this stage found out about them.

        Columns: those in KEPT (those in JUDGED as label_<key> where labels say so), born_iteration, stage,
        <who>_energy (eV) and <who>_frame. References and finds relaxed again for a later hull keep the row that they
        have.
        """
        from ase.db import connect

        fresh = [atoms for atoms in structures if stage != "relax" or atoms.info.get("role") == "candidate"]
        with warnings.catch_warnings(), connect(self.path, use_lock_file=False) as database:
            warnings.simplefilter("ignore", UserWarning)
            known = {row.structure_id: row for row in database.select(include_data=False)}
            for atoms in fresh:
                columns = _columns(atoms, stage)
                row = known.get(columns["structure_id"])
                if row is None:
                    database.write(_with_results(atoms), born_iteration=iteration, stage=stage, **columns)
                elif STAGES.index(stage) < STAGES.index(row.stage) or stage == "curate":
                    database.update(row.id, **columns)
                else:
                    database.update(row.id, atoms=_with_results(atoms), stage=stage, **columns)

    def rows(self) -> list[dict[str, Any]]:
        """All rows as dictionaries in the order of their ids, without what differs from run to run."""
        from ase.db import connect

        with connect(self.path, use_lock_file=False) as database:
            rows = [{"formula": row.formula, "n_atoms": row.natoms, **row.key_value_pairs} for row in database.select()]
        return sorted(rows, key=lambda row: row["structure_id"])


def _columns(atoms: Atoms, stage: str) -> dict[str, Any]:
    info = atoms.info
    columns: dict[str, Any] = {"structure_id": info["id"]}
    for key in KEPT:
        if key in info:
            name = f"label_{key}" if key in JUDGED and stage == "curate" else key
            columns[name] = _plain(info[key])
    for who in ("mlff", "label"):
        if f"{who}_energy" in info:
            columns[f"{who}_energy"] = float(info[f"{who}_energy"])
            columns[f"{who}_frame"] = info["energy_frame"]
    if stage in ("seed", "label") and "converged" in columns:
        columns["label_converged"] = columns.pop("converged")
    if stage == "curate":
        columns.pop("converged", None)
    return columns


def _plain(value: Any) -> Any:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value)
    return str(value)


def _with_results(atoms: Atoms) -> Atoms:
    """A copy whose energy and forces `ase gui` shows: the label's where there is one, else the force field's."""
    copy = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    for who in ("label", "mlff"):
        if f"{who}_energy" in atoms.info:
            forces = atoms.arrays[f"{who}_forces"]
            copy.calc = SinglePointCalculator(copy, energy=float(atoms.info[f"{who}_energy"]), forces=forces)
            break
    return copy
