"""What runs inside a SLURM job: items, with an eye on the time limit; or the answer to a probe."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from chemloop.runtime import worker
from chemloop.runtime.disk import write_json
from chemloop.runtime.item import Item
from chemloop.runtime.queue import QueueUnavailable, requeue

WARNING = signal.SIGUSR2
"""What submitit has SLURM send to a job before it ends it."""


@dataclass
class Work:
    """Runs items; near the time limit, and when preempted, it puts its job back into the queue.

    There is nothing to save: items leave what they have on disk as they go, because any process may be killed.
    A job whose limit comes without any progress since its start ends, so that the driver counts the attempt.
    """

    folders: list[str]
    limit_s: float

    def __call__(self) -> None:
        self.began = time.monotonic()
        self.origin = self.progress()
        signal.signal(WARNING, self.put_back)
        worker.run_items(self.folders)

    def progress(self) -> list[object]:
        items = [Item(Path(folder)) for folder in self.folders]
        return [(item.is_finished, item.reached) for item in items]

    def put_back(self, signum: int, frame: FrameType | None) -> None:
        """Requeue this job and end at once: an exception could be taken for one of the item's."""
        is_late = time.monotonic() - self.began > self.limit_s / 2
        if is_late and self.progress() == self.origin:
            print("the time limit comes without any progress; this job ends", flush=True)
        else:
            print("the time limit, or a preemption, comes; this job goes back into the queue", flush=True)
            try:
                requeue(os.environ["SLURM_JOB_ID"])
            except QueueUnavailable as error:
                print(f"it could not: {error}", flush=True)
        sys.stdout.flush()
        os._exit(1)


def answer_probe(path: str, question: str) -> None:
    """Say that ChemLoop runs here, into a folder that must be shared with the driver."""
    import chemloop.config  # noqa: F401 - that it can be imported is the answer

    is_shared = (Path(path).parent / question).exists()
    write_json(Path(path), {"host": socket.gethostname(), "question": question, "is_shared": is_shared})
