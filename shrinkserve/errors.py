"""What a user can get wrong, as one tree.

```
ShrinkServeError            a person can act on it: one line, exit code 2
├── ConfigError             an option, a recipe key, a precision, a name
├── SpecError               a network description or a .prototxt that does not hold together
├── DataError               missing, unreadable or damaged images, records, label files
├── ArtifactError           a run, card, checkpoint or model file that is missing, damaged or of another kind
├── ParityError             a conversion whose answers are not those of what it came from
├── ServerError             a tritonserver that cannot be had, started or kept running
└── RequestError            a server that is not there, or a request that it refuses
GateError                   everything worked and the figures miss what was asked: exit code 1
```

A bug is not in this tree: it keeps its traceback. Messages follow one form, made by the constructor:
what happened, what was expected against what was found, what to do next.
"""

from __future__ import annotations


class ShrinkServeError(Exception):
    """A fault the user can mend.

    Args:
        what: what happened and where, e.g. ``"runs/digits/card.json: sha256 does not match"``.
        expected: what would have been right.
        found: what was there instead.
        do: the next step, as an instruction or a command.
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
    """An option, recipe key, precision or name that is not known or not allowed."""


class SpecError(ShrinkServeError):
    """A network description that does not hold together."""


class DataError(ShrinkServeError):
    """Images, records or label files that are missing, unreadable or damaged."""


class ArtifactError(ShrinkServeError):
    """A run, card, checkpoint or model file that is missing, damaged or of another kind."""


class ParityError(ShrinkServeError):
    """A conversion whose answers differ from those of what it came from."""


class ServerError(ShrinkServeError):
    """A tritonserver that cannot be found, fetched, started or kept running."""


class RequestError(ShrinkServeError):
    """A server that does not answer, or a request that it refuses."""


class GateError(ShrinkServeError):
    """The measurement worked; its figures miss what was asked."""

    exit_code = 1
