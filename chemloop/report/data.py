"""What a report shows, as plain data: where a campaign keeps its results is known to whoever fills it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

if TYPE_CHECKING:
    from chemloop.physics.completeness import Completeness

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
class StructureCard:
    """One relaxed structure that a reader can open.

    formula: with subscripts; iteration: 0 for the known structures
    e_above_hull: eV/atom at the level `energy_frame`: of the labels where it is labelled, else of the force field that
        relaxed it; None where neither is known
    is_sun: stable, unique and novel, at that same level
    motifs: their titles, [] where they are not known
    is_labelled: whether the labeler relaxed it, and all of this is by its label
    """

    atoms: Atoms
    formula: str
    spacegroup: str
    e_above_hull: float | None
    iteration: int
    is_sun: bool
    motifs: list[str]
    energy_frame: str
    is_labelled: bool = False

    @property
    def is_reference(self) -> bool:
        """Known from the start."""
        return self.iteration == 0


@dataclass
class MotifCard:
    """One kind of motif for the gallery.

    svg: an inline picture; atoms: one molecule or translational unit; shape: in words
    n_structures, n_references: new and known structures that hold it; count: molecules or units in all of them
    host, e_above_hull: the lowest structure that holds it, empty where none does as the page shows it, and its eV/atom;
        None where that is not known
    is_labelled: whether that energy is of labels; else it is the force field's
    is_known: whether a reference has it; file_stem: of its files in the campaign's folder `motifs`
    """

    title: str
    svg: str
    atoms: Atoms
    charge: int | None
    dimensionality: int
    shape: str
    first_iteration: int
    n_structures: int
    n_references: int
    count: int
    host: str
    e_above_hull: float | None
    is_known: bool
    file_stem: str
    is_labelled: bool = False


@dataclass
class Cost:
    """What one stage took in all iterations; core_hours: wall time of its finished items, one core each."""

    stage: str
    core_hours: float
    n_items: int
    n_failed: int


@dataclass
class Origin:
    """What one generator, or one operator of it, proposed, and what became of that, all iterations together.

    operator: empty for all that the generator made
    n_attempts: what it tried by itself to propose so many; None where that is not known
    lost: proposals that are not valid, and attempts of its own that it gave up, by reason; of a generator only
    mean_e_above_hull: eV/atom, of the converged ones, each against the hull of its iteration; None where there is none
    """

    generator: str
    operator: str
    n_proposed: int
    n_valid: int
    n_sun: int
    mean_e_above_hull: float | None
    n_attempts: int | None = None
    lost: dict[str, int] = field(default_factory=dict)


@dataclass
class Embedding:
    """Structures on a map on which like ones lie together.

    ids: of the structures; framework: (n, 2) without the mobile ion, whole: (n, 2) with it; NaN where there is no
        fingerprint
    sampled_from: how many structures have fingerprints, where these are a sample of them
    """

    ids: list[str]
    framework: np.ndarray
    whole: np.ndarray
    sampled_from: int | None = None


@dataclass
class HullParity:
    """E_hull by the labels and by force fields, eV/atom, each against the hull of the known structures alone.

    ids, label, found: (n,) of all labelled new structures; found: by the force field that screened the structure
    again: (n,) by the newest force field that relaxed them; NaN where it did not
    again_iteration: of that force field
    """

    ids: list[str]
    label: np.ndarray
    found: np.ndarray
    again: np.ndarray
    again_iteration: int | None = None


@dataclass
class ReportData:
    """Everything that the report shows.

    elements: of the chemical system
    label_source: who computed the labels, e.g. `teacher 7net-0 (not DFT)`; labels are called this wherever they appear
    stop_reason: in words; empty while the campaign is running
    parity_iteration: the iteration whose test set the parity plots show
    references, finds: known and S.U.N. structures on one hull, by the labels, with `<hull_energies>_energy` in one
        energy frame
    hull_energies: `mlff` or `label`
    stable_below: eV/atom above the hull, below which a structure counts as stable
    model_references, model_finds: all known and all S.U.N. structures in the energy frame of the newest force field
        that relaxed them, that of iteration `model_iteration`
    structures: every known structure and every new one that a force field relaxed to the end, by id
    gallery: all kinds of motif, the most frequent first
    completeness: one per iteration, None where it was not measured; sentence: what it comes to
    origins: of each generator, its operators after it
    costs: of each stage; labels_computed, labels_from_cache: calculations, None where nobody counted them
    mobile_ion: left out of the framework, or None; bond_cutoffs: A, longest bonds of the framework by pairs like `P-S`
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
    model_references: Sequence[Atoms] = ()
    model_finds: Sequence[Find] = ()
    model_iteration: int | None = None
    hull_parity: HullParity | None = None
    structures: dict[str, StructureCard] = field(default_factory=dict)
    embedding: Embedding | None = None
    gallery: Sequence[MotifCard] = ()
    completeness: Sequence[Completeness | None] = ()
    sentence: str = ""
    origins: Sequence[Origin] = ()
    costs: Sequence[Cost] = ()
    labels_computed: int | None = None
    labels_from_cache: int | None = None
    mobile_ion: str | None = None
    bond_cutoffs: dict[str, float] = field(default_factory=dict)

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
