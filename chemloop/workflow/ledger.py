"""`workflow=ledger`: structures.db again from the campaign's folders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chemloop.loop import finished_iterations
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.errors import CampaignError
from chemloop.runtime.ledger import Ledger

if TYPE_CHECKING:
    from chemloop.config import Settings


@dataclass
class RebuildLedger:
    """Nothing to configure."""

    def run(self, campaign: Campaign, settings: Settings, config: dict[str, Any]) -> None:
        settings = settings_of(campaign)
        with campaign.drive():
            rebuild(campaign, settings)
        print(f"{campaign.ledger}: {len(Ledger(campaign.ledger).rows())} structures")


def rebuild(campaign: Campaign, settings: Settings) -> None:
    """Write the ledger from the outputs of all finished stages; it replaces the old one when it is complete."""
    fresh = campaign.ledger.with_name(".structures.db")
    fresh.unlink(missing_ok=True)
    for stages in finished_iterations(campaign, settings):
        for stage in stages:
            stage.record_in(Ledger(fresh))
    if fresh.exists():
        fresh.replace(campaign.ledger)


def settings_of(campaign: Campaign) -> Settings:
    """What an existing campaign was begun with, whatever the command line says.

    Raises: CampaignError when there is no such campaign, or another version of ChemLoop computed it
    """
    from chemloop.config import load

    if not (campaign.folder / "campaign.yaml").exists():
        raise CampaignError(
            f"there is no campaign {campaign.folder}; give campaign=NAME, or the options that it was begun with"
        )
    campaign.check_stages()
    return load(campaign.config())
