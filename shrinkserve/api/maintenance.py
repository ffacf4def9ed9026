"""Commands that change the models of a repository, as functions: add JPEG, remove old versions and tune."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shrinkserve.api.arguments import REPOSITORY, WAIT_SECONDS, Say, silent
from shrinkserve.api.repository import chosen_models
from shrinkserve.errors import ConfigError, check_range
from shrinkserve.paths import StrPath

if TYPE_CHECKING:
    from shrinkserve.benchmark.tuning import Tuning
    from shrinkserve.serving.repository.writer import Repository


@dataclass(frozen=True)
class Cleanup:
    """Result of `remove_old_versions` for one model.

    Attributes:
        name: its public name.
        removed: the versions that were removed, or would be.
        active: the active version.
    """

    name: str
    removed: list[int]
    active: int


def add_jpeg(
    name: str,
    repository: StrPath = REPOSITORY,
    *,
    approximate_decoder: bool = False,
    wait: float = WAIT_SECONDS,
    say: Say = silent,
) -> list[Path]:
    """Write the DALI pipeline and the ensembles that let a model take JPEG bytes.

    Args:
        name: the model's name.
        repository: the model repository.
        approximate_decoder: also for a preprocessing whose resize filter DALI lacks: the server then decodes to other
            pixels than the client and the evaluation.
        wait: longest wait for another publisher in seconds.
        say: receives a line before a wait.

    Returns:
        The folders of the models that it wrote.

    Raises:
        ConfigError: no such model, another model has one of the names, or DALI is not installed.
        ArtifactError: a repository that cannot be written.

    Example::

        shrinkserve.add_jpeg("digits", "model_repository")
    """
    from shrinkserve.serving.names import model_names

    writer = open_repository(repository, wait, say)
    model = writer.classifier(name)
    writer.add_jpeg(model, approximate_decoder=approximate_decoder)
    return [writer.root / part for part in model_names(model).derived]


def remove_old_versions(
    repository: StrPath = REPOSITORY,
    *,
    name: str | None = None,
    keep: int = 2,
    dry_run: bool = False,
    wait: float = WAIT_SECONDS,
    say: Say = silent,
) -> list[Cleanup]:
    """Remove old versions. The active version and the newest others stay.

    Args:
        repository: the model repository.
        name: the model's name; all models when None.
        keep: number of versions to keep besides the active one.
        dry_run: remove nothing.
        wait: longest wait for another publisher in seconds.
        say: receives a line before a wait.

    Returns:
        One result for each model.

    Raises:
        ConfigError: no such model, or `keep` is negative.
        ArtifactError: no such repository, none of our models in it, or it cannot be written.

    Example::

        for model in shrinkserve.remove_old_versions("model_repository", keep=2, dry_run=True):
            print(model.name, model.removed)
    """
    from shrinkserve.serving.names import public_name

    check_range(0, keep=keep)
    writer = open_repository(repository, wait, say)
    chosen_models(writer, name)  # before the lock, which would make the folder
    results = []
    with writer.locked():
        for model in chosen_models(writer, name):
            active = writer.active(model)
            others = [version for version in writer.versions(model) if version != active]
            surplus = others[: len(others) - keep] if keep < len(others) else []
            if surplus and not dry_run:
                writer.remove(model, surplus)
            results.append(Cleanup(public_name(model), surplus, active))
    return results


def tune_model(
    name: str, repository: StrPath = REPOSITORY, *, slo: str, wait: float = WAIT_SECONDS, say: Say = silent
) -> Tuning:
    """Find the serving options with the highest throughput within a latency limit, and write them.

    Args:
        name: the model's name.
        repository: the model repository.
        slo: the limit as a client on this machine measures it, e.g. ``"p99=20ms"``.
        wait: longest wait for another publisher in seconds.
        say: receives a line for each trial.

    Returns:
        All trials and the choice.

    Raises:
        ConfigError: no such model, or not a limit.
        GateError: no choice meets the limit.
        ServerError: a scratch server cannot load the model.

    Example::

        print(shrinkserve.tune_model("digits", "model_repository", slo="p99=20ms").chosen)
    """
    from shrinkserve.benchmark.timing import parse_duration
    from shrinkserve.benchmark.tuning import tune_serving

    writer = open_repository(repository, wait, say)
    quantity, _, duration = slo.partition("=")
    if quantity != "p99":
        raise ConfigError("--slo", expected="p99=DURATION such as p99=20ms", found=repr(slo))
    limit = parse_duration(duration, "--slo")
    return tune_serving(writer, name, limit, say=say)


def open_repository(root: StrPath, wait: float, say: Say) -> Repository:
    """Open a repository to change it.

    Raises:
        ConfigError: `wait` is negative.
    """
    check_range(0, wait=wait)
    from shrinkserve.serving.repository.writer import Repository

    return Repository(Path(root), say=say, wait=wait)
