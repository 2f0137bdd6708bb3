"""The stages of an iteration: plan() -> items, run(item) in a worker, collect() in the driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chemloop.runtime.item import Item
    from chemloop.stages.stage import Stage


def load_stage(item: Item) -> Stage:
    """The stage that an item belongs to, with the campaign's settings, in the process of a worker."""
    import importlib

    from chemloop.config import load
    from chemloop.runtime.campaign import Campaign

    folder = item.folder.parents[1]
    campaign = Campaign(folder.parents[1])
    task = item.task
    module, _, name = task["stage"].rpartition(".")
    stage_class = getattr(importlib.import_module(module), name)
    return stage_class(campaign, load(campaign.config()), task["iteration"])
