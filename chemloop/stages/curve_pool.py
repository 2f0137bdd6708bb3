"""The labelled frames of a learning curve: where they come from, which of them test, kept as they were at its start."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase import Atoms

from chemloop.physics.holdout import held_out_origins, origin
from chemloop.physics.structures import read_structures, write_structures
from chemloop.runtime.campaign import Campaign, flatten
from chemloop.runtime.disk import file_hash, read_json, write_json, write_whole
from chemloop.runtime.errors import CampaignError, ConfigError, EnergyFrameError, StructureError
from chemloop.runtime.sharing import held
from chemloop.stages.stage import OUTPUT, stage_folder

POOL = "pool/pool.extxyz"
SPLIT = "pool/split.json"
RECORD = "sweep.yaml"
LOCK = ".lock"
N_LISTED = 5


@dataclass(frozen=True)
class Sweep:
    """`outputs/<sweep>/`: all points of one learning curve, by whatever job.

    sweep.yaml   what all its points share, with the hashes of
    pool/        the frames, and who trains and who tests
    """

    folder: Path

    @property
    def lock(self) -> Path:
        return self.folder / LOCK

    @property
    def record(self) -> dict[str, Any]:
        return yaml.safe_load((self.folder / RECORD).read_text())

    def frames(self, part: str) -> list[Atoms]:
        """The frames that may train, or those that test; part: `train` or `test`."""
        frames = {atoms.info["id"]: atoms for atoms in read_structures(self.folder / POOL)}
        return [frames[id] for id in read_json(self.folder / SPLIT)[part]]

    def begin(self, source: Path, shared: dict[str, Any]) -> None:
        """Take the frames over from their source, or check that the sweep was begun with the same settings.

        shared: settings of the workflow that all points have in common, among them test_fraction, split_seed, max_force
        Raises: CampaignError for another pool or other settings; StructureError, EnergyFrameError for a bad pool
        """
        if (self.folder / "campaign.yaml").exists():
            raise CampaignError(
                f"{self.folder} is a campaign, a learning curve needs a folder of its own: choose another campaign=NAME"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        with held(self.lock):
            if not (self.folder / RECORD).exists():
                self._take_over(source, shared)
        self._check({"pool": pool_name(source), **shared})

    def _take_over(self, source: Path, shared: dict[str, Any]) -> None:
        pool = identified(read_pool(source), source)
        check_pool(pool, source)
        frames = [atoms for atoms in pool if largest_force(atoms) <= shared["max_force"]]
        train, test = split_by_parent(frames, shared["test_fraction"], shared["split_seed"])
        (self.folder / POOL).parent.mkdir(exist_ok=True)
        write_structures(self.folder / POOL, frames)
        write_json(self.folder / SPLIT, {"train": train, "test": test})
        record = {
            "settings": {"pool": pool_name(source), **shared},
            "energy_frame": frames[0].info["energy_frame"],
            "elements": sorted({symbol for atoms in frames for symbol in atoms.get_chemical_symbols()}),
            "n_train": len(train),
            "n_test": len(test),
            "n_outliers": len(pool) - len(frames),
            "outputs": {name: file_hash(self.folder / name) for name in (POOL, SPLIT)},
        }
        write_whole(self.folder / RECORD, yaml.safe_dump(record, sort_keys=False).encode())

    def _check(self, settings: dict[str, Any]) -> None:
        record = self.record
        refuse_changes({"workflow": record["settings"]}, {"workflow": settings}, self.folder)
        for name, digest in record["outputs"].items():
            if not (self.folder / name).exists() or file_hash(self.folder / name) != digest:
                raise CampaignError(
                    f"{self.folder / name} is missing or damaged, and the points of this sweep were computed with what"
                    " it held: put it back, or begin a new sweep with campaign=NAME"
                )


def refuse_changes(
    before: dict[str, Any],
    now: dict[str, Any],
    folder: Path,
    advice: str = "give the new sweep a name of its own with campaign=NAME",
) -> None:
    """Raises: CampaignError that lists the keys with another value than when the folder was begun"""
    old, new = flatten(before), flatten(now)
    changed = [
        f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if changed:
        raise CampaignError(
            f"{folder} was begun with other settings; changed: {'; '.join(changed)}."
            f" Go back to the former values, or {advice}"
        )


def find_pool(name: str | None, outputs: Path) -> Path:
    """The folder of the campaign, or the file, that holds the labelled frames; None: the only campaign that has some.

    Raises: ConfigError
    """
    campaigns = {path.parent.name: path.parent for path in sorted(outputs.glob("*/campaign.yaml"))}
    if name is not None:
        if name in campaigns:
            return campaigns[name].resolve()
        if Path(name).is_file():
            return Path(name).resolve()
        known = f"campaigns there are {', '.join(campaigns)}" if campaigns else "there is no campaign there"
        raise ConfigError(
            f"workflow.pool = {name!r}: neither a campaign in {outputs} nor an extxyz file of labelled frames; {known}"
        )
    labelled = [path for path in campaigns.values() if label_files(path)]
    if len(labelled) != 1:
        found = f"{len(labelled)} campaigns with labelled frames ({', '.join(path.name for path in labelled)})"
        raise ConfigError(
            f"{outputs} holds {found if labelled else 'no campaign with labelled frames'};"
            " choose a campaign, or an extxyz file of labelled frames, with workflow.pool=..."
        )
    return labelled[0].resolve()


def pool_name(source: Path) -> str:
    """A campaign by its name, which stays when the outputs move, a file by its path."""
    return source.name if source.is_dir() else str(source)


def label_files(folder: Path) -> list[Path]:
    """The labelled frames of the finished stages of a campaign, in the order in which they came."""
    campaign, n_iterations = Campaign(folder), len(list(folder.glob("iter-*")))
    stages = [stage_folder(campaign, number, name) for number in range(n_iterations) for name in ("seed", "label")]
    return [stage / OUTPUT for stage in stages if (stage / "DONE").exists()]


def read_pool(source: Path) -> list[Atoms]:
    """All frames of a campaign's folder or of an extxyz file.

    Raises: StructureError, CampaignError for a campaign of another version of ChemLoop
    """
    if source.is_dir():
        Campaign(source).check_stages()
    files = label_files(source) if source.is_dir() else [source]
    return [atoms for path in files for atoms in read_structures(path)]


def identified(frames: Sequence[Atoms], source: Path) -> list[Atoms]:
    """Copies with an id and a parent; where the file knows no parents, neither by `parent` nor by ids `parent/frame`,
    frames of one formula count as one structure's.
    """
    knows_parents = any("parent" in atoms.info or "/" in str(atoms.info.get("id", "")) for atoms in frames)
    named = []
    for number, atoms in enumerate(frames):
        atoms = atoms.copy()
        if knows_parents and "id" in atoms.info:
            atoms.info.setdefault("parent", str(atoms.info["id"]).partition("/")[0])
        atoms.info.setdefault("id", f"{source.stem}-{number:06d}")
        atoms.info.setdefault("parent", atoms.get_chemical_formula())
        named.append(atoms)
    return named


def check_pool(frames: Sequence[Atoms], source: Path) -> None:
    """Check that all frames are labelled, at one level of theory, and told apart by their ids.

    Raises: StructureError, EnergyFrameError
    """
    if not frames:
        raise StructureError(f"the pool {source} holds no labelled frames; label some, or choose another workflow.pool")
    needed = ("label_energy", "label_forces", "label_stress", "energy_frame")
    for key in needed:
        without = [atoms.info["id"] for atoms in frames if key not in atoms.info and key not in atoms.arrays]
        if without:
            more = f" and {len(without) - N_LISTED} more" if len(without) > N_LISTED else ""
            raise StructureError(
                f"{len(without)} of {len(frames)} frames of the pool {source} have no {key}"
                f" ({', '.join(without[:N_LISTED])}{more}); each needs {', '.join(needed)}: a learning curve measures"
                " the errors of energies, forces and stresses, also of what its training leaves out"
            )
    levels = sorted({atoms.info["energy_frame"] for atoms in frames})
    if len(levels) > 1:
        raise EnergyFrameError(
            f"the frames of the pool {source} were labelled at {len(levels)} levels of theory ({', '.join(levels)});"
            " use frames of one energy_frame"
        )
    ((id, count),) = Counter(atoms.info["id"] for atoms in frames).most_common(1)
    if count > 1:
        raise StructureError(f"{count} frames of the pool {source} have the id {id}; give each one its own")


def largest_force(atoms: Atoms) -> float:
    """eV/A, by the labels."""
    return float(np.linalg.norm(atoms.arrays["label_forces"], axis=1).max())


def split_by_parent(frames: Sequence[Atoms], test_fraction: float, seed: int) -> tuple[list[str], list[str]]:
    """Ids of frames that may train and of those that test; all frames of a structure are on the same side.

    Raises: StructureError when the frames come from fewer than two structures
    """
    held_out = held_out_origins(frames, test_fraction, f"{seed}/")
    ids = [atoms.info["id"] for atoms in frames]
    is_test = [origin(atoms) in held_out for atoms in frames]
    return [id for id, out in zip(ids, is_test, strict=True) if not out], list(compress(ids, is_test))


def write_arrays(path: Path, **arrays: Any) -> None:
    """An npz file that appears whole or not at all."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    write_whole(path, file.getvalue())
