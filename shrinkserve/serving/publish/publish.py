"""Publish a version, or roll back to one, in a repository and in a live server; a failure changes nothing.

The steps come in the order of their risk: check the files, load them in a scratch server, load them into the live
server as a second model that no client uses, and only then replace the model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from shrinkserve.config import ServingConfig
from shrinkserve.errors import ArtifactError, ConfigError, RequestError, add_note
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.names import CANDIDATE, names_of_ensemble, public_name
from shrinkserve.serving.publish.candidate import candidate_loaded
from shrinkserve.serving.publish.scratch import check_in_scratch_server, needs_other_ensemble
from shrinkserve.serving.publish.shadow import ShadowLimits, compare_shadow
from shrinkserve.serving.publish.version_files import VersionFiles, check_predictions
from shrinkserve.serving.repository import ensemble, lock
from shrinkserve.serving.repository.verify import open_verified
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


def publish_version(  # noqa: PLR0913 - options by keyword
    repository: Repository,
    source: Path,
    *,
    name: str | None = None,
    options: ServingConfig | None = None,
    initial: ServingConfig | None = None,
    encoded: bool = False,
    scratch: bool = True,
    live: Live | None = None,
    say: Say = lambda _: None,
) -> Path:
    """Publish a folder that `export` wrote and make it the active version.

    Args:
        repository: the model repository.
        source: a folder with ``model.onnx`` and ``card.json``.
        name: the model's name; that of the card when None.
        options: serving options; None keeps those of the repository.
        initial: serving options of a new model, if `options` is None.
        encoded: let a new model take encoded images; an existing model stays as it is.
        scratch: load it in a scratch server first and compare its predictions with the file's.
        live: the server to load it into.
        say: receives a line for each step.

    Returns:
        The version's folder.

    Raises:
        ConfigError: an invalid name, or a gap that is not allowed.
        ArtifactError: a damaged source, or a repository that cannot be written or was changed meanwhile.
        ParityError: a server predicts differently from the file.
        ServerError: the scratch server cannot load it.
        RequestError: the live server cannot load it.
        GateError: the comparison with the active version exceeds a limit.
    """
    card, model = open_verified(source)
    name = repository.classifier_or_new(name or card.name)
    if name.endswith(CANDIDATE):
        raise ConfigError("model name", expected=f"one that does not end in {CANDIDATE}", found=name)
    version = VersionFiles(replace(card, name=name), model)
    say(f"verified {source}: sha256 as in its card ({len(card.files)}), weights {card.weights_sha256[:12]}")
    # The lock of changes is free while the version is tried out, so that a rollback does not have to wait.
    with repository.locked(lock.PUBLISH):
        seen = repository.fingerprint(name)
        if not seen:
            options = options or initial
        encoded = encoded and not seen
        other_ensemble = needs_other_ensemble(repository, version.card)
        if other_ensemble and live is not None and not live.allow_gap:
            raise _gap(name)
        if scratch:
            worst = check_in_scratch_server(repository, version, options, encoded=encoded or other_ensemble)
            say(f"scratch server: loads it and predicts as the file does (worst logit difference {worst:.1e})")
        if live is not None:
            _compare_on_live_server(repository, version, options, live, say)
        with repository.locked():
            if repository.fingerprint(name) != seen:
                what = f"{repository.root / name}: was changed while the new version was tried out"
                raise ArtifactError(what, hint="publish again to compare it with what is active now")
            switch = _Switch(repository, version, live, say)
            with switch.undone_on_error():
                place = repository.add(
                    name, model.path, version.card, options=options, encoded=encoded, confirm=switch.confirm
                )
    say(f"published {place}")
    return place


def roll_back_version(
    repository: Repository,
    name: str,
    version: int | None = None,
    live: Live | None = None,
    say: Say = lambda _: None,
) -> int:
    """Make an older version the active one.

    Args:
        repository: the model repository.
        name: the model's name.
        version: its number; the one before the active one when None.
        live: the server that serves the repository.
        say: receives a line for each step.

    Returns:
        The active version.

    Raises:
        ConfigError: no such model or version, or no older one.
        ArtifactError: a damaged version.
        RequestError: the live server cannot load it; the active version stays active.
    """
    name = repository.classifier(name)
    with repository.locked():
        number = version or repository.version_before(name)
        card, model = open_verified(repository.known_version(name, number))
        switch = _Switch(repository, VersionFiles(replace(card, name=name), model), live, say)
        with switch.undone_on_error():
            repository.activate(name, number, confirm=switch.confirm)
    return number


def _gap(name: str) -> ConfigError:
    return ConfigError(
        f"{public_name(name)}: JPEG requests would fail briefly while the ensemble changes",
        expected="the preprocessing and classes of the active version",
        found="others",
        hint="publish it under another name (--name), or allow the gap (--allow-gap)",
    )


def _compare_on_live_server(
    repository: Repository, version: VersionFiles, options: ServingConfig | None, live: Live, say: Say
) -> None:
    """Load the version into the live server under another name and compare it with the active version."""
    name = version.card.name
    with candidate_loaded(live.client, repository, version, options, live.token) as candidate:
        say(f"live server: loaded and warmed up as {candidate}")
        if live.images and name in repository.models():
            result = compare_shadow(live.client, name, candidate, live.images)
            say(str(result))
            live.limits.check(result)


class _Switch:
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
            self._load(self._live.client, self._after == self._before)
            self._say(_confirm(self._live.client, number, self._version, self._precision))

    def _undo(self, error: BaseException) -> None:
        """Let the server serve the restored folders; its errors become notes of `error`."""
        if self._live is None or self._after is None:
            return
        try:
            if not self._new:
                self._load(self._live.client, self._after == self._before)
                return
            for part in reversed(names_of_ensemble(self._name)):
                self._live.client.unload(part)
        except RequestError as exc:
            add_note(error, f"the live server could not be set back: {exc}")

    def _load(self, client: Client, same_ensemble: bool) -> None:
        """Load the classifier; with a changed ensemble load that, and Triton loads its models."""
        client.load(self._name if same_ensemble else public_name(self._name))

    def _served_precision(self) -> str | None:
        """Return the precision that the server runs now; None if it does not serve the model."""
        if self._live is None or self._new:
            return None
        try:
            return self._live.client.model_info(self._name).precision
        except RequestError:
            return None


def _confirm(client: Client, number: int, version: VersionFiles, precision: str | None) -> str:
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
