"""What the processes that a driver starts, here or in a queue, inherit from it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def thread_variables(n_threads: int) -> dict[str, str]:
    """Thread counts, and that threads sleep instead of spin when they wait."""
    return dict.fromkeys(THREAD_VARIABLES, str(n_threads)) | {
        "OMP_WAIT_POLICY": "PASSIVE",
        "NUMBA_THREADING_LAYER": "workqueue",
        "PYTHONWARNINGS": "ignore",
    }


@contextmanager
def variables(wanted: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the processes started inside, and put the former ones back."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Processes started inside do not see Ctrl-C: the driver stops them itself, and they leave no traceback."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_main else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
