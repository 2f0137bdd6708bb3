"""Loss and errors of each epoch, in memory, in checkpoints, and in a file of one JSON line per epoch."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from chemloop.runtime.disk import write_whole
from chemloop.training.evaluation import UNITS


class Curves:
    """The rows are part of the training's state, and the file is written from them: each epoch is there once."""

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[dict[str, float]] = []
        self.sums: Counter[str] = Counter()
        self.n_steps = 0

    def add_step(self, losses: dict[str, float]) -> None:
        """Losses of one training step."""
        self.sums.update(losses)
        self.n_steps += 1

    def end_epoch(self, epoch: int, valid: dict[str, float], score: float, learning_rate: float) -> None:
        """Mean training losses, validation RMSE (eV and A), validation score."""
        row: dict[str, float] = {"epoch": epoch, "learning_rate": learning_rate, "valid_score": score}
        row |= {f"train_{name}": value / self.n_steps for name, value in self.sums.items()}
        row |= {f"valid_{channel}_rmse_{UNITS[channel]}": 1000 * value for channel, value in valid.items()}
        self.rows.append(row)
        self.sums.clear()
        self.n_steps = 0

    def write(self) -> None:
        """The file, whole."""
        write_whole(self.path, "".join(json.dumps(row) + "\n" for row in self.rows).encode())

    def epochs_without_progress(self) -> int:
        """Epochs since the best validation score."""
        scores = [row["valid_score"] for row in self.rows]
        return len(scores) - 1 - scores.index(min(scores)) if scores else 0

    def state_dict(self) -> dict:
        return {"rows": self.rows, "sums": dict(self.sums), "n_steps": self.n_steps}

    def load_state_dict(self, state: dict) -> None:
        self.rows = state["rows"]
        self.sums = Counter(state["sums"])
        self.n_steps = state["n_steps"]
