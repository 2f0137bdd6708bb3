"""`workflow=cancel`: the jobs of one campaign out of SLURM's queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chemloop.compute.slurm_overview import cancel_all
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.errors import CampaignError
from chemloop.runtime.queue import QueueUnavailable
from chemloop.workflow.status import existing

if TYPE_CHECKING:
    from chemloop.config import Settings


@dataclass
class CancelJobs:
    """Nothing to configure."""

    def run(self, campaign: Campaign, settings: Settings, config: dict[str, Any]) -> None:
        """Raises: CampaignError where there is no such campaign, or SLURM does not answer"""
        try:
            n_jobs = cancel_all(existing(campaign).folder)
        except QueueUnavailable as error:
            raise CampaignError(f"nothing was cancelled, SLURM does not answer ({error}); try again") from error
        print(f"campaign {campaign.name}: {n_jobs} jobs cancelled; the same command as before continues it")
