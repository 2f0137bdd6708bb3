"""Metrics in Weights & Biases, and in `metrics.jsonl` beside it.

Without a key the run stays on disk (`wandb sync <campaign>/wandb/offline-run-*` sends it later); nobody is asked to
log in.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chemloop.runtime.errors import ConfigError
from chemloop.tracker import Point
from chemloop.tracker.jsonl import JsonlTracker

log = logging.getLogger(__name__)
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
        self._campaign, self._config = campaign, config
        self._history: Sequence[Point] = ()
        self._run: Any = None
        if self._mode() == "online":
            self._try(self._open)

    def show(self, history: Sequence[Point]) -> None:
        super().show(history)
        self._history = history
        if self._mode() == "online":
            self._try(self._log)

    def end(self) -> bool:
        """Send what is left. A run on disk, which nobody can watch growing, is written here, whole."""
        if self._mode() == "offline":
            for folder in (self._campaign / "wandb").glob(f"offline-run-*-{self._run_id()}"):
                shutil.rmtree(folder)
        return self._mode() == "disabled" or self._try(self._finish)

    def _mode(self) -> str:
        if self.mode != "auto":
            return self.mode
        return os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")

    def _run_id(self) -> str:
        return hashlib.sha256(str(self._campaign.resolve()).encode()).hexdigest()[:16]

    def _try(self, action: Callable[[], None]) -> bool:
        """Do it; where W&B fails, say so and go on, because the metrics are safe in `metrics.jsonl`."""
        try:
            action()
        except Exception as error:
            log.warning("W&B failed (%s); nothing is lost, the same command sends it again", error)
            self._run = None
            return False
        return True

    def _open(self) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group or self._config["options"]["system"],
            name=self._campaign.name,
            id=self._run_id(),
            resume="allow" if self._mode() == "online" else None,
            dir=self._campaign,
            config=self._config,
            mode=self._mode(),  # type: ignore[arg-type]  # checked against MODES
            settings=wandb.Settings(init_timeout=30, console="off", x_disable_stats=True),
        )
        self._run.define_metric("*", step_metric="iteration")
        self._run.define_metric("curves/*", step_metric="curves/epoch")

    def _log(self) -> None:
        if self._run is None:
            self._open()
        for step in range(self._run.step, len(self._history)):
            point = self._history[step]
            self._run.log({"iteration": point.iteration, **point.metrics}, step=step, commit=True)

    def _finish(self) -> None:
        self._log()
        self._run.finish()
