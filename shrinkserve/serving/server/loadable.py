"""Models of a repository that a server can load, and the reasons why it cannot load the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import CARD, MODEL_NAME
from shrinkserve.errors import ArtifactError
from shrinkserve.serving import config_text, model_config
from shrinkserve.serving import names as serving_names
from shrinkserve.serving.model_config import CONFIG
from shrinkserve.serving.names import CLASSIFIER, LINES, PREPROCESS, TEXT, ModelNames
from shrinkserve.serving.repository import ensemble
from shrinkserve.serving.repository.engine_config import CONFIGS, engine_config_path
from shrinkserve.serving.repository.reader import versions_in

Skip = Enum("Skip", "UNREADABLE NO_CONFIG BAD_CONFIG OTHER_NAME BAD_FILE NO_FILE NO_BACKEND NO_MODEL MISFIT DEPENDS")
"""Why a model cannot be loaded; DEPENDS: it needs another model that cannot be loaded."""
PLATFORMS = {"onnxruntime_onnx": "onnxruntime", "tensorrt_plan": "tensorrt", "pytorch_libtorch": "pytorch"}
"""Triton's older `platform` -> the backend."""
HowToGet = Callable[[str], "str | None"]
"""Backend -> what to do to get it; None if the server has it."""


@dataclass(frozen=True)
class Skipped:
    """A model that cannot be loaded: the kind of the reason, the reason, and what to do about it."""

    kind: Skip
    what: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.what}; {self.hint}" if self.hint else self.what


@dataclass(frozen=True)
class Loadable:
    """A repository's models, by Triton's names: those that can be loaded, the others, and the engines of each."""

    models: list[str]
    skipped: dict[str, Skipped]
    engines: dict[str, list[str]]


def scan(root: Path, engine: str | None = None, how_to_get: HowToGet = lambda _: None) -> Loadable:
    """Find the models of a repository that a server can load, and for each other one the reason why it cannot.

    Args:
        root: the repository.
        engine: engine to run; a model that does not have it runs its default engine.
        how_to_get: returns what to do to get a backend; None if the server has it.

    Raises:
        ArtifactError: no such folder, or it cannot be listed.
    """
    try:
        folders = sorted(path for path in root.iterdir() if MODEL_NAME.fullmatch(path.name) and path.is_dir())
    except FileNotFoundError:
        raise ArtifactError(f"{root}: no such model repository", hint="make one with `shrinkserve export`") from None
    except OSError as exc:
        raise ArtifactError(f"{root}: cannot be listed ({exc.strerror})", hint="check its permissions") from exc
    found = _Scan(root, engine, how_to_get, folders)
    models = [name for name in found.configs if found.reason(name) is None]
    others = {name: reason for name in [*found.configs, *found.failed] if (reason := found.reason(name))}
    return Loadable(sorted(models), dict(sorted(others.items())), found.engines)


class _Scan:
    """The models of a repository, each looked at once."""

    def __init__(self, root: Path, engine: str | None, how_to_get: HowToGet, folders: Sequence[Path]) -> None:
        self.root, self.how_to_get = root, how_to_get
        self.configs: dict[str, pb.ModelConfig] = {}
        self.failed: dict[str, Skipped] = {}
        self.engines: dict[str, list[str]] = {}
        self._reasons: dict[str, Skipped | None] = {}
        for folder in folders:
            if failed := _attempt(partial(self._read, folder, engine)):
                self.failed[folder.name] = failed
        for name in [name for name in self.configs if name.endswith(PREPROCESS) and self._is_derived(name)]:
            public = name.removesuffix(PREPROCESS)
            if public not in self.configs and f"{public}{CLASSIFIER}" in self.configs:
                missing = self._incomplete(public, f"{CONFIG} is missing", Skip.NO_CONFIG)
                self.failed.setdefault(public, missing)

    def _is_derived(self, name: str) -> bool:
        return model_config.is_derived(self.configs[name])

    def _read(self, folder: Path, engine: str | None) -> Skipped | None:
        """Read a model's configuration."""
        versions = versions_in(folder)
        if (folder / CONFIG).is_file():
            self.engines[folder.name] = sorted(path.stem for path in (folder / CONFIGS).glob("*.pbtxt"))
            for version in versions:
                next((folder / str(version)).iterdir(), None)  # raises: Triton does not start if it may not list one
            chosen = engine is not None and engine in self.engines[folder.name]
            path = engine_config_path(folder, engine) if engine and chosen else folder / CONFIG
            self.configs[folder.name] = config_text.read_config(path)
        elif versions:  # else it is not a model's folder
            ours = any((folder / str(version) / CARD).is_file() for version in versions)
            hint = "" if ours or folder.name.endswith(PREPROCESS) else "write one; NVIDIA's container can do without it"
            return self._incomplete(folder.name, f"{CONFIG} is missing", Skip.NO_CONFIG, hint)
        return None

    def reason(self, name: str) -> Skipped | None:
        """Return why a model cannot be loaded; None if it can."""
        if name not in self._reasons:
            self._reasons[name] = None  # ends the recursion for an ensemble that contains itself
            self._reasons[name] = self.failed.get(name) or _attempt(lambda: self._own(name) or self._inherited(name))
        return self._reasons[name]

    def _own(self, name: str) -> Skipped | None:
        """Return what is wrong with the model itself."""
        config, folder = self.configs[name], self.root / name
        if config.name and config.name != name:
            hint = "rename the folder, or change the name in its configuration"
            return Skipped(Skip.OTHER_NAME, f"its {CONFIG} is of the model {config.name!r}", hint)
        backend = config.backend or PLATFORMS.get(config.platform, config.platform)
        if backend == "ensemble" or config.HasField("ensemble_scheduling"):
            return None
        if file := model_config.unsafe_file(config):
            what = f"file name {file!r}: expected letters, digits, '_', '-' and '.'"
            return Skipped(Skip.BAD_FILE, what, "rename the file")
        if missing := _missing_file(folder, config):
            return self._incomplete(name, f"{missing} is missing", Skip.NO_FILE)
        if how := self.how_to_get(backend):
            what = f"needs the backend {backend}, which is not installed" if backend else f"{CONFIG} names no backend"
            return Skipped(Skip.NO_BACKEND, what, how)
        return None

    def _inherited(self, name: str) -> Skipped | None:
        """Return what is wrong with the models that this one needs."""
        for needed in self._needed(name):
            if needed not in self.configs and needed not in self.failed:
                return self._incomplete(name, f"{needed} is missing", Skip.NO_MODEL)
            if self.reason(needed):
                return Skipped(Skip.DEPENDS, f"needs {needed}, which is skipped")
        known = self._family(name)
        if name in {known.ensemble, known.text} and known.classifier in self.configs and self._is_derived(name):
            parts = known.derived if name == known.text else (known.pipeline, known.ensemble)
            error = ensemble.misfit(self.root, self.root / known.classifier, parts)
            return self._incomplete(name, error, Skip.MISFIT) if error else None
        return None

    def _family(self, name: str) -> ModelNames:
        """Return the names of all models behind the public name of a model, which may be a derived one."""
        for suffix in (PREPROCESS, LINES, TEXT):
            known = serving_names.model_names(name.removesuffix(suffix))
            if name.endswith(suffix) and known.classifier in self.configs.keys() | self.failed.keys():
                return known
        return serving_names.model_names(name)

    def _needed(self, name: str) -> list[str]:
        """Return the models without which a model is useless or cannot be loaded."""
        known = self._family(name)
        if name == known.pipeline and self._is_derived(name):  # it decodes for the classifier only
            return [known.classifier]
        if name == known.lines and self._is_derived(name):  # it is used in NAME_text only, which decodes images
            return [known.pipeline]
        return [step.model_name for step in self.configs[name].ensemble_scheduling.step]

    def _incomplete(self, name: str, what: str, kind: Skip, hint: str = "") -> Skipped:
        """Return a reason with the command that writes what is missing."""
        known = self._family(name)
        decodes = name != known.classifier and (self.root / known.classifier).is_dir()
        public = known.ensemble if decodes else serving_names.public_name(name.removesuffix(PREPROCESS))
        command = f"repo add-jpeg {public}" if decodes else f"export RUN --name {public}"
        return Skipped(kind, f"incomplete: {what}", hint or f"run: shrinkserve {command} --repository {self.root}")


def _attempt(look: Callable[[], Skipped | None]) -> Skipped | None:
    """Return the reason that `look` finds, or the one why it cannot look."""
    try:
        return look()
    except OSError as exc:
        hint = "let the server's user read it, or move it out of the repository"
        return Skipped(Skip.UNREADABLE, f"{exc.filename} cannot be read ({exc.strerror})", hint)
    except ArtifactError as exc:
        return Skipped(Skip.BAD_CONFIG, exc.what, exc.hint or "")


def _missing_file(folder: Path, config: pb.ModelConfig) -> str | None:
    """Return the file, relative to the model's folder, without which Triton cannot load the model."""
    versions = versions_in(folder)
    policy = config.version_policy
    if policy.HasField("specific"):
        wanted = list(policy.specific.versions)
    elif policy.HasField("all"):
        wanted = versions
    else:
        wanted = versions[-max(1, policy.latest.num_versions) :]
    if not wanted:
        return "a version"
    file = config.default_model_filename
    for version in wanted:
        place = folder / str(version)
        if not place.is_dir() or not any(place.iterdir()) or not (place / file).exists():
            return f"{version}/{file or 'a model file'}"
    return None
