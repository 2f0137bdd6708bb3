"""A pretrained SevenNet that stands in for DFT in rehearsals and tests; its labels are the teacher's, never DFT's."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

from ase.calculators.calculator import Calculator

from chemloop.labeler.ase import InProcessLabeler
from chemloop.model.ase import digest


@dataclass
class TeacherLabeler(InProcessLabeler):
    """checkpoint: weights inside the sevenn package (7net-0, 7net-l3i5) or a path."""

    is_instant: ClassVar[bool] = True

    checkpoint: str = "7net-0"

    def settings_id(self) -> str:
        return f"teacher-{self.checkpoint.rpartition('/')[2]}-{digest(self.checkpoint)}"

    def build_calculator(self) -> Calculator:
        return _teacher(self.checkpoint)


@functools.lru_cache(maxsize=1)
def _teacher(checkpoint: str) -> Calculator:
    from chemloop.model.sevennet import SevenNetForceField
    from chemloop.physics.calculator import PotentialCalculator

    return PotentialCalculator(SevenNetForceField(checkpoint).load("cpu", "float32"))
