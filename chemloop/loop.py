"""The closed loop, readable top to bottom, and the rule that ends it.

seed -> [ generate -> relax -> screen -> select -> label -> curate -> finetune ] until complete
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chemloop.physics.completeness import is_complete
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.errors import ConfigError
from chemloop.stages.curate import Curate, CurateSettings
from chemloop.stages.finetune import Finetune
from chemloop.stages.generate import Generate, GenerateSettings
from chemloop.stages.label import Label
from chemloop.stages.labelling import LabelSettings
from chemloop.stages.prepare import Prepare
from chemloop.stages.relax import Relax, RelaxSettings
from chemloop.stages.screen import Screen, ScreenSettings
from chemloop.stages.seed import Seed, SeedSettings
from chemloop.stages.select import Select
from chemloop.stages.stage import Stage

if TYPE_CHECKING:
    from chemloop.config import Settings

FIRST: tuple[type[Stage], ...] = (Prepare, Seed, Curate, Finetune)
EVERY: tuple[type[Stage], ...] = (Generate, Relax, Screen, Select, Label, Curate, Finetune)


@dataclass
class StopSettings:
    """The space counts as complete when the entropy at fixed sample size grew less than `tolerance_nats` over the last
    `patience` iterations and dH/dN of the training set is below `growth_limit_nats_per_frame`."""

    tolerance_nats: float = 0.01
    patience: int = 2
    growth_limit_nats_per_frame: float = 1e-4

    def __post_init__(self) -> None:
        for key in ("tolerance_nats", "growth_limit_nats_per_frame", "patience"):
            if getattr(self, key) <= 0:
                raise ConfigError(f"loop.stop.{key} = {getattr(self, key):g}: must be above 0")


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
    curated = [Curate(campaign, settings, number).metrics for number in range(iteration + 1)]
    stop = settings.loop.stop
    verdict = is_complete(
        [metrics["curate/entropy_nats"] for metrics in curated],
        [metrics["curate/entropy_growth_nats_per_frame"] for metrics in curated],
        stop.tolerance_nats,
        stop.patience,
        stop.growth_limit_nats_per_frame,
    )
    if verdict.complete:
        return verdict.reason
    if iteration >= settings.loop.max_iterations:
        return f"loop.max_iterations = {settings.loop.max_iterations} reached; {verdict.reason}"
    return None


def finished_iterations(campaign: Campaign, settings: Settings) -> Iterator[list[Stage]]:
    """The stages of every iteration that has some finished ones, the finished ones only."""
    iteration = 0
    while True:
        done = [stage for stage in stages_of(campaign, settings, iteration) if stage.is_done]
        if not done:
            return
        yield done
        iteration += 1
