"""For the report: every structure of a campaign with what is known of it, their map, and the motifs that they hold."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import Atoms

from chemloop.physics.structures import bare
from chemloop.report.data import MotifCard, StructureCard, formula
from chemloop.report.motif_picture import motif_svg
from chemloop.runtime.disk import read_json, write_whole
from chemloop.stages.describe import MOTIFS
from chemloop.stages.relax import is_sun
from chemloop.workflow.report_rounds import Round, having

if TYPE_CHECKING:
    from chemloop.physics.motifs import CatalogueEntry, MotifCatalogue
    from chemloop.system import System


def structure_cards(
    rounds: Sequence[Round], labelled: Sequence[Atoms], catalogue: MotifCatalogue, system: System
) -> dict[str, StructureCard]:
    """Every reference, and every new structure that its force field relaxed to the end; as labelled where it was."""
    from chemloop.physics.motifs import find_motifs

    by_label = {atoms.info["id"]: atoms for atoms in labelled}
    motifs = dict(motif_titles(rounds, catalogue))
    cards = {}
    for each in rounds:
        for screened in [*each.references, *each.candidates]:
            id = screened.info["id"]
            atoms, titles = by_label.get(id, screened), motifs.get(id, [])
            if id in by_label and each.number:
                # its motifs were found as the force field relaxed it
                found = find_motifs(atoms, system.bond_cutoffs, system.mobile_ion)
                titles = [entry.title if (entry := catalogue.find(motif)) else motif.title for motif in found]
            cards[id] = card(atoms, each.number, titles, id in by_label)
    return cards


def card(atoms: Atoms, iteration: int, motifs: list[str], is_labelled: bool) -> StructureCard:
    """atoms: as the reader sees them, by the label where there is one, else as the force field relaxed them"""
    from chemloop.physics.matching import space_group

    above = atoms.info.get("e_above_hull")
    return StructureCard(
        atoms=bare(atoms),
        formula=formula(atoms),
        spacegroup=(not is_labelled and atoms.info.get("spacegroup")) or space_group(atoms),
        e_above_hull=None if above is None else float(above),
        iteration=iteration,
        is_sun=is_sun(atoms),
        motifs=motifs,
        energy_frame=atoms.info.get("energy_frame", ""),
        is_labelled=is_labelled,
    )


def motif_titles(rounds: Sequence[Round], catalogue: MotifCatalogue) -> Iterator[tuple[str, list[str]]]:
    """Id and titles of the motifs of each described structure, isomers told apart as the catalogue does."""
    from chemloop.physics.motifs import Motif

    entries: dict[str, list[CatalogueEntry]] = defaultdict(list)
    for entry in catalogue.entries:
        entries[entry.motif.wl_hash].append(entry)
    for each in having(rounds, "describe"):
        for id, kinds in read_json(each.stages["describe"].folder / MOTIFS).items():
            yield id, [_title(Motif.from_json(kind), entries, catalogue) for kind in kinds]


def _title(motif: Any, entries: Mapping[str, list[CatalogueEntry]], catalogue: MotifCatalogue) -> str:
    same = entries.get(motif.wl_hash, [])
    if len(same) > 1:
        # The slow comparison only where the hash leaves a choice: every motif of the structures is in the catalogue.
        same = [entry for entry in (catalogue.find(motif),) if entry is not None]
    return same[0].title if same else motif.title


def best_hosts(cards: Mapping[str, StructureCard]) -> dict[str, tuple[str, StructureCard]]:
    """By the title of a motif, the lowest structure that holds it as the page shows it, and its id.

    Of those labelled, where there are any: energies of two levels of theory do not compare.
    """
    found: dict[str, tuple[str, StructureCard]] = {}
    for id, card in sorted(cards.items(), key=lambda item: (not item[1].is_labelled, _energy(item[1]), item[0])):
        for title in card.motifs:
            found.setdefault(title, (id, card))
    return found


def _energy(card: StructureCard) -> float:
    return math.inf if card.e_above_hull is None else card.e_above_hull


def gallery(catalogue: MotifCatalogue, cards: Mapping[str, StructureCard]) -> list[MotifCard]:
    """All kinds of motif, those in most structures first."""
    hosts = best_hosts(cards)
    entries = sorted(catalogue.entries, key=lambda entry: (-entry.n_structures - entry.n_references, entry.title))
    return [motif_card(entry, *hosts.get(entry.title, ("", None))) for entry in entries]


def motif_card(entry: CatalogueEntry, host: str, host_card: StructureCard | None) -> MotifCard:
    """host_card: of the structure to show; None where no structure holds the motif as the page shows it, because the
    labeler relaxed it away: then only what the force field said of its best host is known.
    """
    return MotifCard(
        title=entry.title,
        svg=picture(entry),
        atoms=entry.motif.atoms,
        charge=entry.motif.charge,
        dimensionality=entry.motif.dimensionality,
        shape=entry.motif.shape,
        first_iteration=entry.first_iteration,
        n_structures=entry.n_structures,
        n_references=entry.n_references,
        count=entry.count,
        host=host,
        e_above_hull=entry.e_above_hull if host_card is None else host_card.e_above_hull,
        is_known=entry.is_known,
        file_stem=entry.file_stem,
        is_labelled=host_card is not None and host_card.is_labelled,
    )


def write_motifs(catalogue: MotifCatalogue, folder: Path) -> None:
    """`<file_stem>.xyz` and `.svg` of every motif; no folder where there are none.

    A motif whose charge differs from host to host gets another name with a new best host; its former files go.
    """
    from chemloop.physics.motifs import xyz_text

    stems = {entry.file_stem for entry in catalogue.entries}
    keys = {stem.rpartition("_")[2] for stem in stems}
    for path in sorted(folder.glob("*_*.*")):
        is_ours = path.suffix in (".xyz", ".svg") and path.stem.rpartition("_")[2] in keys
        if is_ours and path.stem not in stems:
            path.unlink()
    for entry in catalogue.entries:
        folder.mkdir(exist_ok=True)
        for suffix, text in (("xyz", xyz_text(entry.motif)), ("svg", picture(entry))):
            path = folder / f"{entry.file_stem}.{suffix}"
            if not path.exists() or path.read_text() != text:
                write_whole(path, text.encode())


def picture(entry: CatalogueEntry) -> str:
    return motif_svg(entry.motif.atoms, entry.motif.net.bonds, entry.title)
