"""Metrics in Weights & Biases, and in `metrics.jsonl` beside it.

Without a key the run stays on disk (`wandb sync <campaign>/wandb/offline-run-*` sends it later); nobody is asked to
log in.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chemloop.runtime.errors import ConfigError
from chemloop.tracker import Point
from chemloop.tracker.jsonl import JsonlTracker

MODES = ("auto", "offline", "online", "disabled")


@dataclass
class WandbTracker(JsonlTracker):
    """mode: `auto` is online where WANDB_API_KEY is set, else offline; project, entity, group, tags: as in W&B."""

    project: str = "chemloop"
    entity: str | None = None
    group: str | None = None
    mode: str = "auto"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"tracker.mode = {self.mode!r}: allowed are {', '.join(MODES)}")

    def begin(self, campaign: Path, config: dict[str, Any]) -> None:
        super().begin(campaign, config)
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        mode = self.mode
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        run_id = hashlib.sha256(str(campaign.resolve()).encode()).hexdigest()[:16]
        if mode == "offline":
            for folder in (campaign / "wandb").glob(f"offline-run-*-{run_id}"):
                shutil.rmtree(folder)
        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group or config["options"]["system"],
            name=campaign.name,
            id=run_id,
            resume="allow" if mode == "online" else None,
            dir=campaign,
            config=config,
            mode=mode,  # type: ignore[arg-type]  # checked against MODES
            settings=wandb.Settings(init_timeout=30, console="off", x_disable_stats=True),
        )
        self._run.define_metric("*", step_metric="iteration")
        self._run.define_metric("curves/*", step_metric="curves/epoch")
        self._n_shown = self._run.step

    def show(self, history: Sequence[Point]) -> None:
        super().show(history)
        for step, point in enumerate(history):
            if step >= self._n_shown:
                self._run.log({"iteration": point.iteration, **point.metrics}, step=step)
        self._n_shown = max(self._n_shown, len(history))

    def end(self) -> None:
        self._run.finish()
