"""Metrics, tables and checkpoints in Weights & Biases; the metrics also in `metrics.jsonl` beside it.

Without a key the run stays on disk (`wandb sync <campaign>/wandb/offline-run-*` sends it later); nobody is asked to
log in.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chemloop.runtime.errors import ConfigError
from chemloop.system import system_name
from chemloop.tracker import Point, Table
from chemloop.tracker.jsonl import JsonlTracker
from chemloop.tracker.rows import AXES, dashboard_rows, x_axis

log = logging.getLogger(__name__)
MODES = ("auto", "offline", "online", "disabled")
FORMER_MODES = {"run": "online", "dryrun": "offline"}
"""Names that WANDB_MODE may still have."""
FINISH_TIMEOUT_S = 600
"""How long the end of a campaign waits for uploads; what was not sent by then is sent by the same command."""
RETRY_AFTER_S = 600
"""How long a campaign goes on before it tries again what failed: without network every attempt waits a while."""
STAGING = "WANDB_DATA_DIR"


@dataclass
class WandbTracker(JsonlTracker):
    """mode: `auto` is online where WANDB_API_KEY is set, else offline; project, entity, group: as in W&B.

    artifacts: whether the force field's checkpoint of each iteration is kept there, one artifact per campaign
    """

    project: str = "chemloop"
    entity: str | None = None
    group: str | None = None
    mode: str = "auto"
    artifacts: bool = True

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"tracker.mode = {self.mode!r}: allowed are {', '.join(MODES)}")

    def begin(self, campaign: Path, config: dict[str, Any]) -> None:
        super().begin(campaign, config)
        self._campaign, self._config = campaign, config
        self._history: Sequence[Point] = ()
        self._checkpoints: Mapping[int, Path] = {}
        self._tables: Sequence[Table] = ()
        self._run: Any = None
        self._failed_at = -math.inf
        if self._mode() == "online":
            self._try(self._open)

    def show(self, history: Sequence[Point], checkpoints: Mapping[int, Path] | None = None) -> None:
        super().show(history)
        self._history, self._checkpoints = history, checkpoints or {}
        if self._mode() == "online" and time.monotonic() - self._failed_at > RETRY_AFTER_S:
            self._try(self._log)

    def tabulate(self, tables: Sequence[Table]) -> None:
        self._tables = tables

    def end(self) -> bool:
        """Send what is left. A run on disk, which nobody can watch growing, is written here, whole."""
        return self._mode() == "disabled" or self._try(self._finish)

    def _mode(self) -> str:
        if self.mode != "auto":
            return self.mode
        mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        return FORMER_MODES.get(mode, mode)

    def _run_id(self) -> str:
        return hashlib.sha256(str(self._campaign.resolve()).encode()).hexdigest()[:16]

    def _try(self, action: Callable[[], None]) -> bool:
        """Do it; where W&B fails, say so and go on, because the metrics are safe in `metrics.jsonl`."""
        try:
            action()
        except Exception as error:
            log.warning("W&B failed (%s); nothing is lost, the same command sends it again", error)
            self._run, self._failed_at = None, time.monotonic()
            return False
        return True

    def _open(self) -> None:
        # Silent, W&B also never asks for a key
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        options = self._config["options"]
        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group or system_name(**{key: self._config["system"][key] for key in ("name", "elements")}),
            job_type=options["workflow"],
            name=self._campaign.name,
            id=self._run_id(),
            resume="allow" if self._mode() == "online" else None,
            dir=self._campaign,
            config=self._config,
            mode=self._mode(),  # type: ignore[arg-type]  # checked against MODES
            settings=wandb.Settings(
                init_timeout=30,
                finish_timeout=FINISH_TIMEOUT_S,
                finish_timeout_raises=True,
                reinit="finish_previous",
                console="off",
                x_disable_stats=True,
            ),
        )
        self._groups: set[str] = set()
        self._kept: set[int] = set()
        for axis in AXES:
            self._run.define_metric(axis, hidden=True)

    def _log(self) -> None:
        if self._run is None:
            self._open()
        rows = dashboard_rows(self._history, is_sweep_point="point" in self._config)
        for step in range(self._run.step, len(rows)):
            self._define(rows[step])
            self._run.log(rows[step], step=step, commit=True)
        for iteration in sorted(self._checkpoints.keys() - self._kept) if self.artifacts else ():
            self._keep(iteration, self._checkpoints[iteration])

    def _define(self, row: dict[str, float]) -> None:
        """Say what to draw a group of metrics against when it first appears: no two patterns fit one metric."""
        for group in sorted({key.partition("/")[0] for key in row if "/" in key} - self._groups):
            self._run.define_metric(f"{group}/*", step_metric=x_axis(group))
            self._groups.add(group)

    def _keep(self, iteration: int, checkpoint: Path) -> None:
        """A version of the campaign's artifact; W&B knows a content that it has already and makes none for it."""
        import wandb

        name = re.sub(r"[^A-Za-z0-9_.-]", "_", self._campaign.name)[:100]
        found = {k: v for point in self._history if point.iteration == iteration for k, v in point.metrics.items()}
        metadata = {key: value for key, value in found.items() if key.startswith("finetune/")}
        artifact = wandb.Artifact(
            f"{name}-{self._run_id()[:6]}",
            type="model",
            description=f"{self._config['options']['model']} after each iteration of {self._campaign.name}",
            metadata={"iteration": iteration, **metadata},
        )
        # Immutable: a finished checkpoint never changes, so no copy is made of it
        artifact.add_file(str(checkpoint), name=checkpoint.name, policy="immutable", skip_cache=True)
        with self._staging():
            self._run.log_artifact(artifact, aliases=[f"iter-{iteration:03d}", "latest"])
        self._kept.add(iteration)

    def _finish(self) -> None:
        if self._mode() == "offline":
            self._clear()
        self._log()
        if self._tables:
            import wandb

            with self._staging():
                for table in self._tables:
                    rows = [list(row) for row in table.rows]
                    self._run.summary[table.name] = wandb.Table(columns=list(table.columns), data=rows)
        self._run.finish()

    def _clear(self) -> None:
        """Remove what an earlier command wrote of this run."""
        folder = self._campaign / "wandb"
        for former in (*folder.glob(f"offline-run-*-{self._run_id()}"), *folder.glob("staging")):
            shutil.rmtree(former)

    @contextmanager
    def _staging(self) -> Iterator[None]:
        """Files wait in the campaign's folder until they are sent, not in the home folder, unless the user says so."""
        is_set = STAGING in os.environ
        os.environ.setdefault(STAGING, str((self._campaign / "wandb" / "staging").resolve()))
        try:
            yield
        finally:
            if not is_set:
                del os.environ[STAGING]
