"""Publish a version to a model repository and its live server, and roll back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from shrinkserve.api.arguments import REPOSITORY, WAIT_SECONDS, Say, silent
from shrinkserve.api.maintenance import open_repository
from shrinkserve.errors import ConfigError, check_range
from shrinkserve.paths import StrPath

if TYPE_CHECKING:
    from shrinkserve.config import ServingConfig
    from shrinkserve.serving.publish.live import Live
    from shrinkserve.serving.publish.shadow import ShadowLimits

LOAD_SECONDS = 600.0
"""Longest load of a model in a live server: a large engine with a warm-up for each batch size takes minutes."""


def publish(  # noqa: PLR0913 - options by keyword
    source: StrPath,
    repository: StrPath = REPOSITORY,
    *,
    name: str | None = None,
    options: ServingConfig | None = None,
    initial: ServingConfig | None = None,
    url: str | None = None,
    token: str | None = None,
    insecure: bool = False,
    data: StrPath | None = None,
    shadow: int = 0,
    max_flips: float | None = None,
    max_slowdown: float | None = None,
    scratch: bool = True,
    allow_gap: bool = False,
    approximate_decoder: bool = False,
    wait: float = WAIT_SECONDS,
    say: Say = silent,
) -> Path:
    """Publish an exported version and make it the active one. A failure changes nothing.

    Args:
        source: a folder with ``model.onnx`` and ``card.json`` that `export` wrote.
        repository: the model repository.
        name: the model's name; that of the card when None.
        options: serving options; None keeps those of the repository.
        initial: serving options of a new model, if `options` is None.
        url: the live server of the repository, ``grpc://HOST:PORT`` or ``http://HOST:PORT``.
        token: of the server's model control.
        insecure: allow sending the token without TLS to another machine.
        data: dataset with the validation images for `shadow`.
        shadow: number of requests on which the active and the new version are compared.
        max_flips: largest fraction of predictions that may differ.
        max_slowdown: largest factor by which the new version may be slower.
        scratch: load it in a scratch server first.
        allow_gap: also publish if the input size or classes change; JPEG requests then fail briefly.
        approximate_decoder: let the server decode JPEG by DALI's nearest filter if DALI lacks the filter of the
            preprocessing.
        wait: longest wait for another publisher in seconds.
        say: receives a line for each step.

    Returns:
        The version's folder.

    Raises:
        ConfigError: an invalid name, a missing option, or a gap that is not allowed.
        ArtifactError: a damaged source, or a repository that cannot be written.
        DataError: `data` has no validation images.
        ParityError: a server predicts differently from the file.
        ServerError: the scratch server cannot load it.
        RequestError: the live server cannot load it.
        GateError: the comparison exceeds `max_flips` or `max_slowdown`.

    Example::

        shrinkserve.publish("exported/digits", "model_repository", url="grpc://127.0.0.1:8001", token="...")
    """
    from shrinkserve.artifact import check_name, read_card
    from shrinkserve.serving.names import classifier_name
    from shrinkserve.serving.publish.publish import publish_version
    from shrinkserve.serving.publish.shadow import ShadowLimits
    from shrinkserve.serving.server.launch import importable

    check_range(0, shadow=shadow, max_slowdown=max_slowdown, wait=wait)
    check_range(0, 1, max_flips=max_flips)
    if shadow and (url is None or data is None):
        raise ConfigError("--shadow", expected="--url of the server and --data with the images to send")
    if not shadow and (max_flips is not None or max_slowdown is not None):
        raise ConfigError("--max-flips and --max-slowdown", expected="--shadow with the number of requests to compare")
    model = classifier_name(name or read_card(Path(source), "onnx", verify=False).name)
    check_name(model)
    images = _validation_images(data, shadow) if data is not None else []
    limits = ShadowLimits(max_flips, max_slowdown)
    with _live(url, token, images, limits, insecure=insecure, allow_gap=allow_gap) as live:
        return publish_version(
            open_repository(repository, wait, say),
            Path(source),
            name=model,
            options=options,
            initial=initial,
            encoded=importable("nvidia.dali"),
            approximate_decoder=approximate_decoder,
            scratch=scratch,
            live=live,
            say=say,
        )


def rollback(
    name: str,
    repository: StrPath = REPOSITORY,
    *,
    to: int | None = None,
    url: str | None = None,
    token: str | None = None,
    insecure: bool = False,
    wait: float = WAIT_SECONDS,
    say: Say = silent,
) -> int:
    """Make an older version the active one.

    Args:
        name: the model's name.
        repository: the model repository.
        to: the version; the one before the active one when None.
        url: the live server of the repository.
        token: of the server's model control.
        insecure: allow sending the token without TLS to another machine.
        wait: longest wait for another publisher in seconds.
        say: receives a line for each step.

    Returns:
        The active version.

    Raises:
        ConfigError: no such model or version, or no older one.
        ArtifactError: a damaged version, or a repository that cannot be written.
        RequestError: the live server cannot load it; the active version stays active.

    Example::

        version = shrinkserve.rollback("digits", "model_repository", to=1)
    """
    from shrinkserve.serving.publish.publish import roll_back_version

    with _live(url, token, insecure=insecure) as live:
        return roll_back_version(open_repository(repository, wait, say), name, to, live, say)


@contextmanager
def _live(
    url: str | None,
    token: str | None,
    images: list[bytes] | None = None,
    limits: ShadowLimits | None = None,
    *,
    insecure: bool = False,
    allow_gap: bool = False,
) -> Iterator[Live | None]:
    """Yield the server of a URL, or None without one."""
    from shrinkserve.serving.client.client import Client
    from shrinkserve.serving.publish.live import Live
    from shrinkserve.serving.publish.shadow import ShadowLimits

    if url is None:
        yield None
        return
    with Client(url, token=token, insecure=insecure, timeout=LOAD_SECONDS) as client:
        yield Live(client, images or [], limits or ShadowLimits(), allow_gap=allow_gap, token=token)


def _validation_images(data: StrPath, count: int) -> list[bytes]:
    from shrinkserve.data import open_dataset

    dataset = open_dataset(Path(data), "validation")
    return [dataset.record(index).encoded for index in range(min(count, len(dataset)))]
