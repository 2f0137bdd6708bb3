"""What a report shows, as plain data: where a campaign keeps its results is known to whoever fills it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms

SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass
class Iteration:
    """One round of the loop; 0 is that of the known structures.

    metrics: all metrics of its stages, counts of this iteration alone; stages that are not finished have none
    e_above_hull: (n,) eV/atom of the relaxed structures, or None where none were screened
    """

    number: int
    metrics: dict[str, float]
    e_above_hull: np.ndarray | None = None

    def value(self, key: str) -> float | None:
        """A metric, or None where its stage is not finished."""
        number = self.metrics.get(key)
        return None if number is None or not np.isfinite(number) else float(number)

    @property
    def n_frames(self) -> float | None:
        """Frames labelled: those of the known structures in iteration 0, of new ones later."""
        return self.value("seed/n_frames" if self.number == 0 else "label/n_frames")


@dataclass
class Parity:
    """The same test values by the labels and by the force field before and after fine-tuning.

    label, before, after: (n,) eV/atom for energies, eV/A for force components
    sampled_from: how many test values there are, where these are a sample of them; the errors are those of the sample
    """

    label: np.ndarray
    before: np.ndarray
    after: np.ndarray
    sampled_from: int | None = None

    def rmse(self, when: str) -> float:
        """Root-mean-square error in eV/atom or eV/A; when is `before` or `after`."""
        return float(np.sqrt(np.mean((getattr(self, when) - self.label) ** 2)))


@dataclass
class Find:
    """A structure that is stable, unique and novel; atoms carry `id`, an energy and its `energy_frame`."""

    atoms: Atoms
    iteration: int
    spacegroup: str


@dataclass
class Drop:
    """Structures that went no further, or a calculation that failed; item is empty where many are counted together."""

    stage: str
    reason: str
    count: int
    item: str = ""


@dataclass
class ReportData:
    """Everything that the report shows.

    elements: of the chemical system
    label_source: who computed the labels, e.g. `teacher 7net-0 (not DFT)`; labels are called this wherever they appear
    stop_reason: in words; empty while the campaign is running
    parity_iteration: the iteration whose test set the parity plots show
    references, finds: on one hull, with `<hull_energies>_energy` in one energy frame
    hull_energies: `mlff` or `label`
    stable_below: eV/atom above the hull, below which a structure counts as stable
    """

    campaign: str
    elements: Sequence[str]
    label_source: str
    config_yaml: str
    versions: dict[str, str]
    stop_reason: str = ""
    iterations: Sequence[Iteration] = ()
    energy_parity: Parity | None = None
    force_parity: Parity | None = None
    parity_iteration: int | None = None
    references: Sequence[Atoms] = ()
    finds: Sequence[Find] = ()
    hull_energies: str = "mlff"
    stable_below: float = 0.1
    drops: Sequence[Drop] = field(default_factory=list)

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Iterations that have a metric, and its values."""
        pairs = [(iteration.number, iteration.value(key)) for iteration in self.iterations]
        known = [(number, value) for number, value in pairs if value is not None]
        return [number for number, _ in known], [value for _, value in known]

    def total(self, key: str) -> int:
        """Sum of a count over all iterations."""
        return int(sum(self.series(key)[1]))

    @property
    def n_frames(self) -> int:
        """Frames labelled in all iterations together."""
        return int(sum(iteration.n_frames or 0 for iteration in self.iterations))


def plain_formula(atoms: Atoms) -> str:
    """Reduced formula in letters and digits, e.g. Li3PS4, elements in pymatgen's order."""
    from pymatgen.core import Composition

    return Composition(atoms.symbols.formula.count()).reduced_formula


def formula(atoms: Atoms) -> str:
    """Reduced formula with subscripts, e.g. Li₃PS₄."""
    return plain_formula(atoms).translate(SUBSCRIPTS)
