"""A program that runs as a process of its own, with everything that it starts, and the time that processes use."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "CHEMLOOP_PROGRAM_LOG"
"""Environment variable that a program hands on to all that it starts: whose output goes to which log."""
GRACE_S = 5.0
"""Between the request to end and the end by force: launchers such as srun pass the request on to other nodes."""


def run_program(
    words: Sequence[str], folder: Path, log: Path, timeout_s: float, environment: Mapping[str, str]
) -> int | None:
    """Run a program to its end; the exit code, or None where it was stopped after `timeout_s` on the clock.

    However it ends, nothing that it started on this machine lives on, nor what an earlier run with the same log left.
    folder: where it runs; log: file to which everything that it prints is added; environment: more variables

    Raises: OSError where it cannot be started
    """
    stop_leftovers(log)
    with open(log, "ab") as output:
        process = subprocess.Popen(
            list(words),
            cwd=folder,
            env=os.environ | dict(environment) | {MARK: str(log.resolve())},
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
            if process.poll() is None:
                # what hides its environment is found below its parent, as long as that lives
                _stop([psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)])
            stop_leftovers(log)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def stop_leftovers(log: Path) -> None:
    """End all processes of an earlier `run_program` with this log: those that were started in sessions of their own,
    and those whose caller was killed.
    """
    for _ in range(3):  # they may start others before they end
        if not (found := _marked(str(log.resolve()))):
            return
        _stop(found)


def _marked(value: str) -> list[psutil.Process]:
    ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        # others' processes do not show their environment, and those that have just ended have none
        with suppress(psutil.Error, OSError):
            if process.pid not in ours and process.environ().get(MARK) == value:
                found.append(process)
    return found


def _stop(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=GRACE_S)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=GRACE_S)


def cpu_seconds() -> float:
    """Of this process, and of all that it has started and waited for."""
    # finer than os.times, which counts in hundredths
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def last_lines(log: Path, n: int = 3) -> str:
    """The last lines of a log that are not empty, separated by |; a word where there are none, or no log."""
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-n:]) or "nothing"
