"""What of a model repository can be served: whole models, and half-made ones with what completes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.errors import ConfigError, ServerError
from shrinkserve.serving import model_config
from shrinkserve.serving.repository import Repository, versions_in


@dataclass(frozen=True)
class Inventory:
    """A repository's models.

    Attributes:
        whole: names of those that can be loaded, sorted.
        half_made: name of each other -> what it lacks, and the command that completes it.
    """

    whole: list[str]
    half_made: dict[str, str]


def take(root: Path, engine: str | None = None) -> Inventory:
    """Look at every model of a repository.

    Args:
        root: the repository.
        engine: the engine that shall run them; a model that has none of that name runs its default one.

    Raises:
        ArtifactError: no such folder, or a config that is none.
    """
    repository = Repository(root)
    configured = repository.models()
    folders = {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
    half_made = {
        name: f"no {model_config.CONFIG}; complete it with: shrinkserve export RUN --repository {root} --name {name}"
        for name in sorted(folders - set(configured))
        if versions_in(root / name)  # else it is no model's folder
    }
    for name in configured:
        chosen = engine if engine in repository.engines(name) else None
        missing = _missing_file(root / name, model_config.read(repository.config_path(name, chosen)))
        if missing:
            half_made[name] = (
                f"no {missing}; complete it with: shrinkserve export RUN --repository {root} --name {name}"
            )
    return Inventory([name for name in configured if name not in half_made], half_made)


def choose(root: Path, names: Sequence[str] = (), engine: str | None = None) -> Inventory:
    """`take`, narrowed to `names` when there are any.

    Raises:
        ArtifactError: no such repository.
        ConfigError: a model or engine that it does not have.
        ServerError: nothing to serve, or a chosen model is half-made.
    """
    found = take(root, engine)
    engines = {other for name in found.whole for other in Repository(root).engines(name)}
    if engine is not None and engine not in engines:
        raise ConfigError(f"{root}: no such engine", expected=", ".join(sorted(engines)) or "none", found=engine)
    known = sorted([*found.whole, *found.half_made])
    unknown = sorted(set(names) - set(known))
    if unknown and known:
        raise ConfigError(f"{root}: no such model", expected=", ".join(known), found=", ".join(unknown))
    for name, lack in found.half_made.items():
        if name in names or not found.whole:
            raise ServerError(f"{root / name}: half made, {lack}")
    if not known:
        raise ServerError(f"{root}: no model in this repository", do="make one with `shrinkserve export`")
    return Inventory([name for name in found.whole if name in (names or found.whole)], {} if names else found.half_made)


def _missing_file(folder: Path, config: pb.ModelConfig) -> str | None:
    """The file, relative to the model's folder, without which Triton cannot load it."""
    if config.platform == "ensemble" or config.HasField("ensemble_scheduling"):
        return None
    versions = versions_in(folder)
    policy = config.version_policy
    if policy.HasField("specific"):
        wanted = list(policy.specific.versions)
    elif policy.HasField("all"):
        wanted = versions
    else:
        wanted = versions[-max(1, policy.latest.num_versions) :]
    if not wanted:
        return "version"
    names = [config.default_model_filename] if config.default_model_filename else []
    for version in wanted:
        place = folder / str(version)
        if not place.is_dir() or not any(place.iterdir()) or not all((place / name).exists() for name in names):
            return "/".join([str(version), *(names or ["model file"])])
    return None
