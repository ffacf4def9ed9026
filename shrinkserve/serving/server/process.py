"""The process of a tritonserver: started under a supervisor, its log read, ended in order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from shrinkserve.errors import ServerError
from shrinkserve.serving.server import supervisor
from shrinkserve.serving.server.logs import explain, rotating_log
from shrinkserve.serving.server.supervisor import Report

LISTENS = "Started Metrics Service at"
"""Triton's line when all its ports are open, metrics last. Before it, a response at a port is another server's."""
DRAINED = "All models are stopped"
"""Triton's line when no request is in flight any more and none is accepted."""

CRASHES = {signal.SIGSEGV.name, signal.SIGABRT.name}


class ServerProcess:
    """A running tritonserver.

    Args:
        command: the program and its arguments.
        environment: all environment variables.
        folder: the server's temporary folder, and its working directory.
        log_file: receives the program's output.

    Attributes:
        pid: process id of the supervisor.
        listens: set when all ports are open.

    Raises:
        ServerError: the log cannot be written.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path, log_file: Path) -> None:
        self.log_file = log_file
        self.listens = threading.Event()
        self._drained = threading.Event()
        self._tail: deque[str] = deque(maxlen=400)
        with ExitStack() as resources:
            log = resources.enter_context(rotating_log(log_file))
            self._report, report = os.pipe()
            resources.callback(os.close, self._report)
            guarded = [sys.executable, "-I", supervisor.__file__, str(os.getpid()), str(folder), str(report)]
            try:
                self._process = subprocess.Popen(
                    [*guarded, *command],
                    env=environment,
                    cwd=folder,  # modules in the caller's directory must not be imported by the stubs
                    pass_fds=[report],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    start_new_session=True,  # Ctrl-C at the terminal is for the caller, who ends the server in order
                )
            finally:
                os.close(report)
            assert self._process.stdout is not None
            self._reader = threading.Thread(target=self._read, args=(self._process.stdout, log.info), daemon=True)
            self._reader.start()
            resources.callback(self._process.stdout.close)
            resources.callback(self._reader.join)
            self._resources = resources.pop_all()
        self.pid = self._process.pid

    @property
    def ended(self) -> bool:
        """Return True when the program has ended."""
        return self._process.poll() is not None

    def wait(self) -> None:
        """Return when the program has ended."""
        self._process.wait()

    def _read(self, stream: IO[str], write: Callable[[str], None]) -> None:
        for line in stream:
            self._tail.append(line)
            write(line.rstrip("\n"))
            if LISTENS in line:
                self.listens.set()
            if DRAINED in line:
                self._drained.set()
        self._drained.set()

    def error(self) -> ServerError:
        """Return why the program ended: a lost process, else the reason in Triton's log, else its exit code."""
        self._reader.join()  # until the last line
        reported = os.read(self._report, 4096)
        reason = _explain_loss(json.loads(reported)) if reported else explain(self._tail)
        if reason is None:
            code = self._process.returncode
            how = _how(code if code <= 128 else 128 - code)
            cause = "; Triton 2.51 crashes when a model's process stands still for 2 s" if how in CRASHES else ""
            reason = f"tritonserver ended unexpectedly ({how}{cause})"
        return ServerError(reason, hint=f"its log is {self.log_file}")

    def stop(self, *, in_order: bool = False) -> None:
        """End the program: requests in flight finish first; no process and no file stays.

        Args:
            in_order: let Triton unload its models, one second a step; it writes the end of its trace after that.
        """
        try:
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)  # a stopped supervisor would not read it
            if in_order:
                self._process.wait()
            while not self.ended and not self._drained.wait(timeout=0.05):
                pass
        finally:
            # All that Triton still does is to unload its models. A second Ctrl-C leads here as well.
            self._process.send_signal(supervisor.NOW)
            self._process.wait()
            self._resources.close()


def _explain_loss(report: Report) -> str:
    name = repr(report["name"]) if report["name"] else "of a model"
    if report["stopped"]:
        return f"process {name} was stopped (SIGSTOP) for {supervisor.STOPPED_SECONDS:g} s; the server was ended"
    how = _how(os.waitstatus_to_exitcode(report["status"]))
    cause = ", perhaps for lack of memory" if how == signal.SIGKILL.name else ""
    return f"process {name} ended ({how}{cause}); the server was ended"


def _how(code: int) -> str:
    """Return the name of the signal (negative) or the exit code."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
