"""For the report: what the stages cost, and what they sorted out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from chemloop.report.data import Cost, Drop
from chemloop.runtime.campaign import STAGES, Campaign
from chemloop.runtime.disk import read_json
from chemloop.stages.describe import FAILURES
from chemloop.stages.select import why_not
from chemloop.stages.stage import Stage
from chemloop.workflow.report_rounds import Round

COUNTS = ("n_computed", "n_from_cache")
"""In the label.json of an item: calculations done, and those taken from the cache."""


def costs(campaign: Campaign) -> list[Cost]:
    """Every stage that has begun, in order, all iterations together."""
    found = []
    for name in ("prepare", "known", *STAGES):
        items = [item for folder in campaign.folder.glob(f"iter-*/{_folder(name)}") for item in _items(folder)]
        if not items:
            continue
        done = [read_json(item / "DONE")["wall_s"] for item in items if (item / "DONE").exists()]
        n_failed = sum((item / "FAILED").exists() for item in items)
        found.append(Cost(name, sum(done) / 3600, len(done) + n_failed, n_failed))
    return found


def _folder(name: str) -> str:
    return f"{STAGES.index(name)}-{name}" if name in STAGES else name


def _items(folder: Path) -> Iterator[Path]:
    return (path for path in sorted((folder / "items").glob("*")) if path.is_dir())


def label_counts(campaign: Campaign) -> tuple[int | None, int | None]:
    """Calculations done and taken from the cache; None where an item has not counted them."""
    notes = [
        read_json(item / "label.json")
        for name in ("seed", "label")
        for folder in campaign.folder.glob(f"iter-*/{_folder(name)}")
        for item in _items(folder)
        if (item / "DONE").exists()
    ]
    if not notes or not all(key in note for note in notes for key in COUNTS):
        return None, None
    computed, cached = (sum(note[key] for note in notes) for key in COUNTS)
    return computed, cached


def drops(each: Round) -> list[Drop]:
    """What the stages of one iteration sorted out by reason, and their failed items and calculations."""
    found = []
    for stage in each.stages.values():
        counted = reasons(each, stage)
        found += [Drop(stage.name, reason, count) for reason, count in sorted(counted.items()) if count]
        found += [Drop(stage.name, failure["reason"], 1, failure["item"]) for failure in stage.failures()]
    return found


def reasons(each: Round, stage: Stage) -> Counter[str]:
    """Structures and frames that this stage sorted out, by reason."""
    if stage.name == "generate":
        return Counter(_counted(stage, "n_dropped_") | _counted(stage, "n_rejected_", "attempt: "))
    if stage.name == "relax":
        candidates = [atoms for atoms in each.relaxed if atoms.info["role"] == "candidate"]
        return Counter(atoms.info["dropped"].partition(":")[0] for atoms in candidates if "dropped" in atoms.info)
    if stage.name == "screen":
        lost = Counter(why_not(atoms) for atoms in each.screened)
        del lost["not selected"]
        return lost
    if stage.name == "describe":
        return Counter(f"no fingerprint: {reason}" for reason in read_json(stage.folder / FAILURES).values())
    if stage.name in ("seed", "label"):
        return Counter(_counted(stage, "n_too_", "frame: too "))
    return Counter()


def _counted(stage: Stage, prefix: str, what: str = "") -> dict[str, int]:
    """Counts among the metrics whose name begins with the prefix, by the rest of the name in words."""
    prefix = f"{stage.name}/{prefix}"
    found = {key.removeprefix(prefix): int(n) for key, n in stage.metrics.items() if key.startswith(prefix)}
    return {what + reason.replace("_", " "): n for reason, n in found.items()}
