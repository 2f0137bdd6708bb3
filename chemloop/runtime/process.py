"""A program that runs as a process of its own, with everything that it starts, and the time that processes use."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

MARK = "CHEMLOOP_PROGRAM_LOG"
"""Environment variable that a program hands on to all that it starts: whose output goes to which log."""
GRACE_S = 5.0
"""Between the request to end and the end by force: launchers such as srun pass the request on to other nodes."""
WATCH_S = 0.5
"""Between two looks at whether the caller of a program still lives."""


def run_program(
    words: Sequence[str], folder: Path, log: Path, timeout_s: float, environment: Mapping[str, str]
) -> int | None:
    """Run a program to its end; the exit code, or None where it was stopped after `timeout_s` on the clock.

    However it ends, nothing that it started on this machine lives on, nor what an earlier run with the same log left.
    Where the caller itself is killed, a process that watches it ends the program within seconds, see `end_orphans`.
    folder: where it runs; log: file to which everything that it prints is added; environment: more variables

    Raises: OSError where it cannot be started
    """
    stop_leftovers(log)
    with open(log, "ab") as output, _watcher(log, output):
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


@contextmanager
def _watcher(log: Path, output: IO[bytes]) -> Iterator[None]:
    """A process that runs `end_orphans` for this one."""
    watcher = subprocess.Popen(
        [sys.executable, "-m", "chemloop.runtime.process", str(os.getpid()), str(log.resolve())],
        cwd=Path(__file__).parents[2],  # a checkout that is not installed is found from there
        # marked, so that whoever runs the program next ends it first: it cannot take the next program for its own
        env=os.environ | {MARK: str(log.resolve())},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield
    finally:
        watcher.kill()
        watcher.wait()


def end_orphans(caller: int, log: Path) -> None:
    """Wait until the parent of this process, `caller`, has died, then end what it ran with this log.

    A signal at the death of the parent (Linux's PR_SET_PDEATHSIG) would reach the program, but not what that has
    started: custodian dies of it and leaves VASP running. This also works where there is no such signal.
    """
    while os.getppid() == caller:
        time.sleep(WATCH_S)
    stop_leftovers(log)


def stop_leftovers(log: Path) -> None:
    """End all processes of an earlier `run_program` with this log: those that were started in sessions of their own,
    and those whose caller was killed together with the process that watched it.
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


if __name__ == "__main__":
    end_orphans(int(sys.argv[1]), Path(sys.argv[2]))
