"""`workflow=evaluate_generator`: what a generator's structures are worth, by the number of atoms per cell."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemloop.runtime.campaign import Campaign
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import CampaignError, ConfigError, StageFailed
from chemloop.stages.evaluation import ANY_SIZE, Judge, RelaxReferences, RelaxSamples, Sample
from chemloop.stages.prepare import Prepare
from chemloop.workflow.evaluation_summary import line, read_comparisons, rows_of, show_summary, write_summary

if TYPE_CHECKING:
    from chemloop.config import Settings
    from chemloop.report.evaluation_data import EvaluationRow

FIXED = ("n", "max_reference_atoms")
"""What all sizes have in common, so that it may not change from one run of the command to the next."""
BEGUN = "begun.json"


@dataclass
class EvaluateGenerator:
    """Samples of each size go through the loop's own validity check, relaxation and screening.

    n_atoms: atoms per cell that are asked for, one size after the other; for a generator that does not understand
        n_atoms the upper ends of the ranges into which its samples are sorted
    n: structures asked for of each size
    trained_max_atoms: atoms of the largest cell that the generator was trained on; None: not known, or not trained
    max_reference_atoms: known structures with larger cells are left out of the hull, as `loop.seed.max_atoms` does
    compare: other evaluations in outputs/ that the table and the figures show as well
    """

    n_atoms: list[int] = field(default_factory=lambda: [8, 12, 16, 20, 24, 32, 40])
    n: int = 32
    trained_max_atoms: int | None = None
    max_reference_atoms: int | None = None
    compare: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.n_atoms or min(self.n_atoms) < 1:
            raise ConfigError(f"workflow.n_atoms = {self.n_atoms}: must be one number of atoms or more, 1 or above")
        if self.n < 1:
            raise ConfigError(f"workflow.n = {self.n}: must be 1 or above")
        for key in ("trained_max_atoms", "max_reference_atoms"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"workflow.{key} = {value}: must be 1 or above, or null")
        self.n_atoms = sorted(set(self.n_atoms))

    def folder_name(self, settings: Settings) -> str:
        """Of the evaluation, where campaign=NAME gives no other."""
        options = settings.options
        return f"{settings.system.name}_{options['generator']}_{options['model']}_evaluation_s{settings.seed}"

    def run(self, campaign: Campaign, settings: Settings, config: dict[str, Any]) -> None:
        begin(campaign, config, {key: getattr(self, key) for key in FIXED})
        with campaign.drive():
            prepare = Prepare(campaign, settings, 0)
            prepare.ensure()
            others = read_comparisons(self.compare, Path(settings.outputs), campaign, settings)
            RelaxReferences(campaign, settings, 0).ensure()
            notices = [prepare.notice] if prepare.notice is not None else []
            sizes = self.n_atoms if "n_atoms" in settings.generator.understands else [ANY_SIZE]
            if sizes == [ANY_SIZE]:
                name = settings.options["generator"]
                notices.append(f"generator={name} takes no number of atoms, so its samples are sorted by size")
            rows: list[EvaluationRow] = []
            try:
                for n_atoms in sizes:
                    notices += evaluate(campaign, settings, n_atoms)
                    new = rows_of(campaign, settings, n_atoms)
                    print("\n".join(map(line, new)), flush=True)
                    rows += new
            finally:
                if rows:
                    write_summary(campaign, settings, rows, others, notices)
        show_summary(campaign, [*rows, *others], notices)


def begin(campaign: Campaign, config: dict[str, Any], fixed: dict[str, Any]) -> None:
    """Begin an evaluation or go on with it.

    Raises: CampaignError where the folder is something else, or was begun with other settings
    """
    if (campaign.folder / "campaign.yaml").exists() and not (campaign.folder / BEGUN).exists():
        raise CampaignError(
            f"{campaign.folder} is a campaign, an evaluation needs a folder of its own: choose another campaign=NAME"
        )
    campaign.folder.mkdir(parents=True, exist_ok=True)
    path = campaign.folder / BEGUN
    before = read_json(path) if path.exists() else fixed
    changed = [f"workflow.{key}: {before[key]} -> {value}" for key, value in fixed.items() if before[key] != value]
    if changed:
        raise CampaignError(
            f"the evaluation {campaign.folder} was begun with other settings; changed: {'; '.join(changed)}. Go back to"
            " the former values, or give the new one a name of its own with campaign=NAME"
        )
    write_json(path, before)
    campaign.begin(config)


def evaluate(campaign: Campaign, settings: Settings, n_atoms: int) -> list[str]:
    """Generate, relax and judge cells of one size; returns what people should know: what the generator warns of, or why
    there are none, where it made none.

    Raises: StageFailed where too many relaxations failed
    """
    sample = Sample(campaign, settings, n_atoms)
    try:
        sample.ensure()
    except StageFailed as error:
        # That a generator comes to nothing beyond some size is a result.
        return [f"cells of {n_atoms} atoms: {error}"]
    if sample.output():
        RelaxSamples(campaign, settings, n_atoms).ensure()
        Judge(campaign, settings, n_atoms).ensure()
    return [] if sample.notice is None else [sample.notice]
