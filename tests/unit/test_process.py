"""A program that runs as a process of its own leaves nothing behind."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from chemloop.runtime.process import run_program, stop_leftovers

# as custodian starts VASP: a session of its own, which a signal to the first program's group does not reach
DETACHED = "import subprocess as s; p = s.Popen(['sleep', '60'], start_new_session=True); print(p.pid, flush=True)"
WAITING = f"{DETACHED}; p.wait()"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(0, flush=True); time.sleep(60)"


def is_alive(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def started(log: Path) -> int:
    """The process that the program says it started."""
    for _ in range(200):
        if log.exists() and (text := log.read_text()).endswith("\n"):
            return int(text)
        time.sleep(0.05)
    raise TimeoutError(log)


@pytest.mark.parametrize(("program", "code"), [(WAITING, None), (DETACHED, 0)])
def test_what_has_a_session_of_its_own_is_ended_too(tmp_path, program, code):
    log = tmp_path / "log"
    assert run_program([sys.executable, "-c", program], tmp_path, log, 2, {}) == code
    assert not is_alive(started(log))


def test_what_ignores_the_request_to_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("chemloop.runtime.process.GRACE_S", 0.2)
    before = set(psutil.Process().children())
    assert run_program([sys.executable, "-c", STUBBORN], tmp_path, tmp_path / "log", 2, {}) is None
    assert set(psutil.Process().children()) <= before


def test_what_a_killed_worker_left_is_ended_by_the_next(tmp_path):
    log, other = tmp_path / "log", tmp_path / "other"
    call = "from pathlib import Path; import sys; from chemloop.runtime.process import run_program"
    call += f"\nrun_program([sys.executable, '-c', {WAITING!r}], Path('.'), Path(sys.argv[1]), 60, {{}})"
    workers = [subprocess.Popen([sys.executable, "-c", call, str(path)], cwd=tmp_path) for path in (log, other)]
    children = [started(log), started(other)]
    for worker in workers:
        worker.kill()
        worker.wait()
    assert all(map(is_alive, children))
    stop_leftovers(log)
    assert list(map(is_alive, children)) == [False, True]  # those of another log are not its business
    stop_leftovers(other)
