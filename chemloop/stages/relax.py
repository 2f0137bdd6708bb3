"""The current force field relaxes the new structures, and again everything that its hull is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ase import Atoms

from chemloop.physics.structures import read_structures, without, write_structures
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import ConfigError
from chemloop.runtime.item import Item
from chemloop.stages.generate import generated
from chemloop.stages.label import RELAXED
from chemloop.stages.stage import BASE, OUTPUT, Stage, base_folder, current_model, load_potential

if TYPE_CHECKING:
    from chemloop.physics.batching import Batching

BATCHES = "batches.json"

ENGINES = ("ase", "torchsim")


@dataclass
class RelaxSettings:
    """fmax: eV/A, for forces and for the stress times the volume per atom's edge; max_steps: optimiser steps.

    displacement: A, of the atoms before the first step, so that symmetric crystals leave saddle points
    engine: `ase` (fewest steps, any device) or `torchsim` (many structures on a GPU)
    per_item: structures per worker item
    batch_size: structures evaluated together, at most; `auto`: measured before iteration 0, on this machine
    """

    fmax: float = 0.05
    max_steps: int = 200
    displacement: float = 0.02
    engine: str = "ase"
    per_item: int = 8
    batch_size: int | str = 8

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


class Relax(Stage):
    """output.extxyz: candidates, references and earlier finds, told apart by info["role"]."""

    name = "relax"
    resource = "gpu"
    component = "model"

    def plan(self) -> list[Item]:
        return self.plan_chunks(self._inputs(), self.settings.loop.relax.per_item)

    def _inputs(self) -> list[Atoms]:
        groups = {
            "candidate": generated(self),
            "reference": [atoms for path in self.earlier("seed") for atoms in converged(path / RELAXED)],
            "find": [
                atoms for path in self.earlier("screen") for atoms in read_structures(path / OUTPUT) if is_sun(atoms)
            ],
        }
        inputs = []
        for role, structures in groups.items():
            for atoms in structures:
                bare = without(without(atoms, "label"), "mlff")
                bare.info["role"] = role
                inputs.append(bare)
        return inputs

    def run(self, item: Item) -> Sequence[str]:
        from chemloop.physics.relaxation import relax

        settings = self.settings.loop.relax
        model, frame = current_model(self)
        potential = load_potential(model, self.settings.compute.gpu.device)
        results = relax(
            read_structures(item.folder / "input.extxyz"),
            potential,
            fmax=settings.fmax,
            max_steps=settings.max_steps,
            engine=settings.engine,
            batching=batching_of(self, potential),
            displacement=settings.displacement,
            energy_frame=frame,
        )
        relaxed = []
        for result in results:
            atoms = result.atoms
            if result.rejection is not None:
                atoms.info["dropped"] = result.rejection
            atoms.info["n_relax_steps"] = result.n_steps
            relaxed.append(atoms)
        write_structures(item.folder / OUTPUT, relaxed)
        write_json(item.folder / BATCHES, batching_of(self, potential).metrics())
        return [OUTPUT, BATCHES]

    def collect(self, items: Sequence[Item]) -> dict[str, float]:
        relaxed = self.merge(items, OUTPUT)
        candidates = [atoms for atoms in relaxed if atoms.info["role"] == "candidate"]
        dropped = Counter(atoms.info["dropped"].partition(":")[0] for atoms in candidates if "dropped" in atoms.info)
        kept = [atoms for atoms in candidates if "dropped" not in atoms.info]
        batches = [read_json(item.folder / BATCHES) for item in items]
        return {
            "batch_size": batches[0]["batch_size"],
            "n_out_of_memory": max(numbers["n_out_of_memory"] for numbers in batches),
            "n_relaxed": len(candidates),
            "n_kept": len(kept),
            "n_converged": sum(atoms.info["converged"] for atoms in kept),
            "n_references": sum(atoms.info["role"] == "reference" for atoms in relaxed),
            "n_finds": sum(atoms.info["role"] == "find" for atoms in relaxed),
            "mean_steps": sum(atoms.info["n_relax_steps"] for atoms in candidates) / max(1, len(candidates)),
        } | {f"n_dropped_{reason.replace(' ', '_')}": n for reason, n in sorted(dropped.items())}


def batching_of(stage: Stage, potential: Any) -> Batching:
    """How many structures share a batch; kept with the potential, because it learns what fits into memory."""
    from chemloop.physics.batching import Batching

    if not hasattr(potential, "batching"):
        base = read_json(base_folder(stage.campaign) / BASE)
        potential.batching = Batching(base["batch_size"], base["max_atoms"])
    return potential.batching


def converged(path) -> list[Atoms]:
    """The converged ones of a file of relaxed structures."""
    return [atoms for atoms in read_structures(path) if atoms.info["converged"]]


def is_sun(atoms: Atoms) -> bool:
    """Stable, unique and novel."""
    return all(atoms.info.get(flag, False) for flag in ("is_stable", "is_unique", "is_novel"))
