"""Hands items to workers, watches their markers, and takes dead workers into account.

Where things stand is read from the item folders alone, so a new driver sees what an old one saw. Who the workers are
and whether they live is known to `chemloop.compute`.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from chemloop.runtime.campaign import explain_os_error
from chemloop.runtime.errors import ChemLoopError
from chemloop.runtime.item import Item

if TYPE_CHECKING:
    from chemloop.compute import Compute, HandedBack

IDLENESS = 200
"""A driver waits at least this many times as long as its last look took."""

LONGEST_PAUSE_S = 30.0


def run_to_end(
    items: Sequence[Item], stage: Path, resource: str, compute: Compute, label: str, python: str | None = None
) -> None:
    """Bring all items to DONE or FAILED.

    python: the interpreter of the workers, None for the driver's own

    Raises: ChemLoopError as soon as one item failed fatally; items in progress are stopped then
    """
    pending = [item for item in items if not is_settled(item)]
    if not pending:
        return
    try:
        with (
            progress_bar(label, len(items)) as bar,
            compute.pool(stage / "jobs", resource, label, python) as pool,
        ):
            trials = Trials(pending, compute.max_attempts)
            while pending:
                began = time.process_time()
                again = [item for back in pool.handed_back(pending) for item in trials.not_hopeless(back)]
                looked_s = time.process_time() - began
                if again:
                    for item in again:
                        item.reopen()
                    # takes long, and happens once: no reason to look seldom
                    pool.start(again)
                began = time.process_time()
                pending = [item for item in pending if not is_settled(item)]
                _raise_if_fatal(pending)
                looked_s += time.process_time() - began
                steps = items[0].progress if len(items) == 1 else None
                bar.show(len(items) - len(pending), len(items), steps, pool.note)
                if pending:
                    time.sleep(min(max(compute.poll_s, IDLENESS * looked_s), max(compute.poll_s, LONGEST_PAUSE_S)))
    except OSError as error:
        raise explain_os_error(error, stage) from error


def is_settled(item: Item) -> bool:
    """Whether there is nothing left to do: done, or failed in a way that trying again would not change."""
    if item.is_done:
        return True
    failure = item.failure
    return failure is not None and not failure["retryable"] and not failure["is_fatal"]


def _raise_if_fatal(items: Sequence[Item]) -> None:
    for item in items:
        failure = item.failure
        if failure is not None and failure["is_fatal"]:
            raise ChemLoopError(f"{failure['reason']} (log: {item.folder / 'log.out'})")


class Trials:
    """How often each item was begun without getting any further, since this driver came."""

    def __init__(self, items: Sequence[Item], max_attempts: int):
        self.max_attempts = max_attempts
        self.origins = {item: (item.reached, item.n_starts) for item in items}
        self.handed_out: dict[Item, int] = {}
        self.n_idle: Counter[Item] = Counter()

    def not_hopeless(self, back: HandedBack) -> list[Item]:
        """Those of the items handed back that deserve another start; the others are marked as failed."""
        # what was finished after the driver looked and before its worker was seen to be gone must not start again
        items = [item for item in back.items if not is_settled(item)]
        # workers that never begin anything are given up as well, though no item of theirs counts a start
        was_idle = all(self.handed_out.get(item) == item.n_starts for item in back.items)
        left = []
        for item in items:
            self.n_idle[item] = self.n_idle[item] + 1 if was_idle else 0
            furthest, first = self.origins[item]
            if item.reached > furthest:
                self.origins[item] = item.reached, item.n_starts
                left.append(item)
            elif max(item.n_starts - first, self.n_idle[item]) < self.max_attempts:
                left.append(item)
            else:
                self._give_up(item, back.reason)
            self.handed_out[item] = item.n_starts
        return left

    def _give_up(self, item: Item, reason: str | None) -> None:
        failure = item.failure
        if failure is None:
            last = f"{reason}; " if reason else ""
            times = f"ended {self.max_attempts} times without a result"
            item.fail(f"its worker {times}; {last}last lines: {item.log_tail()!r}")
        elif not failure["is_fatal"]:
            item.fail(f"{failure['reason']}; given up after {self.max_attempts} attempts")


class Bar:
    """Counts settled items, or the steps of a single item that reports its progress."""

    def __init__(self, bar: tqdm):
        self.bar = bar

    def show(self, done: int, total: int, steps: tuple[int, int] | None, note: str) -> None:
        if steps and done < total:
            done, total = steps
        if total != self.bar.total:
            self.bar.reset(total)
        self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(done - self.bar.n)


@contextmanager
def progress_bar(label: str, n_items: int) -> Iterator[Bar]:
    """One line per stage with counts and time left; redrawn rarely where nobody watches."""
    interval = 0.2 if sys.stderr.isatty() else 30
    with tqdm(total=n_items, desc=label, mininterval=interval, maxinterval=interval, dynamic_ncols=True) as bar:
        yield Bar(bar)
