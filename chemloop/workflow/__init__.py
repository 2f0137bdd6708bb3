"""What a command does: `workflow=NAME` is `conf/workflow/NAME.yaml` + `chemloop/workflow/NAME.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from chemloop.config import Settings
    from chemloop.runtime.campaign import Campaign


class Workflow(Protocol):
    """One command on one campaign."""

    def run(self, campaign: Campaign, settings: Settings, config: dict[str, Any]) -> None:
        """config: the resolved configuration as plain data, from which `settings` was built."""
