"""Publish a version, or roll back to one, in a repository and in a live server; a failure changes nothing.

The steps come in the order of their risk: check the files, load them in a scratch server, load them into the live
server as a second model that no client uses, and only then replace the model itself.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from shrinkserve.config import ServingConfig
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.serving.names import CANDIDATE, public_name
from shrinkserve.serving.publish.candidate import candidate_loaded
from shrinkserve.serving.publish.live import Live, Say, Switch
from shrinkserve.serving.publish.scratch import check_in_scratch_server, needs_other_ensemble
from shrinkserve.serving.publish.shadow import compare_shadow
from shrinkserve.serving.publish.version_files import VersionFiles
from shrinkserve.serving.repository import lock
from shrinkserve.serving.repository.verify import open_verified
from shrinkserve.serving.repository.writer import Repository


def publish_version(  # noqa: PLR0913 - options by keyword
    repository: Repository,
    source: Path,
    *,
    name: str | None = None,
    options: ServingConfig | None = None,
    initial: ServingConfig | None = None,
    encoded: bool = False,
    approximate_decoder: bool = False,
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
        approximate_decoder: also for a contract that DALI only approximates.
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
            worst = check_in_scratch_server(
                repository,
                version,
                options,
                encoded=encoded or other_ensemble,
                approximate_decoder=approximate_decoder,
            )
            say(f"scratch server: loads it and predicts as the file does (worst logit difference {worst:.1e})")
        if live is not None:
            _compare_on_live_server(repository, version, options, live, say)
        with repository.locked():
            if repository.fingerprint(name) != seen:
                what = f"{repository.root / name}: was changed while the new version was tried out"
                raise ArtifactError(what, hint="publish again to compare it with what is active now")
            switch = Switch(repository, version, live, say)
            with switch.undone_on_error():
                place = repository.add(
                    name,
                    model.path,
                    version.card,
                    options=options,
                    encoded=encoded,
                    approximate_decoder=approximate_decoder,
                    confirm=switch.confirm,
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
        switch = Switch(repository, VersionFiles(replace(card, name=name), model), live, say)
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
