"""The closed loop, readable top to bottom, and the rule that ends it.

seed -> [ generate -> relax -> screen -> describe -> select -> label -> curate -> finetune -> learn ] until complete

Learning is the generator's, and a stage only of those that can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chemloop.physics.completeness import CRITERIA, Completeness, is_complete
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.disk import read_json
from chemloop.runtime.errors import ConfigError
from chemloop.stages.curate import Curate, CurateSettings
from chemloop.stages.describe import Describe, DescribeSettings
from chemloop.stages.exploration import COMPLETENESS
from chemloop.stages.finetune import Finetune
from chemloop.stages.generate import Generate, GenerateSettings
from chemloop.stages.label import Label
from chemloop.stages.labelling import LabelSettings
from chemloop.stages.learn import Learn
from chemloop.stages.prepare import Prepare
from chemloop.stages.relax import Relax, RelaxSettings
from chemloop.stages.screen import Screen, ScreenSettings
from chemloop.stages.seed import Seed, SeedSettings
from chemloop.stages.select import Select
from chemloop.stages.stage import Stage

if TYPE_CHECKING:
    from chemloop.config import Settings

FIRST: tuple[type[Stage], ...] = (Prepare, Seed, Describe, Curate, Finetune)
EVERY: tuple[type[Stage], ...] = (Generate, Relax, Screen, Describe, Select, Label, Curate, Finetune)


@dataclass
class StopSettings:
    """The space counts as complete when all criteria are met, after more iterations than `patience`.

    criteria: any of
        entropy: at fixed sample size it grew less than `tolerance_nats` over the last `patience` iterations. It cannot
            exceed log `curate.n_environments`: near that it is met whatever is missing, and coverage has to tell
        growth: dH/dN of the training set is below `growth_limit_nats_per_frame`
        environment_coverage, motif_coverage: the lower end of the 95 % interval is not below the limit of that name
    """

    criteria: list[str] = field(default_factory=lambda: list(CRITERIA))
    tolerance_nats: float = 0.01
    patience: int = 2
    growth_limit_nats_per_frame: float = 1e-4
    environment_coverage: float = 0.95
    motif_coverage: float = 0.95

    def __post_init__(self) -> None:
        unknown = [criterion for criterion in self.criteria if criterion not in CRITERIA]
        if unknown or not self.criteria:
            raise ConfigError(
                f"loop.stop.criteria = [{', '.join(self.criteria)}]: must be one or more of {', '.join(CRITERIA)}"
            )
        for key in ("environment_coverage", "motif_coverage"):
            if not 0 < getattr(self, key) < 1:
                raise ConfigError(f"loop.stop.{key} = {getattr(self, key):g}: must be between 0 and 1")
        for key in ("tolerance_nats", "growth_limit_nats_per_frame", "patience"):
            if getattr(self, key) <= 0:
                raise ConfigError(f"loop.stop.{key} = {getattr(self, key):g}: must be above 0")

    @property
    def limits(self) -> dict[str, float]:
        """Of the criteria in use."""
        values = (
            self.tolerance_nats,
            self.growth_limit_nats_per_frame,
            self.environment_coverage,
            self.motif_coverage,
        )
        return {name: value for name, value in zip(CRITERIA, values, strict=True) if name in self.criteria}


@dataclass
class LoopSettings:
    """`conf/loop/*.yaml`: counts, quotas, stop rule.

    max_iterations: the loop ends here if the space is not complete before
    max_failed_fraction: a stage with more failed items stops the campaign
    hull_edges: eV/atom, upper edges of the E_hull windows in which candidates are chosen for labels
    hull_quotas: how many from each window
    """

    max_iterations: int = 7
    max_failed_fraction: float = 0.2
    hull_edges: list[float] = field(default_factory=lambda: [0.0, 0.03, 0.1])
    hull_quotas: list[int] = field(default_factory=lambda: [100, 200, 300])
    seed: SeedSettings = field(default_factory=SeedSettings)
    generate: GenerateSettings = field(default_factory=GenerateSettings)
    relax: RelaxSettings = field(default_factory=RelaxSettings)
    screen: ScreenSettings = field(default_factory=ScreenSettings)
    describe: DescribeSettings = field(default_factory=DescribeSettings)
    label: LabelSettings = field(default_factory=LabelSettings)
    curate: CurateSettings = field(default_factory=CurateSettings)
    stop: StopSettings = field(default_factory=StopSettings)

    def __post_init__(self) -> None:
        if self.max_iterations < 0:
            raise ConfigError(f"loop.max_iterations = {self.max_iterations}: must be 0 (references only) or above")
        if not 0 <= self.max_failed_fraction < 1:
            raise ConfigError(f"loop.max_failed_fraction = {self.max_failed_fraction:g}: must be in [0, 1)")

    @property
    def n_labelled(self) -> int:
        """Structures labelled per iteration at most."""
        return sum(self.hull_quotas)


def stages_of(campaign: Campaign, settings: Settings, iteration: int) -> list[Stage]:
    """The stages of one iteration in their order; iteration 0 is the known structures."""
    kinds = EVERY if iteration else FIRST
    if settings.generator.can_learn:
        kinds = (*kinds, Learn)
    return [kind(campaign, settings, iteration) for kind in kinds]


def run_loop(
    campaign: Campaign,
    settings: Settings,
    on_stage: Callable[[Stage], None],
    on_iteration: Callable[[int, dict[str, float]], None],
) -> str:
    """Go round until the space is complete or the iterations are used up; returns the reason in words.

    on_stage: called when a stage is finished, also when it had been finished by an earlier run
    on_iteration: called with the iteration's number and all its metrics
    """
    iteration = 0
    while True:
        metrics: dict[str, float] = {}
        for stage in stages_of(campaign, settings, iteration):
            metrics.update(stage.ensure())
            on_stage(stage)
        on_iteration(iteration, metrics)
        reason = stop_reason(campaign, settings, iteration)
        if reason is not None:
            return reason
        iteration += 1


def stop_reason(campaign: Campaign, settings: Settings, iteration: int) -> str | None:
    """Why the loop ends after this iteration, or None where it goes on."""
    history = [completeness_of(campaign, settings, number) for number in range(iteration + 1)]
    stop = settings.loop.stop
    verdict = is_complete(history, stop.limits, stop.patience)
    if verdict.complete:
        return verdict.reason
    if iteration >= settings.loop.max_iterations:
        return f"loop.max_iterations = {settings.loop.max_iterations} reached; {verdict.reason}"
    return None


def completeness_of(campaign: Campaign, settings: Settings, iteration: int) -> Completeness:
    """What an iteration whose curate stage is finished says of completeness."""
    return Completeness.from_json(read_json(Curate(campaign, settings, iteration).folder / COMPLETENESS))


def finished_iterations(campaign: Campaign, settings: Settings) -> Iterator[list[Stage]]:
    """The stages of every iteration that has some finished ones, the finished ones only."""
    iteration = 0
    while True:
        done = [stage for stage in stages_of(campaign, settings, iteration) if stage.is_done]
        if not done:
            return
        yield done
        iteration += 1
