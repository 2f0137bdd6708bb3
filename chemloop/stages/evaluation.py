"""The stages of `workflow=evaluate_generator`: those of the loop, one round of them for each size of cell.

<evaluation>/references/relax/          the known structures, relaxed by the force field: the hull
<evaluation>/atoms-012/generate/        samples of 12 atoms; atoms-any: of whatever size the generator likes
<evaluation>/atoms-012/relax/           the valid ones, relaxed
<evaluation>/atoms-012/screen/          those, judged
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ase import Atoms

from chemloop.physics.structures import read_structures, without, write_structures
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import ConfigError, ItemFailed
from chemloop.runtime.item import Item
from chemloop.runtime.ledger import Ledger
from chemloop.runtime.process import cpu_seconds
from chemloop.stages.achieved import generating_seconds
from chemloop.stages.generate import Generate
from chemloop.stages.known import converged
from chemloop.stages.relax import Known, Relax
from chemloop.stages.screen import flag, require_elements
from chemloop.stages.stage import OUTPUT, Stage, current_model, load_potential

CPU = "cpu.json"
ANY_SIZE = 0
"""What stands for the number of atoms where the generator is not asked for one."""


def size_folder(campaign: Campaign, n_atoms: int) -> Path:
    return campaign.folder / f"atoms-{n_atoms:03d}" if n_atoms else campaign.folder / "atoms-any"


class SizeStage(Stage):
    """A stage for cells of one size; its `iteration` is their number of atoms."""

    @property
    def folder(self) -> Path:
        return size_folder(self.campaign, self.iteration) / self.name

    def record_in(self, ledger: Ledger) -> None:
        """Nothing: an evaluation has no ledger, its structures lie in `screen/output.extxyz`."""


@dataclass
class Sample(SizeStage, Generate):
    """Structures of one size, as the loop's own stage makes and checks them; another size is a fault."""

    def __post_init__(self) -> None:
        workflow: Any = self.settings.workflow
        generate, n_atoms = self.settings.loop.generate, self.iteration
        if n_atoms == ANY_SIZE:
            generate = replace(generate, n=workflow.n * len(workflow.n_atoms))
        else:
            generate = replace(generate, n=workflow.n, min_atoms=n_atoms, max_atoms=n_atoms)
        self.settings = replace(self.settings, loop=replace(self.settings.loop, generate=generate))

    def plan_item(self, number: int, structures: Sequence[Atoms] = (), **task: Any) -> Item:
        if self.iteration:
            task["conditions"] = task["conditions"] | {"n_atoms": float(self.iteration)}
        return super().plan_item(number, structures, **task)

    def run(self, item: Item) -> Sequence[str]:
        """Raises: ItemFailed also where the generator makes nothing of that size, which ends no other size."""
        try:
            return super().run(item)
        except ConfigError as error:
            if self.iteration == ANY_SIZE:
                raise
            raise ItemFailed(str(error)) from error

    @property
    def n_asked(self) -> int:
        """By all its items; one that is finished stays as it is when sizes are added to those that share it."""
        items = [Item(path.parent) for path in (self.folder / "items").glob("*/item.yaml")]
        return sum(item.task["n"] for item in items) if items else self.settings.loop.generate.n

    @property
    def cpu_seconds(self) -> float:
        """By the generator's own account; of one that gives none, the wall time of the items."""
        return sum(generating_seconds(self.folder, self.settings.options["generator"]).values())


class RelaxReferences(Known):
    """output.extxyz: the known structures, relaxed by the same force field."""

    @property
    def folder(self) -> Path:
        return references_folder(self.campaign)

    def plan(self) -> list[Item]:
        workflow: Any = self.settings.workflow
        references = self.settings.system.references(workflow.max_reference_atoms)
        return self.plan_chunks(with_role(references, "reference"), self.settings.loop.relax.per_item)

    def collect(self, items: Sequence[Item]) -> dict[str, float]:
        relaxed = self.merge(items, OUTPUT)
        require_elements([atoms for atoms in relaxed if atoms.info["converged"]], self.settings.system.elements)
        return {"n_known": len(relaxed)}


class RelaxSamples(SizeStage, Relax):
    """output.extxyz: the valid samples of one size, relaxed as in the loop, and what they raced against if they did."""

    @property
    def _known(self) -> Known | None:
        is_race = self.settings.loop.relax.coarse.is_race
        return RelaxReferences(self.campaign, self.settings, ANY_SIZE) if is_race else None

    def _inputs(self) -> list[Atoms]:
        sampled = size_folder(self.campaign, self.iteration) / Sample.name
        return with_role(read_structures(sampled / OUTPUT), "candidate")

    def run(self, item: Item) -> Sequence[str]:
        load_potential(current_model(self)[0], self.settings.compute.gpu.device)  # kept, so its time does not count
        begin = cpu_seconds()
        outputs = super().run(item)
        write_json(item.folder / CPU, {"cpu_seconds": cpu_seconds() - begin})
        return [*outputs, CPU]

    @property
    def cpu_seconds(self) -> float:
        """Of all items that are done."""
        items = sorted((self.folder / "items").glob(f"*/{CPU}"))
        return float(sum(read_json(path)["cpu_seconds"] for path in items))


def references_folder(campaign: Campaign) -> Path:
    return campaign.folder / "references" / Known.name


def with_role(structures: Sequence[Atoms], role: str) -> list[Atoms]:
    """Copies without anything that was computed of them."""
    bare = [without(without(atoms, "label"), "mlff") for atoms in structures]
    for atoms in bare:
        atoms.info["role"] = role
    return bare


class Judge(SizeStage):
    """output.extxyz: the relaxed samples with `e_above_hull`, the flags and `rmsd` (A, to how they were generated)."""

    name = "screen"

    def plan(self) -> list[Item]:
        return [self.plan_item(0)]

    def run(self, item: Item) -> Sequence[str]:
        from chemloop.physics.displacement import rmsd_to_relaxed
        from chemloop.physics.hull import energies_above_hull

        size = size_folder(self.campaign, self.iteration)
        references = read_structures(references_folder(self.campaign) / OUTPUT)
        hull = converged(references_folder(self.campaign) / OUTPUT)
        before = {atoms.info["id"]: atoms for atoms in read_structures(size / Sample.name / OUTPUT)}
        ends = read_structures(size / Relax.name / OUTPUT)
        relaxed = [atoms for atoms in ends if atoms.info["role"] == "candidate" and "dropped" not in atoms.info]
        for atoms, energy in zip(relaxed, energies_above_hull(relaxed, hull), strict=True):
            atoms.info["e_above_hull"] = float(energy)
            atoms.info["rmsd"] = rmsd_to_relaxed(before[atoms.info["id"]], atoms)
        relaxed.sort(key=lambda atoms: (not atoms.info["converged"], atoms.info["e_above_hull"], atoms.info["id"]))
        flag(relaxed, references, self.settings.loop.screen)
        write_structures(item.folder / OUTPUT, relaxed)
        return [OUTPUT]
