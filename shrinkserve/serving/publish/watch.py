"""Unload a candidate whose publisher was killed.

Run as a process in its own session: ``python -m shrinkserve.serving.publish.watch``. Its input is one line of JSON (see
`Candidate`), then `DONE` if the publisher unloads the candidate itself.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

DONE = "done"
PAUSES = (0, 1, 4, 15)
"""Seconds before each attempt: a load that the publisher has started may come after the first."""
LOAD_SECONDS = 600
"""Longest attempt: an unload waits for the end of a load."""


@dataclass(frozen=True)
class Candidate:
    """A model to unload.

    Attributes:
        url: of the server.
        token: of the server's model control.
        repository: the folder that the publisher held the lock of.
        name: of the model.
    """

    url: str
    token: str | None = field(repr=False)
    repository: str
    name: str


def main() -> None:
    """Wait for the end of the input; unload the candidate if it ended without `DONE`."""
    candidate = Candidate(**json.loads(sys.stdin.readline()))
    if sys.stdin.read() == DONE:
        return
    from shrinkserve.errors import ShrinkServeError

    for pause in PAUSES:
        time.sleep(pause)
        with suppress(ShrinkServeError):  # the server is gone or does not know the model
            _unload(candidate)


def _unload(candidate: Candidate) -> None:
    """Unload the candidate while no other publisher can be using its name."""
    from shrinkserve.serving.client.client import Client
    from shrinkserve.serving.repository import lock

    with (
        lock.locked(Path(candidate.repository), name=lock.PUBLISH),
        Client(candidate.url, token=candidate.token, insecure=True, timeout=LOAD_SECONDS) as client,
    ):
        client.unload(candidate.name)


if __name__ == "__main__":
    main()
