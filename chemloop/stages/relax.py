"""The current force field relaxes the new structures, and again everything that its hull is made of."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import Atoms

from chemloop.physics.structures import read_structures, without, write_structures
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import ConfigError
from chemloop.runtime.item import Item
from chemloop.runtime.ledger import Ledger
from chemloop.runtime.process import cpu_seconds
from chemloop.stages.crystal_keys import screened_before
from chemloop.stages.generate import generated
from chemloop.stages.known import converged, is_sun, known_folder, known_structures, settled
from chemloop.stages.relaxing import BATCHES, COARSE, COSTS, FINE, relax_coarsely, relax_to_end, write_relaxed
from chemloop.stages.stage import OUTPUT, FileVersion, Stage, file_version

if TYPE_CHECKING:
    from chemloop.physics.relaxation import Relaxed

__all__ = ["Known", "Relax", "RelaxSettings", "converged", "is_sun"]

ENGINES = ("ase", "torchsim")


@dataclass
class CoarseSettings:
    """A first, cheap part of the relaxation of new structures, after which most of them can be given up.

    max_steps: optimiser steps of this part; 0: there is none
    fmax: eV/A at which this part ends
    symprec: A; crystals this close to a space group above P1 keep it during this part, so they have fewer coordinates
        to relax; null: none does
    model: the node of a force field that is cheaper than the current one and relaxes this part instead; null: none
    stop_above: eV/atom above the hull by the current force field at the end of this part, from which a structure is
        relaxed no further; null: all are
    stop_known: whether structures that equal a known one, or a lower one of the item, are relaxed no further
    """

    max_steps: int = 0
    fmax: float = 0.1
    symprec: float | None = None
    model: Any = None
    stop_above: float | None = None
    stop_known: bool = False

    def __post_init__(self) -> None:
        if self.max_steps < 0:
            raise ConfigError(f"loop.relax.coarse.max_steps = {self.max_steps}: must be 0 (no such part) or above")
        for key in ("fmax", "symprec", "stop_above"):
            value = getattr(self, key)
            if value is not None and value <= 0:
                raise ConfigError(f"loop.relax.coarse.{key} = {value:g}: must be above 0")
        if self.model is not None:
            from chemloop.config import build, has_python

            if has_python(self.model):
                raise ConfigError(
                    f"loop.relax.coarse.model.python = {self.model['python']}: both parts run in one worker; set it"
                    " to null, or set model.python to an interpreter that has both force fields"
                )
            self.model = build(self.model, "loop.relax.coarse.model")
        if self.max_steps == 0:
            for key in ("symprec", "model", "stop_above", "stop_known"):
                if getattr(self, key) not in (None, False):
                    raise ConfigError(
                        f"loop.relax.coarse.{key} is set, but loop.relax.coarse.max_steps = 0 leaves no coarse part:"
                        " set max_steps to some 60"
                    )

    @property
    def is_race(self) -> bool:
        """Whether what is known must be relaxed before the candidates are."""
        return self.stop_above is not None or self.stop_known


@dataclass
class RelaxSettings:
    """fmax: eV/A for forces, and as many eV for the stress times the volume per atom; max_steps: optimiser steps.

    displacement: A, of the atoms before the first step, so that symmetric crystals leave saddle points
    engine: `ase` (fewest steps, any device) or `torchsim` (many structures on a GPU)
    per_item: structures per worker item
    batch_size: structures evaluated together, at most; `auto`: measured before iteration 0, on this machine
    coarse: the part that comes first, and who is given up after it
    """

    fmax: float = 0.05
    max_steps: int = 200
    displacement: float = 0.02
    engine: str = "ase"
    per_item: int = 8
    batch_size: int | str = 8
    coarse: CoarseSettings = field(default_factory=CoarseSettings)

    def __post_init__(self) -> None:
        if self.fmax <= 0:
            raise ConfigError(f"loop.relax.fmax = {self.fmax:g}: must be above 0 eV/A")
        for key in ("max_steps", "per_item"):
            if getattr(self, key) < 1:
                raise ConfigError(f"loop.relax.{key} = {getattr(self, key)}: must be 1 or above")
        if self.displacement < 0:
            raise ConfigError(f"loop.relax.displacement = {self.displacement:g}: must be 0 A (none) or above")
        if self.batch_size != "auto" and not (isinstance(self.batch_size, int) and self.batch_size >= 1):
            raise ConfigError(f"loop.relax.batch_size = {self.batch_size}: must be 1 or above, or auto")
        if self.engine not in ENGINES:
            raise ConfigError(f"loop.relax.engine = {self.engine!r}: allowed are {', '.join(ENGINES)}")
        if self.engine != "ase" and self.coarse.symprec is not None:
            raise ConfigError(
                f"loop.relax.coarse.symprec = {self.coarse.symprec:g}: only loop.relax.engine = ase keeps symmetry, not"
                f" {self.engine}; set it to null, or choose ase"
            )


class Known(Stage):
    """output.extxyz: references and earlier finds, which candidates race against and so come before them.

    A part of the relax stage, in a folder of its own beside it.
    """

    name = "relax"
    resource = "gpu"
    component = "model"

    @property
    def folder(self) -> Path:
        return known_folder(self.campaign, self.iteration)

    def plan(self) -> list[Item]:
        return self.plan_chunks(known_structures(self)[0], self.settings.loop.relax.per_item)

    def run(self, item: Item) -> Sequence[str]:
        return write_relaxed(self, item, relax_to_end(self, read_structures(item.folder / "input.extxyz")))

    def in_hull(self, item: Item) -> list[str]:
        return _known_in(item)

    def collect(self, items: Sequence[Item]) -> dict[str, float]:
        _, carried = known_structures(self)
        relaxed = self.merge(items, OUTPUT)
        write_structures(self.folder / OUTPUT, [*carried, *relaxed])
        return {"n_known": len(carried) + len(relaxed), "n_carried": len(carried)}

    def record_in(self, ledger: Ledger) -> None:
        """Nothing: the relax stage records what there is to record."""


class Relax(Stage):
    """output.extxyz: candidates, references and earlier finds, told apart by info["role"]."""

    name = "relax"
    resource = "gpu"
    component = "model"

    def ensure(self) -> dict[str, float]:
        if self._known is not None:
            self._known.ensure()
        return super().ensure()

    @property
    def _known(self) -> Known | None:
        """What comes first where candidates race."""
        is_race = self.settings.loop.relax.coarse.is_race
        return Known(self.campaign, self.settings, self.iteration) if is_race else None

    def plan(self) -> list[Item]:
        return self.plan_chunks(self._inputs(), self.settings.loop.relax.per_item)

    def _inputs(self) -> list[Atoms]:
        candidates = [without(without(atoms, "label"), "mlff") for atoms in generated(self)]
        for atoms in candidates:
            atoms.info["role"] = "candidate"
        return [*candidates, *([] if self._known else known_structures(self)[0])]

    def run(self, item: Item) -> Sequence[str]:
        structures = read_structures(item.folder / "input.extxyz")
        new = [atoms for atoms in structures if atoms.info["role"] == "candidate"]
        old = [atoms for atoms in structures if atoms.info["role"] != "candidate"]
        seconds = {COARSE: 0.0, FINE: 0.0}
        finish = _timed(seconds, FINE, functools.partial(relax_to_end, self))
        if self.settings.loop.relax.coarse.max_steps == 0:
            ends = finish(structures)
        else:
            ends = [*self._relax_in_two_parts(new, seconds), *finish(old)]
        outputs = write_relaxed(self, item, ends)
        write_json(item.folder / COSTS, seconds)
        return [*outputs, COSTS]

    def _relax_in_two_parts(self, structures: Sequence[Atoms], seconds: dict[str, float]) -> list[Relaxed]:
        from chemloop.physics.racing import relax_in_two_parts

        # those that kept their symmetry are still to leave it
        displacement = None if self.settings.loop.relax.coarse.symprec is not None else 0.0
        begin = _timed(seconds, COARSE, functools.partial(relax_coarsely, self))
        give_up = _timed(seconds, COARSE, self._given_up)
        finish = _timed(seconds, FINE, functools.partial(relax_to_end, self, displacement=displacement))
        return relax_in_two_parts(structures, begin, give_up, finish)

    def in_hull(self, item: Item) -> list[str]:
        return _known_in(item)

    def _given_up(self, structures: Sequence[Atoms]) -> list[str | None]:
        """Why each is relaxed no further after the coarse part; None where it is."""
        from chemloop.physics.racing import find_hopeless, find_known

        coarse = self.settings.loop.relax.coarse
        reasons: list[str | None] = [None] * len(structures)
        if self._known is None:
            return reasons
        path = self._known.folder / OUTPUT
        known = _read_once(path, file_version(path))
        if coarse.stop_above is not None:
            hull = [atoms for atoms in known if atoms.info["converged"]]
            reasons = find_hopeless(structures, hull, coarse.stop_above)
        if coarse.stop_known:
            left = [number for number, reason in enumerate(reasons) if reason is None]
            new = [structures[number] for number in left]
            found = find_known(new, [*settled(known), *screened_before(self)], self.settings.loop.screen.matcher)
            for number, reason in zip(left, found, strict=True):
                reasons[number] = reason
        return reasons

    def collect(self, items: Sequence[Item]) -> dict[str, float]:
        relaxed = self.merge(items, OUTPUT)
        carried = known_structures(self)[1] if self._known is None else self._known.output()
        relaxed += carried
        write_structures(self.folder / OUTPUT, relaxed)
        candidates = [atoms for atoms in relaxed if atoms.info["role"] == "candidate"]
        dropped = Counter(atoms.info["dropped"].partition(":")[0] for atoms in candidates if "dropped" in atoms.info)
        kept = [atoms for atoms in candidates if "dropped" not in atoms.info]
        batches = [read_json(item.folder / BATCHES) for item in items]
        return {
            "batch_size": max((numbers["batch_size"] for numbers in batches), default=0),
            "n_out_of_memory": max((numbers["n_out_of_memory"] for numbers in batches), default=0),
            "n_relaxed": len(candidates),
            "n_kept": len(kept),
            "n_converged": sum(atoms.info["converged"] for atoms in kept),
            "n_references": sum(atoms.info["role"] == "reference" for atoms in relaxed),
            "n_finds": sum(atoms.info["role"] == "find" for atoms in relaxed),
            "n_carried": len(carried),
            "mean_steps": sum(atoms.info["n_relax_steps"] for atoms in candidates) / max(1, len(candidates)),
        } | {f"n_dropped_{reason.replace(' ', '_')}": n for reason, n in sorted(dropped.items())}


def _known_in(item: Item) -> list[str]:
    """Ids of the references and earlier finds among what an item relaxes."""
    structures = read_structures(item.folder / "input.extxyz")
    return [atoms.info["id"] for atoms in structures if atoms.info["role"] != "candidate"]


@functools.lru_cache(maxsize=1)
def _read_once(path: Path, version: FileVersion) -> list[Atoms]:
    """The structures of a file, kept in memory from one item of a worker to the next, so not to be changed."""
    return read_structures(path)


def _timed(seconds: dict[str, float], part: str, step: Callable[[Sequence[Atoms]], Any]) -> Callable[..., Any]:
    """The same step, which adds the CPU time that it takes to a part."""

    def timed(structures: Sequence[Atoms]) -> Any:
        begin = cpu_seconds()
        result = step(structures)
        seconds[part] += cpu_seconds() - begin
        return result

    return timed
