"""Run a program so that it and all its processes end together with the process that started it.

`python supervisor.py PARENT_PID FOLDER REPORT PROGRAM [ARGUMENT ...]` runs the program in its own session and exits
with the program's exit code, or with 128 plus the signal's number, as a shell does. FOLDER is the program's temporary
folder. The supervisor locks it. At the end it removes it, and the shared memory whose names begin with
``region_prefix(FOLDER)``: Triton leaves it when it is killed or when it loads models. If the supervisor itself is
killed, the next start of a server finds the folder unlocked and removes both (`leftovers`).

Signals: SIGTERM is passed on, so the program ends in order. SIGUSR1 kills the program at once. The end of the process
PARENT_PID counts as SIGTERM, however it ended. Processes that the program leaves behind become children of the
supervisor. They get `ORPHAN_SECONDS` to end, then they are killed and reaped, so not even a zombie stays.

REPORT is a file descriptor, or 0 for none. With it, the supervisor also watches the program's child processes. If one
of them dies or is stopped, the supervisor writes one JSON object (`Report`) and ends the program.

This is a program and not a module of the server because code between fork and exec is unsafe in a process with
threads, and because the process that reaps orphans must not be the caller's. It uses the standard library only.
"""

from __future__ import annotations

import ctypes
import fcntl
import glob
import json
import os
import resource
import select
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TypedDict

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
NOW = signal.SIGUSR1
SIGNALS = (signal.SIGTERM, NOW, signal.SIGALRM, signal.SIGCHLD)
ORDER_SECONDS = 10
"""Time in which the program may end in order."""
LOSS_SECONDS = 5
"""The same after a process of the program died: requests to other models may still finish."""
ORPHAN_SECONDS = 3
"""Time in which processes that the program leaves behind may end by themselves."""
TICK = 0.5
"""Seconds between two looks at the program's processes."""
DEAD_SECONDS = 1.0
"""A child that failed and is not reaped for this long is a loss: Triton reaps at once those that it ends itself."""
STOPPED_SECONDS = 5.0
"""A child that is stopped (SIGSTOP) for this long is a loss."""
FILES = 1024
"""Open files that the program may have, unless the hard limit is lower."""
CANDIDATE_PART = ".candidate_"
"""Part of the name of processes whose loss is ignored: a version that a publisher tests must not end the server."""
LOCK = "supervisor.lock"
"""File in FOLDER."""
REGIONS = Path("/dev/shm")  # noqa: S108 - the kernel's place for shared memory


class Report(TypedDict):
    """The loss of one of the program's processes."""

    name: str
    stopped: bool
    status: int


class Watch:
    """Look at a program and its child processes.

    Args:
        program: its process id.
    """

    def __init__(self, program: int) -> None:
        self._program = program
        self._names = {program: "tritonserver"}
        self._since: dict[tuple[int, str], float] = {}

    def loss(self) -> Report | None:
        """Return the first process that is dead or stopped for too long: a child, or the program itself."""
        seen = set()
        for pid in (self._program, *_children(self._program)):
            state, status = _state(pid)
            if pid != self._program:
                self._names[pid] = _name(pid) or self._names.get(pid, "")  # a dead one has no name any more
            if state not in "ZT" or CANDIDATE_PART in self._names[pid]:
                continue
            seen.add((pid, state))
            since = self._since.setdefault((pid, state), time.monotonic())
            limit = STOPPED_SECONDS if state == "T" else DEAD_SECONDS if status else ORDER_SECONDS
            if time.monotonic() - since >= limit:
                return Report(name=self._names.get(pid, ""), stopped=state == "T", status=status)
        self._since = {key: since for key, since in self._since.items() if key in seen}
        return None


class Supervised:
    """The program while it runs, and the processes that it leaves behind.

    Args:
        program: path and arguments.
        parent: process id whose end ends the program.
        report: file descriptor for a `Report`; 0 for none.
    """

    def __init__(self, program: list[str], parent: int, report: int = 0) -> None:
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # so that none is lost before its handler is in place
        self._report, self._parent = report, parent
        self._ending = False
        supervisor = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            os.setsid()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            _end_with(supervisor)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            if 0 <= soft < FILES:  # negative: no limit. Triton accepts no connection when it has no file left
                resource.setrlimit(resource.RLIMIT_NOFILE, (FILES if hard < 0 else min(FILES, hard), hard))
            os.execv(program[0], program)  # noqa: S606 - an argument list, no shell
        self._runs = True
        self._watch = Watch(self._pid)
        self._wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGTERM, self._end_in_order)
        signal.signal(NOW, self._end_now)
        signal.signal(signal.SIGALRM, self._end_now)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # wakes `select`
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def wait(self) -> int:
        """Reap the program and its orphans; return the program's exit code, negative for a signal."""
        code, watched = 0, [self._wake, *_end_of(self._parent)]
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == self._pid:
                code = os.waitstatus_to_exitcode(status)
                self._program_ended()
            elif pid == 0:
                ready, _, _ = select.select(watched, [], [], TICK)
                self._look(parent_ended=ready not in ([], [self._wake]))
                watched = [handle for handle in watched if handle == self._wake or handle not in ready]
                if self._wake in ready:
                    os.read(self._wake, 4096)
        return code

    def _look(self, *, parent_ended: bool) -> None:
        """Note the end of the parent, and the loss of a process."""
        if not self._runs:
            return
        if (parent_ended or os.getppid() != self._parent) and not self._ending:
            self._end_in_order()
        if self._report and not self._ending and (loss := self._watch.loss()):
            with suppress(OSError):  # its reader has ended
                os.write(self._report, json.dumps(loss).encode())
            self._end_in_order(seconds=LOSS_SECONDS)

    def _program_ended(self) -> None:
        self._runs, self._ending = False, True
        signal.alarm(ORPHAN_SECONDS)

    def _end_in_order(self, _number: int = 0, _frame: FrameType | None = None, *, seconds: int = ORDER_SECONDS) -> None:
        self._ending = True
        if self._runs:
            self._send(signal.SIGTERM)
            signal.alarm(seconds)

    def _end_now(self, _number: int, _frame: FrameType | None) -> None:
        self._ending = True
        if self._runs:
            self._send(signal.SIGKILL)
        else:
            with suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)

    def _send(self, number: int) -> None:
        with suppress(ProcessLookupError):  # it has ended just now
            os.kill(self._pid, number)


def _end_of(pid: int) -> list[int]:
    """Return a handle that can be read when a process ends; none where the kernel has no such handles."""
    try:
        return [os.pidfd_open(pid)]
    except OSError:  # then `getppid` shows the end, a tick later
        return []


def _children(parent: int) -> list[int]:
    """Return the child processes of a process."""
    if Path("/proc/self/task", str(os.getpid()), "children").exists():  # not in every kernel
        lists = []
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):  # the thread has ended
                lists += path.read_text().split()
        return [int(pid) for pid in lists]
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            if int(status.read_text().rpartition(")")[2].split()[1]) == parent:  # after a name with any characters
                found.append(int(status.parent.name))
    return found


def _state(pid: int) -> tuple[str, int]:
    """Return a process's state, such as Z or T, and its wait status if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # its name may contain anything
    except OSError:
        return "X", 0
    return fields[0], int(fields[-1])


def _name(pid: int) -> str:
    """Return the model instance of a process of Triton's Python backend; "" for another process."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return ""
    # stub, model, shared memory, two sizes, parent, backend, handle, instance, ...
    return words[8].decode(errors="replace") if len(words) > 8 else ""


def region_prefix(folder: Path) -> str:
    """Return the beginning of the names of shared memory that belongs to a server with this temporary folder."""
    return f"triton_{folder.name}_"


def remove_regions(folder: Path) -> None:
    """Remove the shared memory of a server that has ended."""
    for region in REGIONS.glob(f"{glob.escape(region_prefix(folder))}*"):
        with suppress(OSError):  # another process was faster, or it belongs to another user
            region.unlink()


def sweep(place: Path, library: str) -> None:
    """Remove the empty folders that Triton's Python backend leaves, unless a process runs that may need one.

    The backend puts them into /tmp whatever TMPDIR is, and their names do not say to which process they belong.

    Args:
        place: the folder that contains them.
        library: file name of the backend's library, which such a process has mapped.
    """
    # In this order: the owner of a folder found here still runs, or has ended.
    left = [path for path in place.glob("python_env_*") if path.stat().st_uid == os.getuid()]
    if left and not any(_has_mapped(process, library) for process in Path("/proc").glob("[0-9]*")):
        for path in left:
            with suppress(OSError):  # not empty, or another supervisor was faster
                path.rmdir()


def _has_mapped(process: Path, library: str) -> bool:
    try:
        return f"/{library}" in (process / "maps").read_text()
    except OSError:  # it has ended, or belongs to another user
        return False


def _end_with(parent: int) -> None:
    """Ask the kernel for a SIGTERM when the parent's thread ends; the supervisor has only one."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the request was in place
        os.kill(os.getpid(), signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def lock(folder: Path) -> None:
    """Lock a folder until this process ends. The file appears locked, so the folder is never taken for a leftover."""
    if folder.is_dir():
        handle = os.open(folder / f".{LOCK}", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        (folder / f".{LOCK}").rename(folder / LOCK)


def main() -> None:
    """Run the program of the command line and exit with its code."""
    parent, folder, report, *program = sys.argv[1:]
    lock(Path(folder))
    if int(report):
        os.set_inheritable(int(report), False)
    code = Supervised(program, int(parent), int(report)).wait()
    remove_regions(Path(folder))
    shutil.rmtree(folder, ignore_errors=True)
    sweep(Path("/tmp"), "libtriton_python.so")  # noqa: S108 - the backend's choice
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
