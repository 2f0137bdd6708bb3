"""What the worker of `workflow=train_generator` does: one training of a generator, outside of any campaign."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chemloop.physics.structures import read_structures
from chemloop.runtime.disk import write_json
from chemloop.runtime.errors import CheckpointError
from chemloop.runtime.item import Item
from chemloop.stages.learn import files_of
from chemloop.stages.stage import FIT, METRICS

INPUT = "input.extxyz"


class Lesson:
    """fit.json: the new checkpoint, a path from the item's folder."""

    def run(self, item: Item) -> Sequence[str]:
        """Raises: CheckpointError for a checkpoint that is not in the item's folder; what the generator raises"""
        from chemloop.config import build

        folder, task = item.folder.resolve(), item.task
        generator: Any = build(task["generator"], "generator")
        checkpoint = Path(generator.finetune(read_structures(folder / INPUT), folder, task["seed"])).resolve()
        if not checkpoint.exists() or not checkpoint.is_relative_to(folder):
            raise CheckpointError(
                f"the generator says that its new checkpoint is {checkpoint}, which must be a file or folder below"
                f" {folder}"
            )
        write_json(folder / FIT, {"checkpoint": os.path.relpath(checkpoint, folder)})
        outputs = [FIT, *(os.path.relpath(path, folder) for path in files_of(checkpoint))]
        return [*outputs, METRICS] if (folder / METRICS).exists() else outputs
