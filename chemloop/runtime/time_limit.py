"""A limit on the CPU time of a piece of Python."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TimeLimitExceeded(Exception):
    """The code under `time_limit` used up its time."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Interrupt the code inside once it has computed for `seconds`.

    It counts the CPU time of this process, not the time on the clock, so that a busy machine does not change what comes
    out. The interrupt is a signal (SIGVTALRM): it reaches endless loops in Python, within one call into C it waits.

    Raises: TimeLimitExceeded; RuntimeError outside the main thread, where Python delivers no signals
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("a time limit works in the main thread of a process only; run this in a worker of its own")

    def interrupt(*_: object) -> None:
        raise TimeLimitExceeded

    before = signal.signal(signal.SIGVTALRM, interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
