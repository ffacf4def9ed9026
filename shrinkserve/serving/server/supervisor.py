"""Run a program so that it, and all that it starts, ends with the process that asked for it.

`python guard.py PARENT_PID FOLDER PROGRAM [ARGUMENT ...]` runs the program in a session of its own and ends as it
ends; it removes FOLDER, which is the program's for as long as it runs, and what Triton leaves elsewhere.

SIGTERM is passed on, for an end in order; SIGUSR1 ends the program at once. The kernel sends us SIGTERM when our
parent dies, however that happened. Processes that the program leaves behind become our children: they get a moment
to end by themselves, then they are killed. So nothing stays, not even a zombie where process 1 does not reap.

It is a program of its own, because code between fork and exec is unsafe in a process that has threads, and because
being the reaper of orphans must not change the caller's process. To the kernel, the "parent" is the thread that
started us: servers are to be started from one that lasts.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
NOW = signal.SIGUSR1
SIGNALS = (signal.SIGTERM, NOW, signal.SIGALRM)
ORDER_SECONDS = 10
"""How long the program may take to end in order."""
ORPHAN_SECONDS = 3
"""How long what it leaves behind may take to end by itself."""


class Guarded:
    """The program while it runs, and what it leaves behind.

    Args:
        program: path and arguments.
        parent: the process whose death ends it.
    """

    def __init__(self, program: list[str], parent: int) -> None:
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # none is lost before its handler is in place
        guard = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            os.setsid()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            _tie_to(guard)
            os.execv(program[0], program)  # noqa: S606 - an argument list, no shell
        self._runs = True
        self._shared: set[str] = set()
        signal.signal(signal.SIGTERM, self._end_in_order)
        signal.signal(NOW, self._end_now)
        signal.signal(signal.SIGALRM, self._end_now)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        _tie_to(parent)

    def wait(self) -> int:
        """Reap the program and its orphans; the program's exit code, negative for the signal that ended it."""
        code = 0
        while True:
            try:
                pid, status = os.wait()
            except ChildProcessError:
                break
            if pid == self._pid:
                self._runs = False
                for orphan in _children():  # of a program that was killed, they know what it shared with them
                    self._shared |= _shared_memory(orphan)
                code = os.waitstatus_to_exitcode(status)
                signal.alarm(ORPHAN_SECONDS)
        for region in self._shared:
            Path(region).unlink(missing_ok=True)
        return code

    def _end_in_order(self, _number: int, _frame: FrameType | None) -> None:
        if self._runs:
            self._send(signal.SIGTERM)
            signal.alarm(ORDER_SECONDS)

    def _end_now(self, _number: int, _frame: FrameType | None) -> None:
        if self._runs:
            self._send(signal.SIGKILL)
        else:
            with suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)

    def _send(self, number: int) -> None:
        """Signal the program, and note its shared memory: a Triton that is still loading dies of a SIGTERM too."""
        with suppress(ProcessLookupError):  # it has ended just now
            os.kill(self._pid, signal.SIGSTOP)
            self._shared |= _shared_memory(self._pid)
            os.kill(self._pid, number)
            os.kill(self._pid, signal.SIGCONT)


def _children() -> list[int]:
    """Of this process, orphans that the kernel made ours among them."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            parent = status.read_text().rpartition(")")[2].split()[1]  # after a name that may hold anything
            if int(parent) == os.getpid():
                found.append(int(status.parent.name))
    return found


def _shared_memory(pid: int) -> set[str]:
    """Files of the shared memory that a Triton has mapped; it removes them only when it ends in order."""
    try:
        fields = [line.split(maxsplit=5) for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    except OSError:  # it has ended just now
        return set()
    return {name[5] for name in fields if name[5:] and name[5].startswith("/dev/shm/triton_")}  # noqa: S108 - to compare


def sweep(place: Path, library: str) -> None:
    """Remove empty folders that Triton's Python backend makes and leaves, unless a process that may need one runs.

    The backend knows no other place for them, and their names do not tell whose they are.

    Args:
        place: the folder that they are in.
        library: name of the backend's library, which such a process has mapped.
    """
    # In this order: whoever made one of these still runs, or has ended.
    left = [path for path in place.glob("python_env_*") if path.stat().st_uid == os.getuid()]
    if left and not any(_has_mapped(process, library) for process in Path("/proc").glob("[0-9]*")):
        for path in left:
            with suppress(OSError):  # not empty, or another guard was faster
                path.rmdir()


def _has_mapped(process: Path, library: str) -> bool:
    try:
        return f"/{library}" in (process / "maps").read_text()
    except OSError:  # it has ended, or is another user's
        return False


def _tie_to(parent: int) -> None:
    """Ask the kernel for a SIGTERM when the parent dies."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the request was in place
        os.kill(os.getpid(), signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def main() -> None:
    """Run the command line's program to its end; exit with its code, or 128 and the signal as a shell does."""
    parent, folder, *program = sys.argv[1:]
    code = Guarded(program, int(parent)).wait()
    shutil.rmtree(folder, ignore_errors=True)
    sweep(Path("/tmp"), "libtriton_python.so")  # noqa: S108 - where the backend makes them, whatever TMPDIR says
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
