"""`workflow=labels`: what the label cache holds, and its hull; labels out of it, and labels from elsewhere into it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import Atoms

from chemloop.physics.corrections import check_one_theory, corrected_mp2020
from chemloop.physics.hull import energies_above_hull, one_energy_frame
from chemloop.physics.structures import check_structure
from chemloop.runtime.campaign import Campaign
from chemloop.runtime.errors import ConfigError, EnergyFrameError, StructureError
from chemloop.runtime.label_cache import LabelCache
from chemloop.workflow.label_files import READERS, WRITERS

if TYPE_CHECKING:
    from chemloop.config import Settings

ACTIONS = ("list", "hull", "export", "import")
CORRECTIONS: dict[str, Callable[[Sequence[Atoms]], list[Atoms]]] = {"none": list, "mp2020": corrected_mp2020}
IMPORTED = "imported-"


@dataclass
class Labels:
    """action: list, hull, export or import; path: to or from where; format: of the files there; frame: which labels;
    corrections: of the energies, for the hull.
    """

    action: str = "list"
    path: str | None = None
    format: str = "extxyz"
    frame: str | None = None
    corrections: str = "none"

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ConfigError(f"workflow.action = {self.action}: allowed are {', '.join(ACTIONS)}")
        if self.corrections not in CORRECTIONS:
            raise ConfigError(f"workflow.corrections = {self.corrections}: allowed are {', '.join(CORRECTIONS)}")
        if self.corrections != "none" and self.action != "hull":
            raise ConfigError(
                f"workflow.corrections = {self.corrections} with workflow.action = {self.action}: corrections are for"
                " hulls, labels themselves keep their level of theory; use workflow.action=hull"
            )
        if self.action in ("export", "import") and not self.path:
            raise ConfigError(f"workflow.action = {self.action} needs a file or folder; give workflow.path=PATH")
        formats = READERS if self.action == "import" else WRITERS
        if self.format not in formats:
            raise ConfigError(f"workflow.format = {self.format}: {self.action} knows {', '.join(formats)}")

    def run(self, campaign: Campaign, settings: Settings, config: dict[str, Any]) -> None:
        cache = LabelCache(Path(settings.label_cache), settings.label_cache_gb)
        if self.action == "list":
            print("\n".join(summary(cache)))
        elif self.action == "hull":
            print("\n".join(hull_table(CORRECTIONS[self.corrections](self._chosen(cache)))))
        elif self.action == "export":
            print(self._export(cache))
        else:
            print(self._import(cache))

    def _chosen(self, cache: LabelCache) -> list[Atoms]:
        """The frames of one level of theory, that of `workflow.frame` where there are more."""
        frames = [frame for calculation in cache.calculations() for frame in calculation]
        known = Counter(frame.info["energy_frame"] for frame in frames)
        if not known:
            raise StructureError(f"{cache.folder} holds no labels; workflow=explore computes some")
        if self.frame is not None and self.frame not in known:
            raise EnergyFrameError(f"workflow.frame = {self.frame}: the cache has {', '.join(sorted(known))}")
        if self.frame is None and len(known) > 1:
            raise EnergyFrameError(
                f"the cache has labels of {len(known)} levels of theory, which do not mix:"
                f" {', '.join(sorted(known))}; choose one with workflow.frame=NAME"
            )
        return [frame for frame in frames if self.frame in (None, frame.info["energy_frame"])]

    def _export(self, cache: LabelCache) -> str:
        assert self.path is not None
        chosen = self._chosen(cache)
        WRITERS[self.format](Path(self.path), chosen)
        return f"{self.path}: {len(chosen)} frames of {one_energy_frame(chosen)}"

    def _import(self, cache: LabelCache) -> str:
        assert self.path is not None
        if not Path(self.path).exists():
            raise StructureError(f"workflow.path = {self.path}: there is no such file or folder")
        frames = READERS[self.format](Path(self.path))
        if not frames:
            raise StructureError(f"workflow.path = {self.path}: it holds no labels in format {self.format}")
        for frame in frames:
            frame.info["energy_frame"] = self._frame_of(frame)
        check_labels(frames, self.path)
        names = {frame.info["energy_frame"] for frame in frames}
        there = [frame for calculation in cache.calculations() for frame in calculation]
        for name in sorted(names):
            check_one_theory(frame for frame in (*there, *frames) if frame.info["energy_frame"] == name)
        n_new = 0
        for frame in frames:
            key = cache.key(frame, "static", frame.info["energy_frame"])
            if key not in cache:
                cache.put(key, [frame])
                n_new += 1
        return f"{cache.folder}: {n_new} new labels of {len(frames)}, energy frame {', '.join(sorted(names))}"

    def _frame_of(self, frame: Atoms) -> str:
        """Its own, or a separate one: what computed it elsewhere is not known to be any labeler's level of theory."""
        own = frame.info.get("energy_frame")
        if own is not None:
            return str(own)
        if self.frame is None:
            raise EnergyFrameError(
                f"labels in {self.path} do not say their level of theory; name it with workflow.frame=NAME. They become"
                f" a separate energy frame, {IMPORTED}NAME, which mixes with no other"
            )
        return self.frame if self.frame.startswith(IMPORTED) else f"{IMPORTED}{self.frame}"


def check_labels(frames: Sequence[Atoms], path: str) -> None:
    """Check that each frame is a whole label, before the first one is in the cache.

    Raises: StructureError
    """
    for number, frame in enumerate(frames):
        where = f"{path}, structure {number}"
        has = {"energy": "label_energy" in frame.info, "stress": "label_stress" in frame.info}
        has["forces"] = "label_forces" in frame.arrays
        if missing := sorted(name for name, is_there in has.items() if not is_there):
            raise StructureError(f"{where} has no {', no '.join(missing)}; all three make a label")
        check_structure(frame, where)


def summary(cache: LabelCache) -> list[str]:
    """One line per energy frame: calculations, frames, elements; then the size of all."""
    n_calculations: Counter[str] = Counter()
    n_frames: Counter[str] = Counter()
    elements: dict[str, set[str]] = defaultdict(set)
    for frames in cache.calculations():
        name = frames[0].info["energy_frame"]
        n_calculations[name] += 1
        n_frames[name] += len(frames)
        elements[name] |= set(frames[0].symbols)
    size = sum(path.stat().st_size for path in cache.folder.glob("??/*.extxyz"))
    bound = "no bound" if cache.max_gb is None else f"at most {cache.max_gb:g} GB"
    lines = [
        f"{name}: {n_calculations[name]} calculations, {n_frames[name]} frames of {'-'.join(sorted(elements[name]))}"
        for name in sorted(n_calculations)
    ]
    return [*lines, f"{cache.folder}: {sum(n_calculations.values())} calculations, {size / 1e6:.3g} MB ({bound})"]


def hull_table(frames: Sequence[Atoms]) -> list[str]:
    """The lowest label of each composition above the hull of all, lowest first, in one energy frame.

    Raises: EnergyFrameError; StructureError where an element has no label of its own
    """
    lowest: dict[str, Atoms] = {}
    for frame in sorted(frames, key=lambda atoms: atoms.info["label_energy"] / len(atoms)):
        lowest.setdefault(frame.symbols.formula.reduce()[0].format("metal"), frame)
    chosen = list(lowest.values())
    above = energies_above_hull(chosen, chosen, "label")
    rows = sorted(zip(above, lowest, chosen, strict=True), key=lambda row: row[:2])
    return [
        f"{one_energy_frame(frames)}: the lowest of {len(frames)} labels for each of {len(rows)} compositions",
        "composition  atoms  eV/atom  above the hull (eV/atom)",
        *(
            f"{name:11}  {len(atoms):5}  {atoms.info['label_energy'] / len(atoms):7.3f}  {max(0.0, energy):24.3f}"
            for energy, name, atoms in rows
        ),
    ]
