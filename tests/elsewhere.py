"""A force field whose package, `only_there`, is installed in another environment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ElsewhereForceField:
    checkpoint: str | None = "default"
    can_learn: bool = True

    def load(self, device: str = "cpu", dtype: str = "float32"):
        import only_there

        return only_there.load(self.checkpoint, device, dtype)
