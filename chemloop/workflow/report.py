"""`workflow=report`: report.html of a campaign, from its folders."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from chemloop.loop import finished_iterations, stop_reason
from chemloop.physics.structures import read_structures
from chemloop.report.data import Drop, Find, Iteration, Parity, ReportData
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.disk import read_json
from chemloop.stages.finetune import PARITY
from chemloop.stages.label import RELAXED
from chemloop.stages.select import why_not
from chemloop.stages.stage import Stage
from chemloop.workflow.ledger import settings_of

if TYPE_CHECKING:
    from chemloop.config import Settings


@dataclass
class WriteReport:
    """Nothing to configure."""

    def run(self, campaign: Campaign, settings: Settings, config: dict[str, Any]) -> None:
        settings = settings_of(campaign)
        iterations = list(finished_iterations(campaign, settings))
        is_whole = len(iterations) > 0 and iterations[-1][-1].name == "finetune"
        reason = stop_reason(campaign, settings, len(iterations) - 1) if is_whole else None
        write_campaign_report(campaign, settings, reason or "")
        print(campaign.report)


def write_campaign_report(campaign: Campaign, settings: Settings, reason: str) -> None:
    """report.html; reason: why the loop ended, empty while it goes on."""
    from chemloop.report.page import write_report

    fresh = campaign.report.with_name(".report.html")
    write_report(report_data(campaign, settings, reason), fresh)
    os.replace(fresh, campaign.report)


def report_data(campaign: Campaign, settings: Settings, reason: str) -> ReportData:
    """What the report shows, read from the outputs of the finished stages."""
    rounds = [{stage.name: stage for stage in stages} for stages in finished_iterations(campaign, settings)]
    config = {key: value for key, value in campaign.config().items() if key not in ("outputs", "label_cache")}
    data = ReportData(
        campaign=campaign.name,
        elements=settings.system.elements,
        label_source=label_source(settings),
        config_yaml=yaml.safe_dump(config, sort_keys=False),
        versions=versions(campaign),
        stop_reason=reason,
        iterations=[iteration_data(number, stages) for number, stages in enumerate(rounds)],
        hull_energies="label",
        stable_below=settings.loop.screen.stable_below,
        drops=[drop for stages in rounds for stage in stages.values() for drop in drops(stage)],
    )
    fitted = [(number, stages["finetune"]) for number, stages in enumerate(rounds) if "finetune" in stages]
    if fitted:
        data.parity_iteration, stage = fitted[-1]
        data.energy_parity, data.force_parity = parities(stage.folder / PARITY)
    curated = [stages["curate"] for stages in rounds if "curate" in stages]
    if curated:
        converged = [atoms for atoms in read_structures(curated[-1].folder / RELAXED) if atoms.info["converged"]]
        data.references = [atoms for atoms in converged if not is_find(atoms.info["id"])]
        stable = [atoms for atoms in converged if atoms.info["e_above_hull"] < settings.loop.screen.stable_below]
        data.finds = [find(atoms) for atoms in stable if is_find(atoms.info["id"])]
    return data


def label_source(settings: Settings) -> str:
    """Who computed the labels, without the hash of the settings; a teacher is never taken for DFT."""
    name = settings.labeler.settings_id().rpartition("-")[0]
    return f"{name} (not DFT)" if settings.options["labeler"] == "teacher" else name


def iteration_data(number: int, stages: dict[str, Stage]) -> Iteration:
    metrics = {key: value for stage in stages.values() for key, value in stage.metrics.items()}
    if "screen" not in stages:
        return Iteration(number, metrics)
    screened = [atoms for atoms in stages["screen"].output() if atoms.info["converged"]]
    return Iteration(number, metrics, np.array([atoms.info["e_above_hull"] for atoms in screened]))


def parities(path: Path) -> tuple[Parity | None, Parity | None]:
    """Energies and force components of the test frames; None where there were none."""
    if path.stat().st_size == 0:
        return None, None
    with np.load(path) as arrays:
        energy, force = (
            Parity(*(arrays[f"{who}_{channel}"] for who in ("label", "base", "after")))
            for channel in ("energy", "force")
        )
        force.sampled_from = int(arrays["n_forces"])
    return energy, force


def is_find(structure_id: str) -> bool:
    """Whether the structure was generated, not known from the start."""
    return "-g" in structure_id


def find(atoms: Any) -> Find:
    from chemloop.physics.matching import space_group

    return Find(atoms, int(atoms.info["id"][1:3]), space_group(atoms))


def drops(stage: Stage) -> list[Drop]:
    """Structures that this stage sorted out by reason, and its failed items."""
    reasons: Counter[str] = Counter()
    if stage.name == "relax":
        candidates = [atoms for atoms in stage.output() if atoms.info["role"] == "candidate"]
        reasons.update(atoms.info["dropped"].partition(":")[0] for atoms in candidates if "dropped" in atoms.info)
    if stage.name == "screen":
        reasons.update(why_not(atoms) for atoms in stage.output())
        del reasons["not selected"]
    if stage.name == "generate":
        for key, n in stage.metrics.items():
            for kind, what in (("dropped", ""), ("rejected", "attempt: ")):
                prefix = f"generate/n_{kind}_"
                if key.startswith(prefix):
                    reasons[what + key.removeprefix(prefix).replace("_", " ")] += int(n)
    counted = [Drop(stage.name, reason, count) for reason, count in sorted(reasons.items())]
    return counted + [Drop(stage.name, failure["reason"], 1, failure["item"]) for failure in stage.failures()]


def versions(campaign: Campaign) -> dict[str, str]:
    """Of the packages that the newest finished item was computed with."""
    markers: Sequence[Path] = sorted(campaign.folder.glob("iter-*/*/items/*/DONE"))
    return read_json(markers[-1])["versions"] if markers else {}
