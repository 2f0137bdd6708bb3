"""Before any work: can the force field be loaded, does it know the elements, and with which weights does it begin?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from ase import Atoms

from chemloop.protocols import ForceField, Potential
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import ChemLoopError, ConfigError
from chemloop.runtime.item import Item
from chemloop.runtime.ledger import Ledger
from chemloop.stages.stage import (
    BASE,
    METRICS,
    Stage,
    base_folder,
    checkpoint_hash,
    load_or_begin_untrained,
    load_potential,
)


class Prepare(Stage):
    """base.json: the checkpoint that the campaign begins with, its SHA-256 where it is a file, its energy frame, a
    notice for people or null, and how many structures are evaluated together.

    Decided once, so that weights which can be fetched later do not change a campaign that began without them.
    """

    name = "prepare"
    resource = "gpu"
    component = "model"

    @property
    def folder(self) -> Path:
        return base_folder(self.campaign)

    def plan(self) -> list[Item]:
        return [self.plan_item(0)]

    def run(self, item: Item) -> Sequence[str]:
        settings = self.settings
        settings.training.check_files()
        model, potential, notice = load_or_begin_untrained(settings.model, settings.compute.gpu.device)
        potential.collate([self._probe()])
        digest = checkpoint_hash(model.checkpoint)
        frame = f"{settings.options['model']}-{digest[:8] if digest else model.checkpoint or 'untrained'}"
        if (head := getattr(model, "head", None)) is not None and model.checkpoint is not None:
            # one file may hold several potentials
            frame += f"-{head}"
        base = {
            "checkpoint": model.checkpoint,
            "sha256": digest,
            "energy_frame": frame,
            "notice": notice,
            **self._batches(potential),
        }
        if settings.loop.relax.coarse.model is not None:
            self._check_coarse(settings.loop.relax.coarse.model)
        write_json(item.folder / BASE, base)
        return [BASE]

    def _check_coarse(self, model: ForceField) -> None:
        """Let the force field of the coarse part compute once, so that it fails here rather than after hours.

        Raises: ConfigError
        """
        from chemloop.physics.batching import FAILURES
        from chemloop.physics.calculator import evaluate

        try:
            evaluate([self._probe()], load_potential(model, self.settings.compute.gpu.device))
        except (ChemLoopError, *FAILURES) as error:
            raise ConfigError(f"loop.relax.coarse.model cannot be used: {error}") from error

    def _batches(self, potential: Potential) -> dict[str, int | None]:
        """How many structures, and atoms, are evaluated together at most: as configured, or as measured here."""
        from chemloop.physics.batching import Batching
        from chemloop.physics.throughput import measure

        settings = self.settings.loop.relax
        batching = Batching(settings.batch_size)
        references = self.settings.system.references(None)
        # again and again where there are fewer than an item may evaluate together
        n = max(len(references), settings.per_item)
        measure(batching, [*itertools.islice(itertools.cycle(references), n)], potential)
        return {"batch_size": int(batching.size), "max_atoms": batching.max_atoms}

    def _probe(self) -> Atoms:
        """One cell with all elements of the system, far apart."""
        elements = self.settings.system.elements
        positions = [(3.0 * number, 0.0, 0.0) for number in range(len(elements))]
        return Atoms(elements, positions, cell=[3.0 * len(elements), 6.0, 6.0], pbc=True)

    def collect(self, items: Sequence[Item]) -> dict[str, float]:
        (item,) = items
        base = read_json(item.folder / BASE)
        write_json(self.folder / BASE, base)
        return {"is_untrained": base["checkpoint"] is None, "batch_size": base["batch_size"]}

    def final_files(self) -> list[Path]:
        return [self.folder / METRICS, self.folder / BASE]

    def record_in(self, ledger: Ledger) -> None:
        """Nothing: there are no structures yet."""

    @property
    def notice(self) -> str | None:
        return read_json(self.folder / BASE)["notice"]
