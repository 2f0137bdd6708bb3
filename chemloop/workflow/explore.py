"""`workflow=explore`: the closed loop, what it prints, its metrics and its report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chemloop.loop import completeness_of, run_loop, stages_of, stop_reason
from chemloop.physics.completeness import sentence
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.disk import file_hash, is_intact, read_json, write_json
from chemloop.runtime.ledger import Ledger
from chemloop.stages.stage import Stage
from chemloop.tracker import Point
from chemloop.workflow.ledger import rebuild
from chemloop.workflow.report import write_campaign_report
from chemloop.workflow.results import checkpoints, tables

if TYPE_CHECKING:
    from chemloop.config import Settings


@dataclass
class Explore:
    """Nothing to configure: the groups say what is explored, with what, and until when."""

    def run(self, campaign: Campaign, settings: Settings, config: dict[str, Any]) -> None:
        campaign.begin(config)
        with campaign.drive():
            reason = finished_before(campaign, settings)
            if reason is None:
                print(f"campaign {campaign.name} in {campaign.folder}", flush=True)
                reason = explore(campaign, settings, config)
            else:
                print(f"campaign {campaign.name} is finished; nothing was done")
        show_summary(campaign, settings, reason)


def explore(campaign: Campaign, settings: Settings, config: dict[str, Any]) -> str:
    """Run the loop with its tracker, then write the report; returns why it stopped."""
    (campaign.folder / "DONE").unlink(missing_ok=True)
    if not campaign.ledger.exists():
        rebuild(campaign, settings)
    tracker, history = settings.tracker, list[Point]()
    tracker.begin(campaign.folder, config)

    def on_stage(stage: Stage) -> None:
        history.extend(stage.points())
        tracker.show(history, checkpoints(campaign))
        if stage.notice is not None:
            print(f"notice: {stage.notice}", flush=True)

    def on_iteration(iteration: int, metrics: dict[str, float]) -> None:
        print(iteration_line(iteration, metrics), flush=True)

    try:
        reason = run_loop(campaign, settings, on_stage, on_iteration)
        tracker.tabulate(tables(campaign))
    finally:
        is_shown = tracker.end()
    n_iterations = max(point.iteration for point in history)
    write_campaign_report(campaign, settings, reason)
    outputs = {campaign.report.name: file_hash(campaign.report)}
    record = {"outputs": outputs, "iterations": n_iterations, "is_shown": is_shown}
    write_json(campaign.folder / "DONE", record)
    return reason


def finished_before(campaign: Campaign, settings: Settings) -> str | None:
    """Why the campaign had ended when an earlier run finished it, all of it intact; else None."""
    marker = campaign.folder / "DONE"
    if not is_intact(marker) or not campaign.ledger.exists():
        return None
    record = read_json(marker)
    if not record["is_shown"]:
        return None
    last = record["iterations"]
    for iteration in range(last + 1):
        if not all(stage.is_done for stage in stages_of(campaign, settings, iteration)):
            return None
    return stop_reason(campaign, settings, last)


def iteration_line(iteration: int, metrics: dict[str, float]) -> str:
    """What came out of one iteration, in one line."""
    parts = [f"iteration {iteration}"]
    if "generate/n_generated" in metrics:
        counts = (
            ("generated", "generate/n_generated"),
            ("valid", "generate/n_valid"),
            ("converged", "relax/n_converged"),
            ("stable", "screen/n_stable"),
            ("unique", "screen/n_unique"),
            ("novel", "screen/n_novel"),
            ("S.U.N.", "screen/n_sun"),
        )
        parts.append(", ".join(f"{metrics[key]:.0f} {name}" for name, key in counts))
        lowest = metrics.get("screen/lowest_e_above_hull_ev_per_atom")
        parts.append("lowest E_hull " + ("none" if lowest is None else f"{lowest:+.3f} eV/atom"))
    frames = metrics.get("label/n_frames", metrics.get("seed/n_frames"))
    parts.append(f"{frames:.0f} frames labelled")
    parts.append(
        f"entropy {metrics['curate/entropy_nats']:.3f} nats,"
        f" dH/dN {metrics['curate/entropy_growth_nats_per_frame']:.1e} nats/frame"
    )
    known = [
        f"{100 * metrics[key]:.0f} % of {kind}s"
        for kind in ("environment", "motif")
        if (key := f"curate/{kind}_coverage") in metrics
    ]
    if known:
        parts.append(f"coverage {', '.join(known)}")
    if "finetune/test_force_rmse_after_mev_per_ang" in metrics:
        energy, force = (
            [metrics[f"finetune/test_{channel}_rmse_{when}_{unit}"] for when in ("before", "after", "base")]
            for channel, unit in (("energy", "mev_per_atom"), ("force", "mev_per_ang"))
        )
        shown = "{:.1f} -> {:.1f} {} (base {:.1f})"
        energies, forces = (
            shown.format(before, after, unit, base)
            for (before, after, base), unit in ((energy, "meV/atom"), (force, "meV/A"))
        )
        parts.append(f"test RMSE {energies}, {forces}")
    return " | ".join(parts)


def show_summary(campaign: Campaign, settings: Settings, reason: str) -> None:
    """The table of iterations, the stop reason and where to look next."""
    last = read_json(campaign.folder / "DONE")["iterations"]
    columns = (
        ("generated", "generate/n_generated", "{:.0f}"),
        ("converged", "relax/n_converged", "{:.0f}"),
        ("stable", "screen/n_stable", "{:.0f}"),
        ("S.U.N.", "screen/n_sun", "{:.0f}"),
        ("frames", "label/n_frames", "{:.0f}"),
        ("train", "curate/n_train", "{:.0f}"),
        ("entropy", "curate/entropy_nats", "{:.3f}"),
        ("dH/dN", "curate/entropy_growth_nats_per_frame", "{:.1e}"),
        ("cov. env.", "curate/environment_coverage", "{:.3f}"),
        ("cov. motif", "curate/motif_coverage", "{:.3f}"),
        ("E meV/atom", "finetune/test_energy_rmse_after_mev_per_atom", "{:.1f}"),
        ("F meV/A", "finetune/test_force_rmse_after_mev_per_ang", "{:.1f}"),
        ("base F", "finetune/test_force_rmse_base_mev_per_ang", "{:.1f}"),
    )
    print("\n" + "iteration".rjust(10) + "".join(name.rjust(11) for name, _, _ in columns))
    for iteration in range(last + 1):
        metrics: dict[str, float] = {}
        for stage in stages_of(campaign, settings, iteration):
            metrics.update(stage.metrics)
        metrics.setdefault("label/n_frames", metrics.get("seed/n_frames", 0))
        cells = [shown.format(metrics[key]) if key in metrics else "-" for _, key, shown in columns]
        print(str(iteration).rjust(10) + "".join(cell.rjust(11) for cell in cells))
    print(f"\nlabels    {settings.labeler.settings_id()}")
    print(f"stopped   {reason}")
    history = [completeness_of(campaign, settings, iteration) for iteration in range(last + 1)]
    print(f"expected  {sentence(history)}")
    print(f"report    {campaign.report}")
    print(f"database  {campaign.ledger} ({len(Ledger(campaign.ledger).rows())} structures)")
