"""Commands that read a model repository, as functions: list, show and verify."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from shrinkserve.api.arguments import REPOSITORY
from shrinkserve.errors import ArtifactError, ShrinkServeError
from shrinkserve.paths import StrPath

if TYPE_CHECKING:
    from shrinkserve.artifact import Card
    from shrinkserve.containers import Container
    from shrinkserve.serving.repository.reader import RepositoryReader
    from shrinkserve.serving.repository.writer import Repository


@dataclass(frozen=True)
class ModelSummary:
    """One model of a repository.

    Attributes:
        name: its public name.
        takes: the accepted inputs: ``"JPEG"``, ``"pixels"``.
        active: the active version.
        versions: all versions.
        size: input height and width in pixels.
        classes: number of classes.
        precision: of the default engine.
        top1: measured accuracy as a fraction; None if it was not measured.
        created: UTC time of the export, ISO 8601; "" if unknown.
    """

    name: str
    takes: list[str]
    active: int
    versions: list[int]
    size: int
    classes: int
    precision: str
    top1: float | None
    created: str


@dataclass(frozen=True)
class Verification:
    """Result of `verify_repository` for one model.

    Attributes:
        name: its public name.
        versions: its versions.
        problems: one line for each problem; empty if there is none.
        warning: why serving the model runs foreign code; "" if it does not.
        notes: what the container of the documents cannot load.
    """

    name: str
    versions: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warning: str = ""
    notes: list[str] = field(default_factory=list)


def list_models(repository: StrPath = REPOSITORY) -> list[ModelSummary]:
    """Return a summary of each model of a repository.

    Args:
        repository: the model repository.

    Returns:
        One summary for each model, in the order of their names.

    Raises:
        ArtifactError: no such repository, or a card or configuration that cannot be read.

    Example::

        for model in shrinkserve.list_models("model_repository"):
            print(model.name, model.active, model.versions)
    """
    from shrinkserve.serving.repository.reader import RepositoryReader

    reader = RepositoryReader(Path(repository))
    return [_summary(reader, name) for name in reader.classifiers()]


def show_version(name: str, repository: StrPath = REPOSITORY, *, version: int | None = None) -> tuple[Card, str]:
    """Return the card of a version and the text of the model's configuration.

    Args:
        name: the model's name.
        repository: the model repository.
        version: its number; the active one when None.

    Returns:
        The card, and the text of ``config.pbtxt``.

    Raises:
        ConfigError: no such model or version.
        ArtifactError: a damaged version, or a configuration that cannot be read.

    Example::

        card, config = shrinkserve.show_version("digits", "model_repository", version=2)
    """
    from shrinkserve.serving import config_text
    from shrinkserve.serving.repository.reader import RepositoryReader

    reader = RepositoryReader(Path(repository))
    model = reader.classifier(name)
    card = reader.card(model, reader.active(model) if version is None else version)
    return card, config_text.to_text(reader.config(model))


def verify_repository(
    repository: StrPath = REPOSITORY, *, name: str | None = None, container: str | None = None
) -> list[Verification]:
    """Check files against cards, and configurations against graphs.

    Args:
        repository: the model repository.
        name: the model's name; all models when None.
        container: tag of the NVIDIA container that has to load the files, e.g. ``"26.06"``: what it cannot load is a
            problem. By default what the container of the documents cannot load is a note.

    Returns:
        One result for each model; with `name` None also for each foreign model that runs code.

    Raises:
        ConfigError: no such model or container.
        ArtifactError: no such repository, or none of our models in it.

    Example::

        problems = [line for model in shrinkserve.verify_repository("models") for line in model.problems]
    """
    from shrinkserve.containers import CURRENT, find_container
    from shrinkserve.serving.names import models_behind
    from shrinkserve.serving.repository.trust import runs_code
    from shrinkserve.serving.repository.writer import Repository

    chosen = CURRENT if container is None else find_container(container)
    opened = Repository(Path(repository))
    results = [_verified(opened, model, chosen, strict=container is not None) for model in chosen_models(opened, name)]
    ours = {part for model in opened.classifiers() for part in models_behind(model)}
    foreign = [] if name else sorted(set(opened.models()) - ours)
    results += [Verification(model, warning=why) for model in foreign if (why := runs_code(opened.root / model))]
    return results


def _verified(opened: Repository, model: str, container: Container, *, strict: bool) -> Verification:
    """Check one classifier; with `strict`, what a container cannot load is a problem, otherwise a note."""
    from shrinkserve.serving.names import public_name
    from shrinkserve.serving.repository.container_fit import misfits
    from shrinkserve.serving.repository.verify import problems

    found = list(problems(opened, model))
    try:
        notes = [f"{one.subject}: {one.what}; {one.hint}" for one in misfits(opened, model, container)]
    except ShrinkServeError:  # among the problems
        notes = []
    return Verification(
        public_name(model),
        opened.versions(model),
        [*found, *notes] if strict else found,
        notes=[] if strict else notes,
    )


def chosen_models(opened: Repository, name: str | None) -> list[str]:
    """Return Triton's name of a model's classifier, or of all classifiers of a repository that has some."""
    found = opened.classifiers() if name is None else [opened.classifier(name)]
    if not found:
        raise ArtifactError(f"{opened.root}: no model in this repository", hint="make one with `shrinkserve export`")
    return found


def _summary(reader: RepositoryReader, name: str) -> ModelSummary:
    from shrinkserve.preprocess import Preprocess
    from shrinkserve.serving import model_config, names
    from shrinkserve.serving.repository import ensemble

    config = reader.config(name)
    active = model_config.active_version(config)
    card = reader.card(name, active, verify=False)
    top1 = card.metrics.get("top1")
    return ModelSummary(
        name=names.public_name(name),
        takes=["JPEG", "pixels"] if ensemble.takes_encoded(reader.root, name) else ["pixels"],
        active=active,
        versions=reader.versions(name),
        size=Preprocess.from_dict(card.preprocess).size,
        classes=len(card.classes),
        precision=model_config.parameters(config).get("precision", "unknown"),
        top1=float(top1) if isinstance(top1, int | float) else None,
        created=card.created,
    )
