"""A program that runs as a process of its own, with everything that it starts, and the time that processes use."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path


def run_program(
    words: Sequence[str], folder: Path, log: Path, timeout_s: float, environment: Mapping[str, str]
) -> int | None:
    """Run a program to its end; the exit code, or None where it was stopped after `timeout_s` on the clock.

    However it ends, nothing that it started lives on: it leads a process group of its own, which is killed.
    folder: where it runs; log: file to which everything that it prints is added; environment: more variables

    Raises: OSError where it cannot be started
    """
    with open(log, "ab") as output:
        process = subprocess.Popen(
            list(words),
            cwd=folder,
            env=os.environ | dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def cpu_seconds() -> float:
    """Of this process, and of all that it has started and waited for."""
    # finer than os.times, which counts in hundredths
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def last_lines(log: Path, n: int = 3) -> str:
    """The last lines of a log that are not empty, separated by |; a word where there are none."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-n:]) or "nothing"
