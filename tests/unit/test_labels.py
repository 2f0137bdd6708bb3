"""The label protocol and its cache, with a labeler made of springs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from chemloop.physics.structures import read_structures, set_results, write_structures
from chemloop.runtime import label_cache
from chemloop.runtime.errors import ConfigError, ItemFailed, StructureError
from chemloop.runtime.label_cache import LabelCache
from chemloop.stages.labelling import LabelSettings, Protocol


@dataclass
class SpringLabeler:
    """Three ionic steps towards a fixed geometry; counts what it computes; fails on demand."""

    is_instant: ClassVar[bool] = False
    n_cores: ClassVar[int] = 2

    converges: bool = True
    failure: ItemFailed | None = None
    computed: list[str] = field(default_factory=list)
    limits: str = ""

    def settings_id(self) -> str:
        return "spring-1"

    def relaxation_id(self) -> str:
        return self.limits

    def n_ionic_steps(self, workdir: Path) -> int:
        return 0

    def write(self, atoms: Atoms, kind: str, workdir: Path) -> None:
        write_structures(workdir / f"{kind}.extxyz", [atoms])

    def command(self, workdir: Path) -> list[str]:
        return []

    def run(self, workdir: Path) -> None:
        (path,) = workdir.glob("*.extxyz")
        self.computed.append(path.stem)

    def read(self, workdir: Path) -> list[Atoms]:
        if self.failure is not None:
            raise self.failure
        (path,) = workdir.glob("*.extxyz")
        (atoms,) = read_structures(path)
        frames = []
        for scale in (1.0, 0.5, 0.0) if path.stem == "relax" else (1.0,):
            frame = atoms.copy()
            frame.positions *= 1 + 0.01 * scale
            energy = -len(atoms) + scale + float(np.abs(atoms.positions).sum()) * 1e-3
            set_results(frame, "label", energy, np.full((len(atoms), 3), scale), np.eye(3) * 0.01, self.settings_id())
            frames.append(frame)
        if path.stem == "relax":
            frames[-1].info["converged"] = self.converges
        return frames


class PreciseLabeler(SpringLabeler):
    """Gives more digits than a file of structures keeps, as VASP's parser does."""

    def read(self, workdir: Path) -> list[Atoms]:
        frames = super().read(workdir)
        for frame in frames:
            frame.positions += 4.9e-9
        return frames


def crystal() -> Atoms:
    atoms = bulk("Li", cubic=True) * (2, 1, 1)
    atoms.info["id"] = "i01-g000-0000"
    return atoms


def protocol(tmp_path: Path, labeler: SpringLabeler, **settings) -> Protocol:
    return Protocol(labeler, LabelSettings(**settings), LabelCache(tmp_path / "cache"))


def test_counts_ids_and_kinds(tmp_path):
    labeler = SpringLabeler()
    result = protocol(tmp_path, labeler).label(crystal(), seed=1, is_reference=False)
    assert sorted(labeler.computed) == ["relax"] * 3 + ["static"] * 5
    kinds = [frame.info["kind"] for frame in result.frames]
    assert kinds.count("static") == 5
    assert 3 <= kinds.count("relax") <= 9
    assert [frame.info["id"] for frame in result.frames] == [f"i01-g000-0000/f{k:02d}" for k in range(len(kinds))]
    assert {frame.info["parent"] for frame in result.frames} == {"i01-g000-0000"}
    assert {frame.info["energy_frame"] for frame in result.frames} == {"spring-1"}
    assert result.relaxed is not None and result.relaxed.info["id"] == "i01-g000-0000"


def test_reference_is_also_relaxed_as_it_is(tmp_path):
    labeler = SpringLabeler()
    protocol(tmp_path, labeler).label(crystal(), seed=1, is_reference=True)
    assert labeler.computed.count("relax") == 4


def test_no_static_shots_around_what_did_not_converge(tmp_path):
    labeler = SpringLabeler(converges=False)
    result = protocol(tmp_path, labeler).label(crystal(), seed=1, is_reference=False)
    assert labeler.computed == ["relax"] * 3
    assert result.relaxed is not None and not result.relaxed.info["converged"]


def test_same_seed_same_labels_and_nothing_is_computed_twice(tmp_path):
    first, second = SpringLabeler(), SpringLabeler()
    once = protocol(tmp_path, first).label(crystal(), seed=1, is_reference=False)
    again = protocol(tmp_path, second).label(crystal(), seed=1, is_reference=False)
    assert second.computed == []
    assert (once.n_computed, once.n_from_cache) == (8, 0)
    assert (again.n_computed, again.n_from_cache) == (0, 8)
    assert [frame.info["label_energy"] for frame in once.frames] == pytest.approx(
        [frame.info["label_energy"] for frame in again.frames], abs=1e-12
    )
    log = (tmp_path / "cache" / "computed.log").read_text().split()
    assert len(log) == len(set(log)) == 8
    other = SpringLabeler()
    protocol(tmp_path, other).label(crystal(), seed=2, is_reference=False)
    assert len(other.computed) == 8


def test_single_points_are_the_same_ones_after_a_restart(tmp_path):
    whole = protocol(tmp_path, PreciseLabeler()).label(crystal(), seed=1, is_reference=False)
    later = protocol(tmp_path, PreciseLabeler()).label(crystal(), seed=1, is_reference=False)
    assert whole.n_computed == later.n_from_cache == 8
    assert whole.relaxed is not None and later.relaxed is not None
    assert (whole.relaxed.positions == later.relaxed.positions).all()
    assert whole.relaxed.info.keys() == later.relaxed.info.keys()


def test_other_limits_of_relaxations_keep_the_single_points(tmp_path):
    first, other = SpringLabeler(limits="100 steps"), SpringLabeler(limits="200 steps")
    protocol(tmp_path, first).label(crystal(), seed=1, is_reference=False)
    protocol(tmp_path, other).label(crystal(), seed=1, is_reference=False)
    assert other.computed == ["relax"] * 3


def test_forceful_frames_are_left_out_and_counted(tmp_path):
    result = protocol(tmp_path, SpringLabeler(), max_force=0.6).label(crystal(), seed=1, is_reference=False)
    assert result.n_too_forceful >= 3 + 5
    assert all(np.abs(frame.arrays["label_forces"]).max() < 0.6 for frame in result.frames)


def test_frames_with_close_atoms_are_left_out_and_counted(tmp_path):
    close = crystal()
    result = protocol(tmp_path, SpringLabeler()).label(close, seed=1, is_reference=False)
    assert result.n_too_close == 0
    close.set_cell(0.5 * close.cell.array, scale_atoms=True)
    squeezed = protocol(tmp_path, SpringLabeler())
    squeezed._keep(squeezed.compute(close, "static", result), close, "static", result)
    assert result.n_too_close == 1


def test_failures(tmp_path):
    fatal = SpringLabeler(failure=ItemFailed("SCF diverged"))
    with pytest.raises(ItemFailed, match="no relaxation of i01-g000-0000.*SCF diverged") as caught:
        protocol(tmp_path, fatal).label(crystal(), seed=1, is_reference=False)
    assert not caught.value.retryable
    lost = SpringLabeler(failure=ItemFailed("node lost", retryable=True))
    with pytest.raises(ItemFailed, match="node lost") as caught:
        protocol(tmp_path, lost).label(crystal(), seed=1, is_reference=False)
    assert caught.value.retryable


def test_overlapping_atoms_cost_no_calculation(tmp_path):
    close = crystal()
    close.positions[1] = close.positions[0] + [0, 0, 0.8]
    labeler = SpringLabeler()
    message = (
        r"i01-g000-0000 was not labelled, no calculation was started: collapsed: Li-Li distance of 0.80 A, less than"
    )
    with pytest.raises(ItemFailed, match=message) as caught:
        protocol(tmp_path, labeler).label(close, seed=1, is_reference=True)
    assert labeler.computed == [] and not caught.value.retryable


def test_interrupted_calculation_keeps_its_folder_and_a_finished_one_does_not(tmp_path):
    labelling = protocol(tmp_path, SpringLabeler(failure=ItemFailed("node lost", retryable=True)))
    labelling.folder = tmp_path / "calculations"
    with pytest.raises(ItemFailed, match="node lost"):
        labelling.label(crystal(), seed=1, is_reference=False)
    (folder,) = labelling.folder.iterdir()
    assert (folder / "relax.extxyz").exists()
    seen = []
    labelling.on_progress = lambda done, total, n_steps: seen.append((done, total, n_steps))
    labelling.labeler.failure = None
    labelling.label(crystal(), seed=1, is_reference=False)
    assert list(labelling.folder.iterdir()) == []
    assert sorted(set(seen)) == seen[::2] + seen[-1:] == [(k, 8, 0) for k in range(9)]


def test_failed_labels_are_in_the_ledger_with_their_reasons(tmp_path):
    from types import SimpleNamespace

    from chemloop.runtime.campaign import Campaign
    from chemloop.runtime.disk import write_json
    from chemloop.runtime.item import Item
    from chemloop.runtime.ledger import Ledger
    from chemloop.stages.label import Label

    stage = Label(Campaign(tmp_path), SimpleNamespace(), 1)  # type: ignore[arg-type]
    names = ("i01-g000-0000", "i01-g000-0001")
    for number, name in enumerate(names):
        atoms = crystal()
        atoms.info.update(id=name, converged=True)
        folder = stage.folder / "items" / f"{number:04d}"
        folder.mkdir(parents=True)
        write_structures(folder / "input.extxyz", [atoms])
    Item(folder).fail("SCF diverged twice")
    write_json(stage.folder / "items/0000/label.json", {"reasons": ["exploded"]})
    relaxed = set_results(crystal(), "label", -4.0, np.zeros((4, 3)), np.eye(3), "spring-1")
    relaxed.info.update(id=names[0], converged=True)
    write_structures(stage.folder / "relaxed.extxyz", [relaxed])
    assert [failure["reason"] for failure in stage.failures()] == ["SCF diverged twice", "exploded"]
    ledger = Ledger(tmp_path / "structures.db")
    stage.record_in(ledger)
    rows = {row["structure_id"]: row for row in ledger.rows()}
    assert {name: row["label_failure"] for name, row in rows.items()} == dict(
        zip(names, ("exploded", "SCF diverged twice"), strict=True)
    )
    assert rows[names[0]]["label_converged"] and "label_converged" not in rows[names[1]]


@pytest.mark.parametrize("damage", [lambda text: text[: len(text) // 2], lambda text: text[:-200] + b"\xff" * 200])
def test_damaged_label_counts_as_absent(tmp_path, damage):
    cache = LabelCache(tmp_path)
    labeler = SpringLabeler()
    labeler.write(crystal(), "relax", tmp_path)
    frames = labeler.read(tmp_path)
    key = cache.key(crystal(), "relax", "spring-1")
    cache.put(key, frames)
    assert len(cache.get(key) or []) == 3
    path = next(tmp_path.glob(f"*/{key}.extxyz"))
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert cache.get(key) is None and key not in cache
    cache.put(key, frames)
    assert path.read_bytes() == whole and key in cache


def test_label_that_cannot_be_read_stays(tmp_path):
    import resource

    cache = LabelCache(tmp_path)
    key = cache.key(crystal(), "static", "spring-1")
    frame = set_results(crystal(), "label", -4.0, np.zeros((4, 3)), np.eye(3), "spring-1")
    cache.put(key, [frame])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            cache.get(key)
        with pytest.raises(OSError, match="Too many open files"):
            list(cache.calculations())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert cache.get(key) is not None


def test_reading_damage_does_not_remove_what_another_process_has_just_written(tmp_path, monkeypatch):
    cache = LabelCache(tmp_path)
    key = cache.key(crystal(), "static", "spring-1")
    frame = set_results(crystal(), "label", -4.0, np.zeros((4, 3)), np.eye(3), "spring-1")
    cache.put(key, [frame])
    path = next(tmp_path.glob(f"*/{key}.extxyz"))
    path.write_text("2\n")

    def parse_late(*what: object) -> list[Atoms]:
        LabelCache(tmp_path).put(key, [frame])
        raise StructureError("truncated")

    monkeypatch.setattr(label_cache, "parse_structures", parse_late)
    assert cache.get(key) is None
    monkeypatch.undo()
    assert cache.get(key) is not None


def test_key_knows_structure_kind_and_settings(tmp_path):
    cache = LabelCache(tmp_path)
    moved, swapped, strained = crystal(), crystal(), crystal()
    moved.positions[0, 0] += 1e-4
    swapped.numbers[0] = 11
    strained.set_cell(strained.cell.array * 1.001)
    keys = {cache.key(atoms, "relax", "a") for atoms in (crystal(), moved, swapped, strained)}
    keys |= {cache.key(crystal(), "static", "a"), cache.key(crystal(), "relax", "b")}
    assert len(keys) == 6


@pytest.mark.parametrize(
    ("key", "value"),
    [("n_perturbations", 0), ("n_steps", 0), ("n_static", -1), ("position_amplitude", [0.2, 0.1]), ("max_force", 0.0)],
)
def test_bad_settings_name_their_key(key, value):
    with pytest.raises(ConfigError, match=f"loop.label.{key} = "):
        LabelSettings(**{key: value})
