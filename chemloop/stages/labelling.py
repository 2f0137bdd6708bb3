"""The label protocol that every labeler goes through: perturb, relax, keep some ionic steps, add static shots.

Source: doi of the method's paper in CITATION.cff, section 4.2.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase import Atoms

from chemloop.physics.limits import Limits, find_misshape
from chemloop.physics.perturbation import has_close_atoms, kept_steps, perturb
from chemloop.protocols import Labeler
from chemloop.runtime.errors import ConfigError, ItemFailed
from chemloop.runtime.item import derived_seed
from chemloop.runtime.label_cache import LabelCache
from chemloop.stages.attempts import Attempts, forget


@dataclass
class LabelSettings:
    """Counts and amplitudes of the protocol.

    n_perturbations: relaxations per structure, each from a perturbed copy
    n_steps: at most this many ionic steps of a relaxation are kept, first and last included
    n_static: static calculations on perturbed copies of the converged structure
    position_amplitude: least and largest standard deviation of the displacements, in (V/N)^(1/3)
    strain_amplitude: the same for the lattice, as a fraction
    max_force: eV/A; frames with a larger force on any atom are left out
    min_distance_scale: frames with atoms closer than this multiple of the sum of their covalent radii are left out: a
        stand-in for DFT may have a hole there, with small forces
    """

    n_perturbations: int = 3
    n_steps: int = 5
    n_static: int = 5
    position_amplitude: list[float] = field(default_factory=lambda: [0.08, 0.15])
    strain_amplitude: list[float] = field(default_factory=lambda: [0.03, 0.05])
    max_force: float = 15.0
    min_distance_scale: float = 0.6

    def __post_init__(self) -> None:
        for key, least in (("n_perturbations", 1), ("n_steps", 1), ("n_static", 0)):
            if getattr(self, key) < least:
                raise ConfigError(f"loop.label.{key} = {getattr(self, key)}: must be {least} or above")
        for key in ("position_amplitude", "strain_amplitude"):
            low_high = getattr(self, key)
            if len(low_high) != 2 or not 0 <= low_high[0] <= low_high[1]:
                raise ConfigError(f"loop.label.{key} = {low_high}: must be two numbers, 0 <= least <= largest")
        if self.max_force <= 0:
            raise ConfigError(f"loop.label.max_force = {self.max_force}: must be above 0 eV/A")
        if not 0 <= self.min_distance_scale < 1:
            raise ConfigError(f"loop.label.min_distance_scale = {self.min_distance_scale}: must be in [0, 1)")


@dataclass
class Labelled:
    """frames: what the protocol kept; relaxed: the converged structure of lowest energy, labelled.

    timings: of each calculation that was not in the cache, its kind, number of atoms and core seconds: those of all
        attempts that ended by themselves, whether or not there is a label
    n_computed, n_from_cache: calculations that were done here, and those that were known already; which is which
        depends on what ran before, so neither is a metric
    """

    frames: list[Atoms] = field(default_factory=list)
    relaxed: Atoms | None = None
    reasons: list[str] = field(default_factory=list)
    n_computed: int = 0
    n_from_cache: int = 0
    n_too_forceful: int = 0
    n_too_close: int = 0
    timings: list[tuple[str, int, float]] = field(default_factory=list)
    n_planned: int = 0

    @property
    def n_done(self) -> int:
        """Calculations that need not be looked at again."""
        return self.n_computed + self.n_from_cache


@dataclass
class Protocol:
    """One labeler, its settings and the cache, ready to label structures.

    folder: where unfinished calculations stay, so that the next attempt continues them; None: nowhere
    on_progress: called with the calculations that are done, those there will be, and the ionic steps that the next one
        has on disk
    max_attempts: how often in a row a calculation may fail retryably and come no further before it is left out
    """

    labeler: Labeler
    settings: LabelSettings
    cache: LabelCache
    folder: Path | None = None
    on_progress: Callable[[int, int, int], None] = lambda done, total, n_steps: None
    max_attempts: int = 3

    def label(self, atoms: Atoms, seed: int, is_reference: bool) -> Labelled:
        """All labels of one structure; a reference is also relaxed as it is, because it defines the hull.

        A calculation that fails costs no other one: it is left out, and its reason kept.
        Raises: ItemFailed where atoms overlap, before anything is computed, and when no relaxation came to a result;
            retryable where a calculation is to be tried again
        """
        self._check_distances(atoms)
        starts = self.starts(atoms, seed, is_reference)
        result = Labelled(n_planned=len(starts) + self.settings.n_static)
        for number, start in enumerate(starts):
            steps = self.compute(start, "relax", result)
            if steps:
                rng = np.random.default_rng(derived_seed(seed, "steps", number))
                self._keep(
                    [steps[k] for k in kept_steps(len(steps), self.settings.n_steps, rng)], atoms, "relax", result
                )
                self._offer(steps[-1], atoms, result)
        if result.relaxed is None:
            if self.folder is not None:
                forget(self.folder)  # who removes the item's FAILED wants everything to be tried again
            raise ItemFailed(f"no relaxation of {atoms.info['id']} came to a result: {'; '.join(result.reasons)}")
        if result.relaxed.info["converged"]:
            for number in range(self.settings.n_static):
                try:
                    shot = self._perturbed(result.relaxed, seed, "static", number)
                except ItemFailed as error:
                    result.reasons.append(error.reason)
                    continue
                self._keep(self.compute(shot, "static", result), atoms, "static", result)
        return result

    def starts(self, atoms: Atoms, seed: int, is_reference: bool) -> list[Atoms]:
        """Where the relaxations of a structure begin."""
        copies = [self._perturbed(atoms, seed, "relax", k) for k in range(self.settings.n_perturbations)]
        return [atoms, *copies] if is_reference else copies

    def n_cached(self, atoms: Atoms, seed: int, is_reference: bool) -> int:
        """How many relaxations of a structure are in the cache."""
        try:
            starts = self.starts(atoms, seed, is_reference)
        except ItemFailed:
            return 0
        return sum(self._key(start, "relax") in self.cache for start in starts)

    def _key(self, atoms: Atoms, kind: str) -> str:
        return self.cache.key(atoms, kind, self.labeler.settings_id(), self.labeler.relaxation_id())

    def _check_distances(self, atoms: Atoms) -> None:
        if self.settings.min_distance_scale == 0:
            return
        limits = Limits(min_distance_scale=self.settings.min_distance_scale)
        flaw = find_misshape(atoms, atoms.cell.volume, limits)
        if flaw is not None:
            raise ItemFailed(
                f"{atoms.info['id']} was not labelled, no calculation was started: {flaw}, less than"
                f" loop.label.min_distance_scale = {self.settings.min_distance_scale:g} of the sum of covalent radii"
            )

    def _perturbed(self, atoms: Atoms, *parts: object) -> Atoms:
        rng = np.random.default_rng(derived_seed(*parts))
        (least, largest), (least_strain, largest_strain) = (
            self.settings.position_amplitude,
            self.settings.strain_amplitude,
        )
        return perturb(atoms, (least, largest), (least_strain, largest_strain), rng, self.settings.min_distance_scale)

    def compute(self, atoms: Atoms, kind: str, result: Labelled) -> list[Atoms]:
        """The frames of one calculation, from the cache where it has them; none, and a reason, where it failed.

        What failed for good in an earlier attempt of the item is not computed again.
        Raises: ItemFailed, retryable
        """
        key = self._key(atoms, kind)
        known = self.cache.get(key, atoms)
        if known is not None:
            result.n_from_cache += 1
            self.on_progress(result.n_done, result.n_planned, 0)
            return known
        with self._workdir(key) as folder:
            attempts = Attempts.at(folder)
            frames = [] if attempts.reason else self._attempt(atoms, kind, folder, attempts, result)
            result.n_computed += 1
            result.timings.append((kind, len(atoms), round(attempts.core_s, 3)))
            if attempts.reason:
                result.reasons.append(attempts.reason)
            else:
                self.cache.put(key, frames, atoms)
                # with the digits that a file keeps: what follows from a label must not depend on who computed it when
                frames = self.cache.get(key, atoms) or frames
                if self.folder is not None:
                    shutil.rmtree(folder)
        self.on_progress(result.n_done, result.n_planned, 0)
        return frames

    def _attempt(self, atoms: Atoms, kind: str, folder: Path, attempts: Attempts, result: Labelled) -> list[Atoms]:
        # what an attempt that was killed has reached is known only now
        self.on_progress(result.n_done, result.n_planned, self.labeler.n_ionic_steps(folder))
        begin = time.monotonic()
        try:
            self.labeler.write(atoms, kind, folder)
            self.labeler.run(folder)
            frames = self.labeler.read(folder)
        except ItemFailed as error:
            n_steps = self.labeler.n_ionic_steps(folder)
            attempts.core_s += (time.monotonic() - begin) * self.labeler.n_cores
            attempts.add(error, n_steps, self.max_attempts)
            attempts.write(folder)
            self.on_progress(result.n_done, result.n_planned, n_steps)
            if attempts.reason is None:
                raise
            return []
        attempts.core_s += (time.monotonic() - begin) * self.labeler.n_cores
        return frames

    @contextmanager
    def _workdir(self, key: str) -> Iterator[Path]:
        if self.folder is not None:
            folder = self.folder / key[:16]
            folder.mkdir(parents=True, exist_ok=True)
            yield folder
            return
        with tempfile.TemporaryDirectory(prefix="label-") as scratch:
            yield Path(scratch)

    def _keep(self, frames: Sequence[Atoms], structure: Atoms, kind: str, result: Labelled) -> None:
        for frame in frames:
            if np.linalg.norm(frame.arrays["label_forces"], axis=1).max() > self.settings.max_force:
                result.n_too_forceful += 1
                continue
            if has_close_atoms(frame, self.settings.min_distance_scale):
                result.n_too_close += 1
                continue
            kept = frame.copy()
            kept.info["id"] = f"{structure.info['id']}/f{len(result.frames):02d}"
            kept.info["parent"] = structure.info["id"]
            kept.info["kind"] = kind
            result.frames.append(kept)

    def _offer(self, last: Atoms, structure: Atoms, result: Labelled) -> None:
        best = result.relaxed
        if best is None or _rank(last) < _rank(best):
            result.relaxed = last.copy()
            result.relaxed.info["id"] = structure.info["id"]
            for key in ("parent", "name"):
                if key in structure.info:
                    result.relaxed.info[key] = structure.info[key]


def _rank(atoms: Atoms) -> tuple[bool, float]:
    return not atoms.info["converged"], atoms.info["label_energy"]
