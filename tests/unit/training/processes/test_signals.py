from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil

from shrinkserve.training.processes.signals import StopRequest


def test_stop_request_records_a_signal_and_restores_the_handlers() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopRequest() as stop:
        assert stop.signal == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_second_interrupt_raises_keyboard_interrupt() -> None:
    """In a notebook the kernel survives: the handler of Python, not the system's, gets the second signal."""
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
        except KeyboardInterrupt:
            interrupted = True
    assert interrupted
    assert stop.signal == signal.SIGINT


STALLED = """
import subprocess, sys, time
from shrinkserve.training.processes.signals import StopRequest, Watchdog
with StopRequest() as stop, Watchdog(0.5, stop) as watchdog:
    watchdog.progress("update 7")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(child.pid, flush=True)
    time.sleep(600)
"""


def test_watchdog_ends_a_process_that_stalls_and_its_children() -> None:
    done = subprocess.run([sys.executable, "-c", STALLED], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "no progress" in done.stderr.splitlines()[0]
    assert "update 7" in done.stderr.splitlines()[0]
    assert not psutil.pid_exists(int(done.stdout))


PROGRESSING = """
import time
from shrinkserve.training.processes.signals import StopRequest, Watchdog
with StopRequest() as stop, Watchdog(2.0, stop) as watchdog:
    for step in range(30):
        time.sleep(0.1)
        watchdog.progress(f"update {step}")
"""


BUSY = """
import time
from shrinkserve.training.processes.signals import StopRequest, Watchdog
with StopRequest() as stop, Watchdog(3.0, stop) as watchdog:
    began = time.process_time()
    print("began", flush=True)
    while time.process_time() < began + 0.5:
        pass
"""


def test_watchdog_does_not_count_the_time_of_a_suspended_process() -> None:
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGSTOP)
    time.sleep(4)
    process.send_signal(signal.SIGCONT)
    assert (process.communicate(timeout=60)[1], process.returncode) == ("", 0)


def test_watchdog_lets_a_run_with_progress_go_on() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRESSING], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
