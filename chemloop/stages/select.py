"""Which of the screened structures are labelled."""

from __future__ import annotations

from collections.abc import Sequence

from ase import Atoms

from chemloop.physics.structures import read_structures, write_structures
from chemloop.runtime.item import Item
from chemloop.runtime.ledger import Ledger
from chemloop.stages.label import RELAXED
from chemloop.stages.stage import OUTPUT, Stage


class Select(Stage):
    """output.extxyz: converged, unique and novel candidates that the selector chose, best first."""

    name = "select"

    def plan(self) -> list[Item]:
        return [self.plan_item(0)]

    def run(self, item: Item) -> Sequence[str]:
        candidates = [atoms for atoms in self._screened() if why_not(atoms) == "not selected"]
        labelled = [atoms for name in ("seed", "label") for path in self.earlier(name) for atoms in known(path)]
        selection = self.settings.candidates.select(
            candidates, labelled, self.settings.loop.n_labelled, item.task["seed"]
        )
        write_structures(item.folder / OUTPUT, [candidates[index] for index in selection.indices])
        return [OUTPUT]

    def collect(self, items: Sequence[Item]) -> dict[str, float]:
        return {"n_selected": len(self.merge(items, OUTPUT))}

    def record_in(self, ledger: Ledger) -> None:
        selected = self.output()
        ids = {atoms.info["id"] for atoms in selected}
        others = [atoms for atoms in self._screened() if atoms.info["id"] not in ids]
        for atoms in others:
            atoms.info["dropped"] = why_not(atoms)
        ledger.record(selected, self.name, self.iteration)
        ledger.record(others, "screen", self.iteration)

    def _screened(self) -> list[Atoms]:
        return read_structures(self.earlier("screen", since=self.iteration)[0] / OUTPUT)


def why_not(atoms: Atoms) -> str:
    """Why a screened structure is not labelled."""
    for flag, reason in (("converged", "not converged"), ("is_unique", "duplicate"), ("is_novel", "known")):
        if not atoms.info[flag]:
            return reason
    return "not selected"


def known(folder) -> list[Atoms]:
    """The structures that a seed or label stage has labelled."""
    return read_structures(folder / RELAXED)
