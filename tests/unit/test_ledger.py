"""structures.db: one row per structure, the same however often it is written."""

from threading import Thread

from ase.build import bulk
from ase.db import connect

from chemloop.physics.structures import set_results
from chemloop.runtime.ledger import Ledger


def structure(number: int, **info):
    atoms = bulk("Li", cubic=True)
    atoms.info.update(id=f"i01-g000-{number:04d}", **info)
    return atoms


def relaxed(number: int, role: str = "candidate", **info):
    atoms = structure(number, role=role, converged=True, **info)
    return set_results(atoms, "mlff", -3.0, [[0.0] * 3] * 2, [[0.0] * 3] * 3, "chgnet-0.3.0")


def fill(ledger: Ledger) -> None:
    ledger.record([structure(0), structure(1)], "generate", 1)
    ledger.record([relaxed(0), relaxed(1, dropped="exploded"), relaxed(7, role="reference")], "relax", 1)
    screened = relaxed(0, e_above_hull=0.05, is_stable=True, is_unique=True, is_novel=True, spacegroup="Im-3m")
    ledger.record([screened], "screen", 1)
    labelled = set_results(structure(0, converged=False), "label", -2.5, [[0.1] * 3] * 2, [[0.0] * 3] * 3, "teacher-1")
    ledger.record([labelled], "label", 1)
    labelled.info |= {"e_above_hull": 0.02, "is_stable": True, "is_unique": True, "is_novel": False}
    ledger.record([labelled], "curate", 1)


def test_a_structure_from_birth_to_label(tmp_path):
    ledger = Ledger(tmp_path / "structures.db")
    fill(ledger)
    first, second = ledger.rows()
    assert first["structure_id"] == "i01-g000-0000"
    assert (first["stage"], first["born_iteration"]) == ("label", 1)
    assert (first["mlff_energy"], first["mlff_frame"]) == (-3.0, "chgnet-0.3.0")
    assert (first["label_energy"], first["label_frame"]) == (-2.5, "teacher-1")
    assert (first["e_above_hull"], first["label_e_above_hull"]) == (0.05, 0.02)
    assert (first["is_novel"], first["label_is_novel"]) == (True, False), "it was novel before its label"
    assert (first["converged"], first["label_converged"]) == (True, False)
    assert second["dropped"] == "exploded" and second["stage"] == "relax"


def test_origins_are_columns(tmp_path):
    ledger = Ledger(tmp_path / "structures.db")
    origin = {"generator": "evolution", "operator": "heredity", "parents": "i00-r0001 i01-g000-0003"}
    ledger.record([structure(0, **origin), structure(1, generator="random")], "generate", 1)
    first, second = ledger.rows()
    assert {key: first[key] for key in origin} == origin
    assert second["generator"] == "random" and "parents" not in second
    with connect(ledger.path) as database:
        assert [row.structure_id for row in database.select(operator="heredity")] == ["i01-g000-0000"]


def test_writing_again_changes_nothing(tmp_path):
    once, twice = Ledger(tmp_path / "once.db"), Ledger(tmp_path / "twice.db")
    fill(once)
    fill(twice)
    ledger_rows = once.rows()
    fill(twice)
    assert len(ledger_rows) == 2
    assert [row["structure_id"] for row in twice.rows()] == [row["structure_id"] for row in ledger_rows]
    assert twice.rows() == ledger_rows


def test_a_lock_file_of_a_killed_process_does_not_block(tmp_path):
    ledger = Ledger(tmp_path / "structures.db")
    (tmp_path / "structures.db.lock").touch()
    writing = Thread(target=fill, args=[ledger], daemon=True)
    writing.start()
    writing.join(timeout=60)
    assert not writing.is_alive()
    assert len(ledger.rows()) == 2


def test_ase_opens_it_with_energies(tmp_path):
    ledger = Ledger(tmp_path / "structures.db")
    fill(ledger)
    with connect(ledger.path) as database:
        row = database.get(structure_id="i01-g000-0000")
        assert row.energy == -2.5
        assert row.forces.shape == (2, 3)
        assert [found.structure_id for found in database.select("e_above_hull<0.1,is_novel=True")] == ["i01-g000-0000"]
