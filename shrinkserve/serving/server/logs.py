"""Write Triton's log to files that rotate, and read the reason of a failure from it."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

from shrinkserve.errors import ServerError

MAX_BYTES = 10 << 20
KEPT = 3
"""Number of older files."""

# Lines such as
#   error: creating server: Invalid argument - load failed for model 'digits': version 1 is at UNAVAILABLE state:
#     Internal: ModuleNotFoundError: ...;
#   E1125 ... model_lifecycle.cc:642] "failed to load 'digits' version 1: Internal: ...\n\nAt:\n ..."
#   E1125 ... main.cc:... "failed to start HTTP service: Unavailable - Socket '127.0.0.1:8000' already in use"
_LOAD = re.compile(r"load failed for model '(?P<model>[^']+)': (?P<why>.+?)(?:;\s*$|\n\n|\Z)", re.DOTALL | re.MULTILINE)
_VERSION = re.compile(r"version \d+ is at UNAVAILABLE state: ")
_FAILED = re.compile(r"\"failed to load '(?P<model>[^']+)' version \d+: (?P<why>.+?)(?:\\n\\nAt:|\"$)", re.MULTILINE)
_SERVICE = re.compile(r"failed to start (?P<service>\w+) service: (?P<why>[^\"\n]+)")
_POLL = re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<why>[^\"\n]+)")
_ABORT = re.compile(r"^terminate called after throwing .*\n\s*what\(\): +(?P<why>.+)$", re.MULTILINE)
_OTHER = re.compile(r"^error: (?P<why>.+)$", re.MULTILINE)


@contextmanager
def rotating_log(path: Path) -> Iterator[logging.Logger]:
    """Return a logger that appends lines to `path`; full files are renamed to ``.1``, ``.2``, ...

    Raises:
        ServerError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_fifo():
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))  # fails without a reader, for which `open` would wait
        handler = _LogFile(path, maxBytes=MAX_BYTES, backupCount=KEPT, encoding="utf-8")
    except OSError as exc:
        blocked = isinstance(exc, FileExistsError | NotADirectoryError)
        reason = f"{path.parent} is not a folder" if blocked else exc.strerror
        raise ServerError(f"{path}: the log cannot be written ({reason})", hint="give another --log-file") from exc
    logger = logging.Logger("tritonserver")  # not in the tree of loggers, because it belongs to one server
    logger.addHandler(handler)
    try:
        yield logger
    finally:
        with suppress(OSError):  # what is left to write does not fit
            handler.close()


class _LogFile(RotatingFileHandler):
    """Reports the first line that cannot be written, e.g. on a full disk; the server goes on."""

    _failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002 - logging's name
        error = sys.exc_info()[1]
        if not self._failed:
            print(f"warning: {self.baseFilename}: the log cannot be written ({error})", file=sys.stderr, flush=True)
        self._failed = True


def explain(lines: Iterable[str]) -> str | None:
    """Return why a tritonserver ended, from its last lines; None if they do not tell."""
    text = "".join(lines)
    if found := _LOAD.search(text) or _FAILED.search(text) or _POLL.search(text):
        reason = _VERSION.sub("", found["why"]).split("\n\nAt:")[0]
        return f"model {found['model']!r} cannot be loaded: {' '.join(reason.split())}"
    if found := _SERVICE.search(text):
        return f"tritonserver cannot start its {found['service']} service: {found['why'].strip()}"
    if found := _OTHER.search(text) or _ABORT.search(text):
        return f"tritonserver: {found['why']}"
    return None
