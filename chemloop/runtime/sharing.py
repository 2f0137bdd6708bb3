"""Items that several drivers may want at once, such as the jobs of a sweep: one computes them, the others wait.

All locks are the system's (flock): they vanish with the process that held them.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from chemloop.compute import Compute
from chemloop.runtime.item import Item
from chemloop.runtime.submit import run_to_end

DRIVER = ".driver"
CLAIM = ".claim"
"""As `runtime.worker` names it."""


@contextmanager
def held(path: Path, is_patient: bool = True) -> Iterator[bool]:
    """Hold a lock file; yields False at once where another process holds it and we are not patient."""
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if is_patient else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


@contextmanager
def shared(
    items: Sequence[Item], folder: Path, resource: str, compute: Compute, label: str, python: str | None = None
) -> Iterator[list[Item]]:
    """Bring items to their end, and yield those that this process was the first to ask for, still held by it.

    Those that another process holds are waited for after the with statement's body. What failed is tried again.

    folder: gets `drivers/`, with the records of the workers
    python: the interpreter of the workers, None for the driver's own
    Raises: ChemLoopError as soon as one item failed fatally
    """
    with ExitStack() as stack:
        mine = [item for item in items if stack.enter_context(held(item.folder / DRIVER, is_patient=False))]
        _run(mine, folder, resource, compute, label, python)
        yield mine
    for item in items:
        if item not in mine:
            print(f"waiting for {item.folder}, which another job computes", flush=True)
            with held(item.folder / DRIVER):
                _run([item], folder, resource, compute, label, python)


def _run(items: Sequence[Item], folder: Path, resource: str, compute: Compute, label: str, python: str | None) -> None:
    missing = [item for item in items if not item.is_intact]
    for item in missing:
        # a worker that outlived its driver may still be at it
        with held(item.folder / CLAIM):
            if not item.is_intact:
                item.reopen()
    missing = [item for item in missing if not item.is_done]
    if missing:
        key = hashlib.sha256("/".join(str(item.folder) for item in items).encode()).hexdigest()[:12]
        driver = folder / "drivers" / key
        driver.mkdir(parents=True, exist_ok=True)
        run_to_end(missing, driver, resource, compute, label, python)
