"""The stages of an iteration: plan() -> items, run(item) in a worker, collect() in the driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from chemloop.runtime.item import Item


class Runner(Protocol):
    """What does items in a worker: a stage, or a class that finds all it needs in the item."""

    def run(self, item: Item) -> Sequence[str]:
        """Do one item; returns the names of the files that it wrote.

        Raises: ItemFailed
        """


def load_stage(item: Item) -> Runner:
    """What an item is to be run by: its stage with the campaign's settings, or, outside of any iteration, a runner."""
    import importlib

    from chemloop.config import load
    from chemloop.runtime.campaign import Campaign

    task = item.task
    module, _, name = task["stage"].rpartition(".")
    runner = getattr(importlib.import_module(module), name)
    if "iteration" not in task:
        return runner()
    folder = item.folder.parents[1]
    campaign = Campaign(folder.parents[1])
    return runner(campaign, load(campaign.config()), task["iteration"])
