"""Replace the active version in a live server, and set it back if that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from shrinkserve.errors import RequestError, add_note
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.names import model_names, models_behind
from shrinkserve.serving.publish.shadow import ShadowLimits
from shrinkserve.serving.publish.version_files import VersionFiles, check_predictions
from shrinkserve.serving.repository import ensemble
from shrinkserve.serving.repository.writer import Repository

Say = Callable[[str], None]


@dataclass(frozen=True)
class Live:
    """The server that serves a repository, and how a version is compared there.

    Attributes:
        client: a client that may load models.
        images: encoded images that both versions classify; empty to skip the comparison.
        limits: limits of the comparison.
        allow_gap: also publish a version whose ensemble changes, so that JPEG requests fail briefly.
        token: the client's token.
    """

    client: Client
    images: Sequence[bytes] = ()
    limits: ShadowLimits = field(default_factory=ShadowLimits)
    allow_gap: bool = False
    token: str | None = field(default=None, repr=False)


class Switch:
    """Load a changed model into a live server, and the previous one again if that fails.

    Args:
        repository: the repository before the change.
        version: the version that becomes active.
        live: the server; None if there is none.
        say: receives what the server runs.
    """

    def __init__(self, repository: Repository, version: VersionFiles, live: Live | None, say: Say) -> None:
        self._repository, self._version, self._live, self._say = repository, version, live, say
        self._name = version.card.name
        self._new = self._name not in repository.models()
        self._before = ensemble.state(repository.root, self._name)
        self._after: list[bytes] | None = None
        self._precision = self._served_precision()

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Set the server back if a change of the repository, which calls `confirm`, fails."""
        try:
            yield
        except BaseException as exc:
            self._undo(exc)
            raise

    def confirm(self, number: int) -> None:
        """Load the new version into the server and check what it predicts.

        Raises:
            RequestError: it does not load, or the server serves another repository.
            ParityError: the server predicts differently from the file.
        """
        if self._live is not None:
            self._after = ensemble.state(self._repository.root, self._name)
            self._load(self._live.client)
            self._say(confirm_version(self._live.client, number, self._version, self._precision))

    def _undo(self, error: BaseException) -> None:
        """Let the server serve the restored folders; its errors become notes of `error`."""
        if self._live is None or self._after is None:
            return
        try:
            if not self._new:
                self._load(self._live.client)
                return
            for part in reversed(models_behind(self._name)):
                self._live.client.unload(part)
        except RequestError as exc:
            add_note(error, f"the live server could not be set back: {exc}")

    def _load(self, client: Client) -> None:
        """Load the classifier, or the ensembles if they changed: Triton loads an ensemble's models with it."""
        known = model_names(self._name)
        for name in (self._name,) if self._after == self._before else (known.ensemble, known.text):
            client.load(name)

    def _served_precision(self) -> str | None:
        """Return the precision that the server runs now; None if it does not serve the model."""
        if self._live is None or self._new:
            return None
        try:
            return self._live.client.model_info(self._name).precision
        except RequestError:
            return None


def confirm_version(client: Client, number: int, version: VersionFiles, precision: str | None) -> str:
    """Check that the server runs the version; return what it runs, with a warning if the precision changed.

    Raises:
        RequestError: the server runs another version, so it serves another repository.
        ParityError: the server predicts differently from the file.
    """
    card = version.card
    served = client.model_info(card.name)
    if (served.version, served.weights_sha256) != (number, card.weights_sha256):
        raise RequestError(
            f"{client.url}: does not serve this repository",
            expected=f"version {number}, weights {card.weights_sha256[:12]}",
            found=f"version {served.version}, weights {served.weights_sha256[:12]}",
            hint="name the URL of the server that serves it",
        )
    check_predictions(client, card.name, version)
    if precision in {None, served.precision}:
        return f"live server: version {number} is active"
    # Triton runs the default engine of a version without the engine that the server was started with.
    return (
        f"live server: warning: version {number} is served in {served.precision} (before: {precision}), because one "
        "of the versions lacks the engine that the server runs"
    )
