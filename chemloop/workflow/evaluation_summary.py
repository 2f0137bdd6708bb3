"""Table, page and pictures of an evaluation, from the folders of its sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import Atoms

from chemloop.report.evaluation_data import EvaluationData, EvaluationRow, markdown, quantiles, table
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.disk import read_json, write_json, write_whole
from chemloop.runtime.errors import ConfigError
from chemloop.stages.evaluation import ANY_SIZE, Judge, RelaxSamples, Sample
from chemloop.stages.proposals import Proposals, read_proposals
from chemloop.stages.relax import is_sun
from chemloop.stages.stage import BASE, base_folder

if TYPE_CHECKING:
    from chemloop.config import Settings

RECORD = "evaluation.json"
DUPLICATE = "duplicate"
"""As the generate stage calls it."""
SHARED = ("elements", "energy_frame", "max_reference_atoms", "stable_below", "fmax", "max_steps")
"""What two evaluations must have in common to be compared."""


def rows_of(campaign: Campaign, settings: Settings, n_atoms: int) -> list[EvaluationRow]:
    """What became of the samples of one size; of samples of any size, by ranges of size."""
    sample, relax = Sample(campaign, settings, n_atoms), RelaxSamples(campaign, settings, n_atoms)
    generator = settings.options["generator"]
    proposals = read_proposals(sample.folder) if sample.is_done else Proposals()
    judge = Judge(campaign, settings, n_atoms)
    judged = judge.output() if judge.is_done else []
    total = EvaluationRow(
        generator,
        str(n_atoms) if n_atoms else "any",
        n_atoms or max(settings.workflow.n_atoms),  # type: ignore[attr-defined]  # the workflow is this one
        n_asked=sample.n_asked,
        n_valid=len(sample.output()) if sample.is_done else 0,
        n_duplicates=proposals.dropped[DUPLICATE],
        faults=dict(proposals.dropped) | ({"not generated": proposals.n_missing} if proposals.n_missing else {}),
        generate_cpu_s=sample.cpu_seconds,
        relax_cpu_s=relax.cpu_seconds,
    )
    total = replace(total, **judgement(judged))
    if n_atoms != ANY_SIZE:
        return [total]
    valid = sample.output() if sample.is_done else []
    return by_range(total, valid, judged, settings.workflow.n_atoms)  # type: ignore[attr-defined]  # the same


def judgement(judged: Sequence[Atoms]) -> dict[str, Any]:
    """Fields of a row that are counted among relaxed samples."""
    done = [atoms for atoms in judged if atoms.info["converged"]]
    return {
        "n_converged": len(done),
        **{f"n_{flag}": sum(atoms.info[f"is_{flag}"] for atoms in done) for flag in ("unique", "novel", "stable")},
        "n_sun": sum(map(is_sun, judged)),
        **{key: quantiles([atoms.info[key] for atoms in done]) for key in ("e_above_hull", "rmsd")},
    }


def by_range(
    total: EvaluationRow, valid: Sequence[Atoms], judged: Sequence[Atoms], ends: Sequence[int]
) -> list[EvaluationRow]:
    """All samples of any size, then those of each range of sizes; what was not valid has no size that counts.

    ends: upper ends of the ranges, ascending; what is larger than the last one is a range of its own
    """
    sizes = [len(atoms) for atoms in valid]
    largest = max([*sizes, ends[-1]])
    uppers = [*ends, *([largest] if largest > ends[-1] else [])]
    rows = [total]
    for low, high in zip([0, *uppers], uppers, strict=False):
        n_valid = sum(low < size <= high for size in sizes)
        inside = [atoms for atoms in judged if low < len(atoms) <= high]
        if n_valid:
            name = f"{low + 1}-{high}" if high > low + 1 else str(high)
            row = EvaluationRow(total.generator, name, high, n_asked=n_valid, n_valid=n_valid)
            rows.append(replace(row, **judgement(inside)))
    return rows


def record_of(campaign: Campaign, settings: Settings) -> dict[str, Any]:
    """What the rows belong to."""
    workflow: Any = settings.workflow
    base = read_json(base_folder(campaign) / BASE)
    return {
        "generator": settings.options["generator"],
        "model": settings.options["model"],
        "elements": sorted(settings.system.elements),
        "energy_frame": base["energy_frame"],
        "stable_below": settings.loop.screen.stable_below,
        "fmax": settings.loop.relax.fmax,
        "max_steps": settings.loop.relax.max_steps,
        "e_above_hull": settings.loop.generate.e_above_hull,
        "trained_max_atoms": workflow.trained_max_atoms,
        "max_reference_atoms": workflow.max_reference_atoms,
        "n": workflow.n,
    }


def read_comparisons(
    names: Sequence[str], outputs: Path, campaign: Campaign, settings: Settings
) -> list[EvaluationRow]:
    """The rows of other evaluations.

    Raises: ConfigError for one that is not there, or whose numbers do not compare
    """
    mine, rows = record_of(campaign, settings), list[EvaluationRow]()
    taken = {mine["generator"]}
    for name in names:
        path = outputs / name / RECORD
        if not path.is_file():
            there = sorted(path.parent.name for path in outputs.glob(f"*/{RECORD}") if path.parent != campaign.folder)
            raise ConfigError(
                f"workflow.compare has {name}: no finished evaluation in {outputs}; there are"
                f" {', '.join(there) or 'none'}"
            )
        theirs = read_json(path)
        differing = [f"{key} {theirs[key]} instead of {mine[key]}" for key in SHARED if theirs[key] != mine[key]]
        if differing:
            raise ConfigError(f"workflow.compare has {name}, which was evaluated with {'; '.join(differing)}")
        label = theirs["generator"] if theirs["generator"] not in taken else name
        taken.add(label)
        own = [EvaluationRow(**row) for row in theirs["rows"]]
        rows += [replace(row, generator=label) for row in own]
    return rows


def write_summary(
    campaign: Campaign,
    settings: Settings,
    rows: Sequence[EvaluationRow],
    others: Sequence[EvaluationRow],
    notices: Sequence[str],
) -> None:
    """evaluation.json, the table as CSV and Markdown, the page, and the figure for papers."""
    from chemloop.report.evaluation import write_evaluation

    record = record_of(campaign, settings)
    write_json(campaign.folder / RECORD, {**record, "rows": [asdict(row) for row in rows]})
    everything = [*rows, *others]
    write_whole(campaign.folder / "evaluation.csv", table(everything).encode())
    write_evaluation(EvaluationData(campaign.name, record, everything, notices), campaign.folder)


def line(row: EvaluationRow) -> str:
    """What came out of one size, in one line."""
    counts = f"{row.n_valid} of {row.n_asked} valid, {row.n_converged} converged, {row.n_unique} unique"
    energy = f", median E_hull {row.e_above_hull[2]:+.3f} eV/atom" if row.e_above_hull else ""
    rmsd = f", RMSD {row.rmsd[2]:.2f} A" if row.rmsd else ""
    return f"{row.atoms} atoms: {counts}, {row.n_novel} novel, {row.n_stable} stable, {row.n_sun} S.U.N.{energy}{rmsd}"


def show_summary(campaign: Campaign, rows: Sequence[EvaluationRow], notices: Sequence[str]) -> None:
    """The table, what people should know, and the files."""
    print("\n" + markdown(rows))
    for notice in notices:
        print(f"notice: {notice}")
    for name, file in (("figure", "evaluation.html"), ("", "evaluation.png"), ("table", "evaluation.csv")):
        print(f"{name:8s}{campaign.folder / file}")
