"""`workflow=report`: report.html of a campaign, from its folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from chemloop.loop import finished_iterations, stages_of, stop_reason
from chemloop.physics.completeness import Completeness, sentence
from chemloop.report.data import Iteration, Parity, ReportData
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.disk import read_json
from chemloop.stages.exploration import CATALOGUE, COMPLETENESS
from chemloop.stages.finetune import PARITY
from chemloop.workflow.ledger import settings_of
from chemloop.workflow.report_effort import costs, drops, label_counts
from chemloop.workflow.report_energies import add_hulls
from chemloop.workflow.report_map import embedding
from chemloop.workflow.report_origins import origins
from chemloop.workflow.report_rounds import Round, having, labelled, read_rounds
from chemloop.workflow.report_structures import gallery, structure_cards, write_motifs

if TYPE_CHECKING:
    from chemloop.config import Settings
    from chemloop.physics.motifs import MotifCatalogue


@dataclass
class WriteReport:
    """Nothing to configure."""

    def run(self, campaign: Campaign, settings: Settings, config: dict[str, Any]) -> None:
        settings = settings_of(campaign)
        iterations = list(finished_iterations(campaign, settings))
        last = len(iterations) - 1
        is_whole = last >= 0 and len(iterations[last]) == len(stages_of(campaign, settings, last))
        reason = stop_reason(campaign, settings, last) if is_whole else None
        write_campaign_report(campaign, settings, reason or "")
        print(campaign.report)


def write_campaign_report(campaign: Campaign, settings: Settings, reason: str) -> None:
    """report.html, and the motifs as files; reason: why the loop ended, empty while it goes on."""
    from chemloop.report.page import write_report

    rounds = read_rounds(campaign, settings)
    catalogue = newest_catalogue(rounds)
    data = report_data(campaign, settings, reason, rounds, catalogue)
    fresh = campaign.report.with_name(".report.html")
    write_report(data, fresh)
    os.replace(fresh, campaign.report)
    write_motifs(catalogue, campaign.folder / "motifs")


def report_data(
    campaign: Campaign, settings: Settings, reason: str, rounds: Sequence[Round], catalogue: MotifCatalogue
) -> ReportData:
    """What the report shows, read from the outputs of the finished stages; catalogue: of the motifs so far."""
    config = {key: value for key, value in campaign.config().items() if key not in ("outputs", "label_cache")}
    data = ReportData(
        campaign=campaign.name,
        elements=settings.system.elements,
        label_source=label_source(settings),
        config_yaml=yaml.safe_dump(config, sort_keys=False),
        versions=versions(campaign),
        stop_reason=reason,
        iterations=[iteration_data(each) for each in rounds],
        hull_energies="label",
        stable_below=settings.loop.screen.stable_below,
        drops=[drop for each in rounds for drop in drops(each)],
        origins=origins(rounds),
        costs=costs(campaign),
        mobile_ion=settings.system.mobile_ion,
        bond_cutoffs=dict(settings.system.bond_cutoffs),
    )
    data.labels_computed, data.labels_from_cache = label_counts(campaign)
    fitted = list(having(rounds, "finetune"))
    if fitted:
        data.parity_iteration = fitted[-1].number
        data.energy_parity, data.force_parity = parities(fitted[-1].stages["finetune"].folder / PARITY)
    structures = labelled(rounds)
    add_hulls(data, rounds, structures)
    data.structures = structure_cards(rounds, structures, catalogue, settings.system)
    data.embedding = embedding(campaign, rounds)
    data.completeness = [completeness_of(each) for each in rounds]
    measured = [each for each in data.completeness if each is not None]
    data.sentence = sentence(measured) if measured else ""
    data.gallery = gallery(catalogue, data.structures)
    return data


def newest_catalogue(rounds: Sequence[Round]) -> MotifCatalogue:
    """The motifs of all iterations, by the newest curate stage; empty before the first one."""
    from chemloop.physics.motifs import MotifCatalogue

    paths = [each.stages["curate"].folder / CATALOGUE for each in having(rounds, "curate")]
    return MotifCatalogue.from_json(read_json(paths[-1])) if paths else MotifCatalogue()


def completeness_of(each: Round) -> Completeness | None:
    """What the curate stage measured, None before it is finished."""
    if "curate" not in each.stages:
        return None
    return Completeness.from_json(read_json(each.stages["curate"].folder / COMPLETENESS))


def label_source(settings: Settings) -> str:
    """Who computed the labels, without the hash of the settings; a teacher is never taken for DFT."""
    name = settings.labeler.settings_id().rpartition("-")[0]
    return f"{name} (not DFT)" if settings.options["labeler"] == "teacher" else name


def iteration_data(each: Round) -> Iteration:
    metrics = {key: value for stage in each.stages.values() for key, value in stage.metrics.items()}
    above = np.array([atoms.info["e_above_hull"] for atoms in each.candidates])
    return Iteration(each.number, metrics, above if "screen" in each.stages else None)


def parities(path: Path) -> tuple[Parity | None, Parity | None]:
    """Energies and force components of the test frames; None where there were none."""
    if path.stat().st_size == 0:
        return None, None
    with np.load(path) as arrays:
        energy, force = (
            Parity(*(arrays[f"{who}_{channel}"] for who in ("label", "before", "after")))
            for channel in ("energy", "force")
        )
        force.sampled_from = int(arrays["n_forces"])
    return energy, force


def versions(campaign: Campaign) -> dict[str, str]:
    """Of the packages that the newest finished item was computed with."""
    markers: Sequence[Path] = sorted(campaign.folder.glob("iter-*/*/items/*/DONE"))
    return read_json(markers[-1])["versions"] if markers else {}
