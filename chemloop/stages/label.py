"""Labels of the selected structures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ase import Atoms

from chemloop.physics.structures import read_structures, without, write_structures
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.item import Item
from chemloop.runtime.label_cache import LabelCache
from chemloop.runtime.ledger import Ledger
from chemloop.stages.cost import estimate, sentence
from chemloop.stages.labelling import Protocol
from chemloop.stages.stage import OUTPUT, Stage

RELAXED = "relaxed.extxyz"


def ignore(done: int, total: int, n_steps: int) -> None:
    """Nobody is told of progress."""


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

        def note_progress(done: int, total: int, n_steps: int) -> None:
            write_json(item.folder / "progress.json", {"done": done, "total": total, "n_steps": n_steps})

        folder = item.folder / "calculations"
        protocol = self._protocol(folder, note_progress)
        labelled = protocol.label(atoms, item.task["seed"], self.is_reference)
        assert labelled.relaxed is not None
        write_structures(item.folder / OUTPUT, labelled.frames)
        write_structures(item.folder / RELAXED, [labelled.relaxed])
        counted = ("n_too_forceful", "n_too_close", "n_computed", "n_from_cache")
        counts = {key: getattr(labelled, key) for key in counted}
        write_json(item.folder / "label.json", {"reasons": labelled.reasons, "timings": labelled.timings, **counts})
        return [OUTPUT, RELAXED, "label.json"]

    def _protocol(self, folder: Path | None = None, on_progress: Callable[[int, int, int], None] = ignore) -> Protocol:
        cache = LabelCache(Path(self.settings.label_cache), self.settings.label_cache_gb)
        per, max_attempts = self.settings.loop.label, self.settings.compute.max_attempts
        return Protocol(self.settings.labeler, per, cache, folder, on_progress, max_attempts)

    def ensure(self) -> dict[str, float]:
        """As every stage, but what it will cost is said first."""
        if not self.is_done and not self.settings.labeler.is_instant:
            print(self.forecast())
        return super().ensure()

    def forecast(self) -> str:
        """How many calculations are to come, what the cache saves, and the core hours that they may take."""
        protocol, per = self._protocol(), self.settings.loop.label
        structures = self.structures()
        open_ones = [(k, atoms) for k, atoms in enumerate(structures) if not self.item(k).is_done]
        n_starts = per.n_perturbations + self.is_reference
        n_saved = sum(protocol.n_cached(atoms, self.seed(k), self.is_reference) for k, atoms in open_ones)
        sizes = [len(atoms) for _, atoms in open_ones]
        cost = estimate(self._timings(), sizes, {"relax": n_starts, "static": per.n_static})
        if cost is not None and sizes:
            cost *= 1 - n_saved / (n_starts * len(sizes))
        return sentence(self.name, self.iteration, len(sizes), n_starts, per.n_static, n_saved, cost)

    def _timings(self) -> list[tuple[str, int, float]]:
        """Of all calculations that this campaign has finished."""
        notes = sorted(self.campaign.folder.glob("iter-*/*/items/*/label.json"))
        return [tuple(timing) for path in notes for timing in read_json(path)["timings"]]

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

    def failures(self) -> list[dict[str, str]]:
        """Items that failed, and single calculations of items that did not: item and reason."""
        notes = sorted((self.folder / "items").glob("*/label.json"))
        single = [
            {"item": path.parent.name, "reason": reason} for path in notes for reason in read_json(path)["reasons"]
        ]
        return super().failures() + single

    def record_in(self, ledger: Ledger) -> None:
        """The relaxed structures, and those that have no label, each with what failed."""
        reasons: dict[str, list[str]] = {}
        for failure in self.failures():
            reasons.setdefault(failure["item"], []).append(failure["reason"])
        relaxed = {atoms.info["id"]: atoms for atoms in read_structures(self.folder / RELAXED)}
        for number, found in reasons.items():
            (atoms,) = read_structures(self.folder / "items" / number / "input.extxyz")
            name = atoms.info["id"]
            relaxed.setdefault(name, without(atoms, "mlff")).info["label_failure"] = "; ".join(found)
        ledger.record(list(relaxed.values()), self.name, self.iteration)
