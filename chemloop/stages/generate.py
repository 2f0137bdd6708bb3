"""New crystals from the generator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ase import Atoms

from chemloop.physics.structures import check_structure, read_structures, write_structures
from chemloop.runtime.disk import read_json, write_json
from chemloop.runtime.errors import ConfigError, StructureError
from chemloop.runtime.item import Item
from chemloop.stages.stage import OUTPUT, Stage

YIELD = "yield.json"
"""What a generator may leave in its folder: the number of `attempts`, and of those `rejected` for each reason."""


@dataclass
class GenerateSettings:
    """n: structures per iteration; per_item: structures per worker item.

    e_above_hull: eV/atom, the values that a conditional generator is asked for, in equal shares
    """

    n: int = 64
    per_item: int = 8
    e_above_hull: list[float] = field(default_factory=lambda: [0.0])

    def __post_init__(self) -> None:
        for key in ("n", "per_item"):
            if getattr(self, key) < 1:
                raise ConfigError(f"loop.generate.{key} = {getattr(self, key)}: must be 1 or above")
        if not self.e_above_hull:
            raise ConfigError("loop.generate.e_above_hull is empty: give at least one value in eV/atom")


class Generate(Stage):
    name = "generate"
    resource = "gpu"
    component = "generator"

    def plan(self) -> list[Item]:
        settings = self.settings.loop.generate
        conditions = settings.e_above_hull
        shares = [len(range(k, settings.n, len(conditions))) for k in range(len(conditions))]
        items: list[Item] = []
        for value, share in zip(conditions, shares, strict=True):
            for start in range(0, share, settings.per_item):
                n = min(settings.per_item, share - start)
                items.append(self.plan_item(len(items), n=n, conditions={"energy_above_hull": value}))
        return items

    def run(self, item: Item) -> Sequence[str]:
        task = item.task
        elements = self.settings.system.elements
        structures = self.settings.generator.generate(
            task["n"], elements, task["conditions"], task["seed"], item.folder
        )
        valid, dropped = [], Counter({"not generated": task["n"] - len(structures)})
        for number, atoms in enumerate(structures):
            atoms.info["id"] = f"i{self.iteration:02d}-g{int(item.folder.name):03d}-{number:04d}"
            try:
                check_structure(atoms)
            except StructureError:
                dropped["invalid geometry"] += 1
                continue
            if set(atoms.symbols) <= set(elements):
                valid.append(atoms)
            else:
                dropped["outside the system"] += 1
        write_structures(item.folder / OUTPUT, valid)
        write_json(item.folder / "dropped.json", +dropped)
        outputs = [OUTPUT, "dropped.json"]
        return [*outputs, YIELD] if (item.folder / YIELD).exists() else outputs

    def collect(self, items: Sequence[Item]) -> dict[str, float]:
        valid = self.merge(items, OUTPUT)
        dropped: Counter[str] = Counter()
        for item in items:
            dropped.update(read_json(item.folder / "dropped.json"))
        n_missing = dropped.pop("not generated", 0)
        yields = [read_json(item.folder / YIELD) for item in items if (item.folder / YIELD).exists()]
        rejected = sum((Counter(counts["rejected"]) for counts in yields), Counter[str]())
        metrics = {
            "n_asked": float(self.settings.loop.generate.n),
            "n_generated": float(self.settings.loop.generate.n - n_missing),
            "n_valid": float(len(valid)),
        }
        if yields:
            metrics["n_attempts"] = float(sum(counts["attempts"] for counts in yields))
        for kind, reasons in (("rejected", rejected), ("dropped", dropped)):
            metrics |= {f"n_{kind}_{reason.replace(' ', '_')}": float(n) for reason, n in sorted(reasons.items())}
        return metrics


def generated(stage: Stage) -> list[Atoms]:
    """The valid structures that this iteration's generate stage left."""
    return read_structures(stage.earlier("generate", since=stage.iteration)[0] / OUTPUT)
