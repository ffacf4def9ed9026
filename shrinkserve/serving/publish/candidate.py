"""Load a version into a live server under another name, and unload it in any case."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import MODEL
from shrinkserve.config import ServingConfig
from shrinkserve.errors import RequestError
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.model_config import LABELS
from shrinkserve.serving.names import CANDIDATE
from shrinkserve.serving.publish.version_files import VersionFiles, check_predictions
from shrinkserve.serving.publish.watch import DONE, Candidate
from shrinkserve.serving.repository.activation import default_engine_config, labels_file, other_engine_config
from shrinkserve.serving.repository.writer import Repository

PACKAGES = Path(__file__).parents[3]
"""The folder that the package is imported from."""


@contextmanager
def candidate_loaded(
    client: Client,
    repository: Repository,
    version: VersionFiles,
    options: ServingConfig | None,
    token: str | None = None,
) -> Iterator[str]:
    """Load a version from memory into a live server under another name, with the options of the active version.

    The candidate is unloaded at the end of the block. If this process is killed, another process unloads it.

    Args:
        client: of the live server.
        repository: the repository that the server loads from.
        version: the version.
        options: serving options; None takes those of the repository.
        token: of the client, for the process that survives this one.

    Yields:
        The candidate's name.

    Raises:
        RequestError: it does not load.
        ParityError: the server predicts differently from the file.
    """
    candidate = f"{version.card.name}{CANDIDATE}"
    config, names = _candidate_config(client, repository, version, options)
    files = {f"1/{file}": version.read(file) for file in names}
    with _unloaded_if_killed(Candidate(client.url, token, str(repository.root.resolve()), candidate)):
        try:
            client.load(candidate, config, {**files, LABELS: labels_file(version.card.classes)})
            check_predictions(client, candidate, version)
            yield candidate
        finally:
            with suppress(RequestError):  # never loaded, or the server is gone, which the caller finds out anyway
                client.unload(candidate)


@contextmanager
def _unloaded_if_killed(candidate: Candidate) -> Iterator[None]:
    """Run a process that unloads the candidate if this one ends within the block."""
    command = [sys.executable, "-m", "shrinkserve.serving.publish.watch"]
    # The working directory is first on the path of `-m`, and its modules must not be imported. The token is passed
    # through a pipe, as other users can read a command line.
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, cwd=PACKAGES, start_new_session=True)
    assert watcher.stdin is not None
    try:
        watcher.stdin.write(json.dumps(asdict(candidate)) + "\n")
        watcher.stdin.flush()
        yield
    finally:
        with suppress(OSError):  # the watcher is gone
            watcher.stdin.write(DONE)
            watcher.stdin.close()
        watcher.wait()


def _candidate_config(
    client: Client, repository: Repository, version: VersionFiles, options: ServingConfig | None
) -> tuple[pb.ModelConfig, set[str]]:
    """Return the configuration of a version under the candidate's name, and the names of the files it needs."""
    card = version.card
    folder = repository.root / card.name
    base = default_engine_config(folder, 1, card, options)
    base.name = f"{card.name}{CANDIDATE}"
    served = card.name in repository.models() and card.name in client.models()
    engine = version.engine(client.model_info(card.name)) if served else None
    if engine is None:
        return base, {MODEL}
    return other_engine_config(folder, engine, base, options), engine.files
