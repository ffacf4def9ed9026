"""Errors that a user can fix. A bug raises another exception and keeps its traceback.

```
ShrinkServeError        base class; the command line prints one line and exits with code 2
├── ConfigError         invalid option, recipe key, precision or name
├── SpecError           invalid network spec or .prototxt file
├── DataError           missing, unreadable or damaged images, records or label files
├── ArtifactError       missing, damaged or unsuitable run, card, checkpoint or model file
├── ParityError         a conversion changed the model's outputs
├── ServerError         cannot find, download, start or keep a tritonserver
├── RequestError        the server cannot be reached, or it rejects a request
└── GateError           the measurement worked, but its results miss a gate; exit code 1
```

The constructor builds the message: what happened: expected ..., found ...; hint.
A message names an option as on the command line: ``--max-batch`` is the argument `max_batch` of the Python function.
"""

from __future__ import annotations

import math


class ShrinkServeError(Exception):
    """Base class for errors the user can fix.

    Args:
        what: what happened and where, e.g. ``"runs/digits/card.json: sha256 does not match"``.
        expected: a valid value, or a description of it.
        found: the invalid value.
        hint: the next step, as an instruction or a command.

    Example:
        >>> str(ConfigError("--batch", expected="at least 1", found=0, hint="omit it for the default"))
        '--batch: expected at least 1, found 0; omit it for the default'
    """

    exit_code = 2

    def __init__(self, what: str, *, expected: object = None, found: object = None, hint: str | None = None) -> None:
        contrast = [
            f"{label} {value}" for label, value in (("expected", expected), ("found", found)) if value is not None
        ]
        message = what if not contrast else f"{what}: {', '.join(contrast)}"
        super().__init__(message if hint is None else f"{message}; {hint}")
        self.what, self.expected, self.found, self.hint = what, expected, found, hint


class ConfigError(ShrinkServeError):
    """Invalid option, recipe key, precision or name."""


class SpecError(ShrinkServeError):
    """Invalid network spec or .prototxt file."""


class DataError(ShrinkServeError):
    """Missing, unreadable or damaged images, records or label files.

    Args:
        reason: what is wrong.
        where: the file, or the shard and offset; the message begins with it.
        expected: as for `ShrinkServeError`.
        found: as for `ShrinkServeError`.
        hint: as for `ShrinkServeError`.
    """

    def __init__(
        self,
        reason: str,
        *,
        where: str | None = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(reason if where is None else f"{where}: {reason}", expected=expected, found=found, hint=hint)
        self.reason, self.where = reason, where


class ArtifactError(ShrinkServeError):
    """Missing, damaged or unsuitable run, card, checkpoint or model file."""


class ParityError(ShrinkServeError):
    """A conversion changed the model's outputs."""


class ServerError(ShrinkServeError):
    """Cannot find, download, start or keep a tritonserver."""


class RequestError(ShrinkServeError):
    """The server cannot be reached, or it rejects a request."""


class GateError(ShrinkServeError):
    """The measurement worked, but its results miss a gate."""

    exit_code = 1


def check_range(least: float, most: float = math.inf, /, **arguments: float | None) -> None:
    """Check the range of arguments. None stands for a default.

    Args:
        least: the least value.
        most: the largest value.
        arguments: values by name.

    Raises:
        ConfigError: names the first argument that is out of range, or not a number.

    Example:
        >>> check_range(1, nproc=2, limit=0)
        Traceback (most recent call last):
        shrinkserve.errors.ConfigError: limit: expected at least 1, found 0
    """
    for name, value in arguments.items():
        if value is not None and not least <= value <= most:
            expected = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
            raise ConfigError(name, expected=expected, found=value)


def add_note(error: BaseException, note: str) -> None:
    """Attach a second message to an error, which the command line prints. Python 3.11 has `BaseException.add_note`."""
    error.__notes__ = [*getattr(error, "__notes__", []), note]
