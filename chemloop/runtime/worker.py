"""Runs items, each as its folder says, in a process of its own: `python -m chemloop.runtime.worker ITEM_DIR ...`.

Several workers may be given the same items: each item is held by a lock that the system drops when its worker dies,
so an item never runs twice at once and a fast worker takes what a slow one has not reached.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from pathlib import Path

from chemloop.runtime.errors import ChemLoopError, ItemFailed, StructureError
from chemloop.runtime.item import Item


def run_items(folders: Sequence[str], start: int = 0) -> None:
    """Run all items that nobody else runs or has run, beginning with number `start`."""
    for folder in (*folders[start:], *folders[:start]):
        item = Item(Path(folder))
        with claim(item) as is_mine:
            if is_mine and not item.is_finished:
                if not (was_put_back() and item.n_starts):
                    item.count_start()
                run_item(item)


def was_put_back() -> bool:
    """Whether SLURM has requeued this job, after a preemption, a lost node or near its limit: no fault of an item."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


@contextmanager
def claim(item: Item) -> Iterator[bool]:
    """Hold an item; yields False at once where another worker holds it."""
    with open(item.folder / ".claim", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def is_claimed(item: Item) -> bool:
    """Whether a worker holds an item just now."""
    with claim(item) as is_mine:
        return not is_mine


def run_item(item: Item) -> None:
    """Run one item and leave DONE or FAILED."""
    from chemloop.stages import load_stage

    begin = time.monotonic()
    with printed_to(item.folder / "log.out"):
        try:
            outputs = load_stage(item).run(item)
        except ItemFailed as error:
            item.fail(error.reason, error.retryable)
        except StructureError as error:
            item.fail(str(error))
        except ChemLoopError as error:
            item.fail(str(error), is_fatal=True)
        except ImportError as error:
            item.fail(f"{error}; `pip install {(error.name or '').split('.')[0]}` may put it right", is_fatal=True)
        except OSError as error:
            traceback.print_exc()
            item.fail(f"{type(error).__name__}: {error}", is_fatal=True)
        except BrokenExecutor as error:
            # one of its processes was killed, which says nothing about the item
            traceback.print_exc()
            item.fail(f"{type(error).__name__}: {error}", retryable=True)
        except Exception as error:
            traceback.print_exc()
            item.fail(f"{type(error).__name__}: {error}")
        else:
            item.finish(outputs, time.monotonic() - begin)


@contextmanager
def printed_to(path: Path) -> Iterator[None]:
    """Send everything that this process prints, from C code too, to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with open(path, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for target, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, target)
            os.close(copy)


if __name__ == "__main__":
    run_items(sys.argv[1:])
