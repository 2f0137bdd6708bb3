"""The time that processes use."""

import subprocess
import sys
import time

from chemloop.runtime.process import cpu_seconds


def test_children_count_when_they_were_waited_for_and_sleep_does_not():
    begin = cpu_seconds()
    time.sleep(0.3)
    assert cpu_seconds() - begin < 0.2
    subprocess.run([sys.executable, "-c", "while __import__('time').process_time() < 0.3: pass"], check=True)
    assert cpu_seconds() - begin > 0.25
