"""workflow=status without a queue: what it counts, and how long that takes."""

import time
from pathlib import Path

from chemloop.runtime.item import Item
from chemloop.workflow.status import errors, stages, table


def items(stage: Path, kinds: str) -> None:
    """Item folders: d one that is done, f failed, b begun, p planned; - one whose task is not written yet."""
    for number, kind in enumerate(kinds):
        item = Item(stage / f"{number:05d}")
        item.folder.mkdir(parents=True)
        if kind in "dfbp":
            (item.folder / "item.yaml").touch()
        if kind in "dfb":
            item.count_start()
        if kind == "d":
            (item.folder / "DONE").touch()
        if kind == "f":
            item.fail(f"no luck with {number}")


def test_items_are_told_apart_by_their_markers(tmp_path):
    items(tmp_path / "iter-001/2-relax/items", "ddfbpp-")
    (tmp_path / "iter-001/2-relax/items/notes.txt").touch()
    items(tmp_path / "iter-000/prepare/items", "d")
    (tmp_path / "iter-000/prepare/DONE").touch()
    shown = [line.split() for line in table(list(stages(tmp_path)), {}).splitlines()]
    assert shown[1:] == [["0", "prepare", "1", "1", "-", "-"], ["1", "relax", "6", "2", "1", "1", "~0:00:00"]]


def test_last_errors_come_first_and_no_more_than_asked_for(tmp_path):
    items(tmp_path / "points", "fff")
    # one that is being tried again while status reads
    found = list(stages(tmp_path))
    (tmp_path / "points/00001/FAILED").unlink()
    shown = errors(found, 2)
    assert shown == [f"failed: no luck with 2 (log: {tmp_path}/points/00002/log.out)"]
    assert len(errors(found, 3)) == 2 and errors(found, 0) == []


def test_ten_thousand_items_are_counted_in_a_fraction_of_a_second(tmp_path):
    items(tmp_path / "iter-001/2-relax/items", "d" * 5000 + "f" * 20 + "b" * 8 + "p" * 4972)
    begin = time.process_time()
    found = list(stages(tmp_path))
    assert len(errors(found, 5)) == 5
    assert time.process_time() - begin < 0.7, "this takes 0.07 s"
    assert (found[0].items, found[0].done, found[0].begun, len(found[0].failed)) == (10000, 5000, 8, 20)
