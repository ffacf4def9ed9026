"""Bring a new version into a repository, and into a server that is answering requests, or change nothing.

Every step can refuse the version; what was done until then is undone. The order is that of rising risk: files, a
scratch server that nobody uses, a second model in the live server that nobody asks, and only then the model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from shrinkserve.config import ServingConfig
from shrinkserve.errors import ConfigError, RequestError
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.names import CANDIDATE, names_of_ensemble, public_name
from shrinkserve.serving.publish.candidate import (
    VersionFiles,
    candidate_loaded,
    decodes_anew,
    in_scratch_server,
    worst_difference,
)
from shrinkserve.serving.publish.shadow import ShadowLimits, compare_shadow
from shrinkserve.serving.repository import ensemble
from shrinkserve.serving.repository.verify import open_verified
from shrinkserve.serving.repository.writer import Repository

Say = Callable[[str], None]


@dataclass(frozen=True)
class Live:
    """The server that answers from the repository, and how it tries a version out.

    Attributes:
        client: a client that may load models.
        images: encoded images that both versions are asked about; none to skip the comparison.
        limits: what the new version must hold in the comparison.
        allow_gap: take also a version for which it refuses encoded images for a moment, as its ensemble changes.
    """

    client: Client
    images: Sequence[bytes] = ()
    limits: ShadowLimits = field(default_factory=ShadowLimits)
    allow_gap: bool = False


def publish(
    repository: Repository,
    source: Path,
    *,
    name: str | None = None,
    options: ServingConfig | None = None,
    encoded: bool = False,
    scratch: bool = True,
    live: Live | None = None,
    say: Say = lambda _: None,
) -> Path:
    """Publish what `export` wrote as the version that answers.

    Args:
        repository: where to.
        source: a folder with ``model.onnx`` and ``card.json``.
        name: the model's name; that of the card when None.
        options: how it is run; None keeps what is configured.
        encoded: have a model that is new here take encoded images as well; one that is here stays as it is.
        scratch: load it in a server of its own first, and compare its answers with the file's.
        live: the server to bring it into.
        say: is told what was done, a line a step.

    Returns:
        The version's folder.

    Raises:
        ConfigError: a name that cannot be, or a gap that is not allowed.
        ArtifactError: a damaged source, or a repository that cannot be written.
        ParityError: a server answers differently from the file.
        ServerError: the scratch server cannot load it.
        RequestError: the live server cannot load it.
        GateError: the comparison with the version before missed a limit.
    """
    card, model = open_verified(source)
    name = repository.classifier_or_new(name or card.name)
    if name.endswith(CANDIDATE):
        raise ConfigError("model name", expected=f"one that does not end in {CANDIDATE}", found=name)
    version = VersionFiles(replace(card, name=name), model)
    say(f"verified {source}: sha256 as in its card ({len(card.files)}), weights {card.weights_sha256[:12]}")
    with repository.locked(say):
        encoded = encoded and not (repository.root / name).exists()
        anew = decodes_anew(repository, version.card)
        if anew and live is not None and not live.allow_gap:
            raise _gap(name)
        if scratch:
            decoding = encoded or anew
            worst = in_scratch_server(repository, version, options, encoded=decoding)
            say(f"scratch server: loads, and answers as the file does (worst logit difference {worst:.1e})")
        if live is not None:
            _try_beside(repository, version, options, live, say)
        return _switch(repository, version, options, live, say, encoded=encoded)


def _gap(name: str) -> ConfigError:
    return ConfigError(
        f"{public_name(name)}: JPEG would be refused for a moment, as the ensemble changes, too",
        expected="the preprocessing and classes of the version that answers",
        found="others",
        hint="publish it under a name of its own (--name), or allow the gap (--allow-gap)",
    )


def roll_back(
    repository: Repository,
    name: str,
    version: int | None = None,
    live: Live | None = None,
    say: Say = lambda _: None,
) -> int:
    """Make an older version the one that answers; the one before the present one when `version` is None.

    Args:
        repository: that holds it.
        name: the model's.
        version: which.
        live: the server that answers from the repository.
        say: is told what the server answers with now.

    Returns:
        The version that answers now.

    Raises:
        ConfigError: no such model or version, or none before.
        ArtifactError: a damaged version.
        RequestError: the live server cannot load it; the present one goes on answering.
    """
    name = repository.classifier(name)
    with repository.locked(say):
        version = version or repository.version_before(name)
        card, model = open_verified(repository.known_version(name, version))
        with _undone_on_failure(repository, name, live):
            before = ensemble.state(repository.root, name)
            precision = _precision(repository, name, live)
            repository.activate(name, version)
            if live is not None:
                _load(live.client, repository, name, before)
                say(_confirm(live.client, version, VersionFiles(replace(card, name=name), model), precision))
    return version


def _try_beside(
    repository: Repository, version: VersionFiles, options: ServingConfig | None, live: Live, say: Say
) -> None:
    """Load the version under another name into the live server, and compare it with the one that answers."""
    name = version.card.name
    with candidate_loaded(live.client, repository, version, options) as candidate:
        say(f"live server: loads it beside as {candidate}, warmed")
        if live.images and name in repository.models():
            result = compare_shadow(live.client, name, candidate, live.images)
            say(str(result))
            live.limits.check(result)


def _switch(
    repository: Repository,
    version: VersionFiles,
    options: ServingConfig | None,
    live: Live | None,
    say: Say,
    *,
    encoded: bool,
) -> Path:
    card = version.card
    with _undone_on_failure(repository, card.name, live):
        before = ensemble.state(repository.root, card.name)
        precision = _precision(repository, card.name, live)
        place = repository.add(card.name, version.model.path, card, options=options, encoded=encoded)
        if live is not None:
            _load(live.client, repository, card.name, before)
            say(_confirm(live.client, int(place.name), version, precision))
    say(f"published {place}")
    return place


@contextmanager
def _undone_on_failure(repository: Repository, name: str, live: Live | None) -> Iterator[None]:
    before = repository.snapshot(name)
    try:
        yield
    except BaseException:
        failed = ensemble.state(repository.root, name)
        repository.restore(name, before)
        if live is not None:
            _restore(live.client, repository, name, failed, new=before is None)
        raise


def _restore(client: Client, repository: Repository, name: str, failed: list[bytes], *, new: bool) -> None:
    """Have a server serve what it did before; the fault that brought us here is the one to tell."""
    if not new:
        with suppress(RequestError):
            _load(client, repository, name, failed)
        return
    for part in reversed(names_of_ensemble(name)):
        with suppress(RequestError):
            client.unload(part)


def _load(client: Client, repository: Repository, name: str, before: list[bytes]) -> None:
    """Have a server load what the repository now holds of a model, given `jpeg.state` of what it loaded last."""
    # With an ensemble, Triton loads what it is made of.
    client.load(name if ensemble.state(repository.root, name) == before else public_name(name))


def _precision(repository: Repository, name: str, live: Live | None) -> str | None:
    """That of the answers so far; None without a server, or where it does not serve the model yet."""
    if live is not None and name in repository.models():
        with suppress(RequestError):
            return live.client.model_info(name).precision
    return None


def _confirm(client: Client, number: int, version: VersionFiles, precision: str | None) -> str:
    """Check that the server answers with what it was to load; says so, and whether not in `precision` as before.

    Raises:
        RequestError: it answers with another: it serves another repository.
        ParityError: it answers differently from the file.
    """
    card = version.card
    contract = client.model_info(card.name)
    if (contract.version, contract.weights_sha256) != (number, card.weights_sha256):
        raise RequestError(
            f"{client.url}: does not answer from this repository",
            expected=f"version {number}, weights {card.weights_sha256[:12]}",
            found=f"version {contract.version}, weights {contract.weights_sha256[:12]}",
            hint="name the URL of the server that serves it",
        )
    worst_difference(client, card.name, version)
    said = f"live server: version {number} answers"
    if precision in {None, contract.precision}:
        return said
    # Triton runs a version by its default engine when it has none of the name that the server was started with.
    return f"{said} in {contract.precision}, not {precision} as the one before: not both have the engine that is served"
