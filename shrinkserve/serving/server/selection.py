"""Choose the models of a repository that a server loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from shrinkserve.errors import ConfigError, ServerError
from shrinkserve.serving.names import CLASSIFIER, model_names, public_name, public_names
from shrinkserve.serving.server.loadable import HowToGet, Loadable, Skip, scan


def select(
    root: Path, names: Sequence[str] = (), engine: str | None = None, how_to_get: HowToGet = lambda _: None
) -> Loadable:
    """Return `scan`, limited to `names` if there are any: public names, or Triton's names.

    Raises:
        ArtifactError: no such repository.
        ConfigError: an unknown model or engine.
        ServerError: nothing to load, or nothing of a chosen model.
    """
    found = scan(root, engine, how_to_get)
    _check_engine(root, engine, found.engines)
    known = sorted([*found.models, *found.skipped])
    if not known:
        raise ServerError(f"{root}: no model in this repository", hint="make one with `shrinkserve export`")
    chosen = {name: [model for model in _models(name) if model in known] for name in names}
    if unknown := sorted(name for name, models in chosen.items() if not models):
        expected = ", ".join(public_names(known))
        raise ConfigError(f"{root}: no such model", expected=expected, found=", ".join(unknown))
    for models in chosen.values() or [known]:
        if not set(models) & set(found.models):
            # A model that is skipped because of another one does not show the cause.
            cause = min(models, key=lambda model: found.skipped[model].kind is Skip.DEPENDS)
            raise ServerError(f"{root / cause}: {found.skipped[cause].what}", hint=found.skipped[cause].hint or None)
    if not chosen:
        return found
    wanted = {model for models in chosen.values() for model in models}
    skipped = {name: why for name, why in found.skipped.items() if name in wanted}
    return Loadable([name for name in found.models if name in wanted], skipped, found.engines)


def _check_engine(root: Path, engine: str | None, engines: Mapping[str, Sequence[str]]) -> None:
    known = sorted(set().union(*engines.values()))
    if engine is not None and engine not in known:
        raise ConfigError(
            f"{root}: no such engine",
            expected=", ".join(known) or "none, as there is only the default one",
            found=engine,
            hint="leave --config out, or add an engine with `shrinkserve export --to`",
        )


def _models(name: str) -> list[str]:
    """Return the models that `name` may mean: all of a public name, or one by Triton's name."""
    return list(model_names(name)) if name == public_name(name) else [name]


def shown_names(found: Loadable) -> list[str]:
    """Return the public names of the loaded models; Triton's name where the ensemble of the public name is skipped."""
    loaded = set(found.models)
    return [
        name if name in loaded or name not in found.skipped else f"{name}{CLASSIFIER}"
        for name in public_names(found.models)
    ]
