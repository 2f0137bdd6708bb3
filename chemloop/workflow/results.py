"""What a tracker shows of a campaign beside its metrics: checkpoints and tables, from the folders of its stages."""

from __future__ import annotations

from pathlib import Path

from ase import Atoms

from chemloop.physics.motifs import MotifCatalogue
from chemloop.physics.structures import read_structures
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.disk import read_json
from chemloop.stages.exploration import CATALOGUE
from chemloop.stages.label import RELAXED
from chemloop.stages.stage import FIT, stage_folder
from chemloop.tracker import Table

N_STRUCTURES = 200
STRUCTURE_COLUMNS = ("id", "formula", "space_group", "e_above_hull_ev_per_atom", "iteration", "n_atoms")
MOTIF_COLUMNS = (
    *("motif", "formula", "charge", "dimensionality", "first_iteration", "n_structures", "n_references", "count"),
    *("lowest_e_above_hull_ev_per_atom", "best_host"),
)


def checkpoints(campaign: Campaign) -> dict[int, Path]:
    """The force field's file after each iteration whose fine-tuning is finished.

    Weights that a campaign only began with, and that fine-tuning kept, are no checkpoint of its own.
    """
    found = {}
    for iteration, folder in finished(campaign, "finetune"):
        checkpoint = read_json(folder / FIT)["checkpoint"]
        path = folder / checkpoint if checkpoint is not None else folder
        if path.is_file() and path.resolve().is_relative_to(campaign.folder.resolve()):
            found[iteration] = path.resolve()
    return found


def tables(campaign: Campaign) -> list[Table]:
    """The best new structures and the motifs, as the newest curate stage knows them; empty ones are left out."""
    curated = finished(campaign, "curate")
    if not curated:
        return []
    _, folder = curated[-1]
    found = [best_structures(read_structures(folder / RELAXED))]
    if (folder / CATALOGUE).exists():
        found.append(motif_catalogue(MotifCatalogue.from_json(read_json(folder / CATALOGUE))))
    return [table for table in found if table.rows]


def finished(campaign: Campaign, name: str) -> list[tuple[int, Path]]:
    """Iterations in which a stage is finished, and its folders, from the first to the last."""
    n_iterations = len(list(campaign.folder.glob("iter-*")))
    folders = ((number, stage_folder(campaign, number, name)) for number in range(n_iterations))
    return [(number, folder) for number, folder in folders if (folder / "DONE").exists()]


def best_structures(relaxed: list[Atoms]) -> Table:
    """Generated structures of lowest E_hull by the labels, lowest first.

    Without those that the labeler relaxed into a reference or a lower one, unless no version of ChemLoop that ran the
    campaign looked for these.
    """
    from chemloop.physics.matching import space_group
    from chemloop.report.data import plain_formula

    new = [
        atoms
        for atoms in relaxed
        if atoms.info["converged"]
        and "-g" in atoms.info["id"]
        and all(atoms.info.get(flag, True) for flag in ("is_unique", "is_novel"))
    ]
    best = sorted(new, key=lambda atoms: (atoms.info["e_above_hull"], atoms.info["id"]))[:N_STRUCTURES]
    rows = [
        (
            *(atoms.info["id"], plain_formula(atoms), space_group(atoms), float(atoms.info["e_above_hull"])),
            *(int(atoms.info["id"].partition("-")[0][1:]), len(atoms)),
        )
        for atoms in best
    ]
    return Table("best_structures", STRUCTURE_COLUMNS, rows)


def motif_catalogue(catalogue: MotifCatalogue) -> Table:
    """All motifs, those in most structures first."""
    entries = sorted(catalogue.entries, key=lambda entry: (-entry.n_structures - entry.n_references, entry.title))
    rows = [
        (
            *(entry.title, entry.motif.formula, entry.motif.charge, entry.motif.dimensionality),
            *(entry.first_iteration, entry.n_structures, entry.n_references, entry.count, entry.e_above_hull),
            entry.host,
        )
        for entry in entries
    ]
    return Table("motif_catalogue", MOTIF_COLUMNS, rows)
