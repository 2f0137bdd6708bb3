"""Labels of the selected structures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ase import Atoms

from chemloop.physics.structures import read_structures, write_structures
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.item import Item
from chemloop.runtime.label_cache import LabelCache
from chemloop.runtime.ledger import Ledger
from chemloop.stages.labelling import Protocol
from chemloop.stages.stage import OUTPUT, Stage

RELAXED = "relaxed.extxyz"


class Label(Stage):
    """output.extxyz: the frames; relaxed.extxyz: each structure as relaxed by the labeler."""

    name = "label"
    resource = "dft"
    component = "labeler"
    is_reference = False

    def structures(self) -> list[Atoms]:
        """What is to be labelled."""
        return read_structures(self.earlier("select", since=self.iteration)[0] / OUTPUT)

    def plan(self) -> list[Item]:
        return [self.plan_item(number, [atoms]) for number, atoms in enumerate(self.structures())]

    def run(self, item: Item) -> Sequence[str]:
        (atoms,) = read_structures(item.folder / "input.extxyz")
        cache = LabelCache(Path(self.settings.label_cache))
        protocol = Protocol(self.settings.labeler, self.settings.loop.label, cache)
        labelled = protocol.label(atoms, item.task["seed"], self.is_reference)
        assert labelled.relaxed is not None
        write_structures(item.folder / OUTPUT, labelled.frames)
        write_structures(item.folder / RELAXED, [labelled.relaxed])
        counted = ("n_too_forceful", "n_too_close", "n_computed", "n_from_cache")
        counts = {key: getattr(labelled, key) for key in counted}
        write_json(item.folder / "label.json", {"reasons": labelled.reasons, **counts})
        return [OUTPUT, RELAXED, "label.json"]

    def collect(self, items: Sequence[Item]) -> dict[str, float]:
        frames = self.merge(items, OUTPUT)
        relaxed = self.merge(items, RELAXED)
        notes = [read_json(item.folder / "label.json") for item in items]
        return {
            "n_structures": len(relaxed),
            "n_frames": len(frames),
            "n_converged": sum(atoms.info["converged"] for atoms in relaxed),
            "n_failed_calculations": sum(len(note["reasons"]) for note in notes),
            "n_too_forceful": sum(note["n_too_forceful"] for note in notes),
            "n_too_close": sum(note["n_too_close"] for note in notes),
        }

    def final_files(self) -> list[Path]:
        return [*super().final_files(), self.folder / RELAXED]

    def record_in(self, ledger: Ledger) -> None:
        ledger.record(read_structures(self.folder / RELAXED), self.name, self.iteration)
