"""A program that runs as a process of its own leaves nothing behind."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from chemloop.runtime.process import run_program, stop_leftovers

# as custodian starts VASP: a session of its own, which a signal to the first program's group does not reach
DETACHED = "import subprocess as s; p = s.Popen(['sleep', '300'], start_new_session=True); print(p.pid, flush=True)"
WAITING = f"{DETACHED}; p.wait()"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(0, flush=True); time.sleep(300)"
PATIENCE_S = 60.0  # on a machine that is busy with other things; the programs sleep for longer


def is_alive(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def has_printed(log: Path) -> bool:
    return log.exists() and log.read_text().endswith("\n")


def started(log: Path) -> int:
    """The process that the program says it started."""
    end = time.monotonic() + PATIENCE_S
    while not has_printed(log):
        assert time.monotonic() < end, f"it printed nothing to {log}"
        time.sleep(0.05)
    return int(log.read_text())


@pytest.fixture
def log(tmp_path, monkeypatch) -> Path:
    """Of a program whose limit counts from when it has printed, however long Python takes to start."""
    path = tmp_path / "log"

    class Watched(subprocess.Popen):
        def wait(self, timeout=None):
            while timeout and self.poll() is None and not has_printed(path):
                time.sleep(0.05)
            return super().wait(timeout)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    return path


@pytest.mark.parametrize(("program", "limit_s", "code"), [(WAITING, 0.5, None), (DETACHED, PATIENCE_S, 0)])
def test_what_has_a_session_of_its_own_is_ended_too(tmp_path, log, program, limit_s, code):
    assert run_program([sys.executable, "-c", program], tmp_path, log, limit_s, {}) == code
    assert not is_alive(started(log))


def test_what_ignores_the_request_to_end_is_killed(tmp_path, log, monkeypatch):
    monkeypatch.setattr("chemloop.runtime.process.GRACE_S", 0.2)
    before = set(psutil.Process().children())
    assert run_program([sys.executable, "-c", STUBBORN], tmp_path, log, 0.5, {}) is None
    assert set(psutil.Process().children()) <= before


def worker(log: Path, *words: str) -> subprocess.Popen:
    """A process that runs a program, as a worker runs a DFT code."""
    call = "from pathlib import Path; import sys; from chemloop.runtime.process import run_program"
    call += "\nrun_program(sys.argv[2:], Path('.'), Path(sys.argv[1]), 300, {})"
    return subprocess.Popen([sys.executable, "-c", call, str(log), *words], cwd=log.parent)


def watcher_of(process: subprocess.Popen) -> psutil.Process:
    (found,) = (c for c in psutil.Process(process.pid).children() if "chemloop.runtime.process" in c.cmdline())
    return found


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


def dies(process_id: int) -> bool:
    end = time.monotonic() + PATIENCE_S
    while is_alive(process_id) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_alive(process_id)


def test_what_a_killed_worker_ran_ends_with_it(tmp_path):
    killed, other = (worker(tmp_path / name, sys.executable, "-c", WAITING) for name in ("killed", "other"))
    child, child_of_other = started(tmp_path / "killed"), started(tmp_path / "other")
    kill(killed)
    assert dies(child)
    assert is_alive(child_of_other)
    kill(other)
    assert dies(child_of_other)


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no MPI on this machine")
def test_ranks_of_a_killed_worker_end_with_it(tmp_path):
    allow = ["env", "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"]
    killed = worker(tmp_path / "log", *allow, "mpirun", "-n", "1", sys.executable, "-c", WAITING)
    child = started(tmp_path / "log")
    kill(killed)
    assert dies(child)


def test_what_a_worker_left_that_was_killed_with_its_watcher_is_ended_by_the_next(tmp_path):
    log, other = tmp_path / "log", tmp_path / "other"
    workers = [worker(path, sys.executable, "-c", WAITING) for path in (log, other)]
    children = [started(log), started(other)]
    for process in workers:
        watcher_of(process).kill()
        kill(process)
    assert all(map(is_alive, children))
    stop_leftovers(log)
    assert list(map(is_alive, children)) == [False, True]  # those of another log are not its business
    stop_leftovers(other)


def test_watcher_of_a_killed_worker_leaves_the_next_program_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("chemloop.runtime.process.GRACE_S", 0.5)
    log = tmp_path / "log"
    killed = worker(log, sys.executable, "-c", WAITING)
    started(log)
    watcher = watcher_of(killed)
    watcher.suspend()  # it looks too late
    kill(killed)
    resume = f"with contextlib.suppress(ProcessLookupError): os.kill({watcher.pid}, signal.SIGCONT)"
    program = f"import contextlib, os, signal, time\n{resume}\ntime.sleep(2)"
    assert run_program([sys.executable, "-c", program], tmp_path, log, 60, {}) == 0
