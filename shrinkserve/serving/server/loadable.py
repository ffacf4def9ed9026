"""What of a model repository can be served: whole models, and what else there is with what completes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.errors import ConfigError, ServerError
from shrinkserve.serving import model_config
from shrinkserve.serving import names as serving_names
from shrinkserve.serving.repository import ensemble
from shrinkserve.serving.repository.reader import RepositoryReader, versions_in

SKIPPED = ", which is skipped"
"""How a reason ends that is another model's."""


@dataclass(frozen=True)
class Loadable:
    """A repository's models, by Triton's names.

    Attributes:
        whole: those that can be loaded, sorted.
        skipped: each other -> what it lacks, and the command that completes it.
    """

    whole: list[str]
    skipped: dict[str, str]


def scan(root: Path, engine: str | None = None, unavailable: Mapping[str, str] | None = None) -> Loadable:
    """Look at every model of a repository.

    Args:
        root: the repository.
        engine: the engine that shall run them; a model that has none of that name runs its default one.
        unavailable: backends that the server does not have -> what brings them.

    Raises:
        ArtifactError: no such folder, or a config that is none.
    """
    held, unavailable = RepositoryReader(root), unavailable or {}
    configs = {
        name: model_config.read_config(held.config_path(name, engine if engine in held.engines(name) else None))
        for name in held.models()
    }
    folders = {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
    skipped = {
        name: _half_made(root, name, f"no {model_config.CONFIG}")
        for name in sorted(folders - configs.keys())
        if versions_in(root / name)  # else it is no model's folder
    }
    for name, config in configs.items():
        if missing := _missing_file(root / name, config):
            skipped[name] = _half_made(root, name, f"no {missing}")
        elif config.backend in unavailable:
            skipped[name] = f"needs {config.backend}, which is not installed; {unavailable[config.backend]}"
    skipped |= _ensembles_that_misfit(root, configs, skipped)
    skipped |= _ensembles_that_lack(root, configs, skipped)
    skipped |= _pipelines_for_nothing(configs, skipped)
    return Loadable([name for name in configs if name not in skipped], dict(sorted(skipped.items())))


def _ensembles_that_misfit(
    root: Path, configs: Mapping[str, pb.ModelConfig], skipped: Mapping[str, str]
) -> dict[str, str]:
    """Those of classifiers that they do not fit any more: Triton would not start with one."""
    found = {}
    for name in configs.keys() - skipped.keys():
        if ensemble.takes_encoded(root, name) and (error := ensemble.misfit(root, root / name)):
            found[serving_names.public_name(name)] = _half_made(root, serving_names.public_name(name), error)
    return found


def _ensembles_that_lack(
    root: Path, configs: Mapping[str, pb.ModelConfig], skipped: Mapping[str, str]
) -> dict[str, str]:
    """Those of which a part is not there or is skipped."""
    found = {}
    for name, config in configs.items():
        for step in config.ensemble_scheduling.step:
            if step.model_name in skipped:
                found[name] = _lacking(step.model_name)
            elif step.model_name not in configs:
                found[name] = _half_made(root, name, f"no {step.model_name}")
    return found


def _pipelines_for_nothing(configs: Mapping[str, pb.ModelConfig], skipped: Mapping[str, str]) -> dict[str, str]:
    """Those that decode for a classifier that is skipped."""
    classifiers = {name: serving_names.classifier_name(name.removesuffix(serving_names.PREPROCESS)) for name in configs}
    return {
        name: _lacking(model)
        for name, model in classifiers.items()
        if name.endswith(serving_names.PREPROCESS) and model in skipped and name not in skipped
    }


def _lacking(part: str) -> str:
    return f"needs {part}{SKIPPED}"


def _half_made(root: Path, name: str, error: str) -> str:
    public = serving_names.public_name(name.removesuffix(serving_names.PREPROCESS))
    decodes = name != serving_names.classifier_name(public) and (root / serving_names.classifier_name(public)).is_dir()
    command = f"repo add-jpeg {public}" if decodes else f"export RUN --name {public}"
    return f"half made, {error}; complete it with: shrinkserve {command} --repository {root}"


def select(
    root: Path, names: Sequence[str] = (), engine: str | None = None, unavailable: Mapping[str, str] | None = None
) -> Loadable:
    """`take`, narrowed to `names` when there are any: each a model with all its parts, or one of these.

    Raises:
        ArtifactError: no such repository.
        ConfigError: a model or engine that it does not have.
        ServerError: nothing to serve, or nothing of a chosen model.
    """
    found = scan(root, engine, unavailable)
    held = RepositoryReader(root)
    engines = {other for name in held.models() for other in held.engines(name)}
    if engine is not None and engine not in engines:
        raise ConfigError(
            f"{root}: no such engine",
            expected=", ".join(sorted(engines)) or "none, as there is only the default one",
            found=engine,
            hint="leave --config out, or add an engine with `shrinkserve export --to`",
        )
    known = sorted([*found.whole, *found.skipped])
    if not known:
        raise ServerError(f"{root}: no model in this repository", hint="make one with `shrinkserve export`")
    chosen = {name: [part for part in _parts(name) if part in known] for name in names} or {"": known}
    if unknown := sorted(name for name, parts in chosen.items() if not parts):
        expected = ", ".join(serving_names.public_names(known))
        raise ConfigError(f"{root}: no such model", expected=expected, found=", ".join(unknown))
    for parts in chosen.values():
        if not set(parts) & set(found.whole):
            cause = min(parts, key=lambda part: found.skipped[part].endswith(SKIPPED))
            raise ServerError(f"{root / cause}: {found.skipped[cause]}")
    wanted = {part for parts in chosen.values() for part in parts}
    whole = [name for name in found.whole if name in wanted]
    return Loadable(whole, {name: why for name, why in found.skipped.items() if name in wanted})


def _parts(name: str) -> list[str]:
    return serving_names.model_names(name) if name == serving_names.public_name(name) else [name]


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
