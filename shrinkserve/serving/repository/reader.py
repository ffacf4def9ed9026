"""What a model repository holds, read from its files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import CARD, MODEL_NAME, Card, check_name, read_card
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.serving import model_config, names
from shrinkserve.serving.model_config import CONFIG, LABELS
from shrinkserve.serving.repository.engine_config import CONFIGS, engine_config_path


@dataclass(frozen=True)
class ModelSnapshot:
    """A model's versions, and the content of the files that say which of them answers and how."""

    versions: list[int]
    files: dict[str, bytes]


class RepositoryReader:
    """A model repository, to be looked at.

    What is asked of versions takes either name of a model: what people call it, or Triton's of its classifier.

    Args:
        root: its folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def models(self) -> list[str]:
        """Names of all that Triton would load, sorted.

        Raises:
            ArtifactError: no such folder.
        """
        if not self.root.is_dir():
            raise ArtifactError(f"{self.root}: no such model repository", hint="make one with `shrinkserve export`")
        return sorted(
            path.parent.name for path in self.root.glob(f"*/{CONFIG}") if MODEL_NAME.fullmatch(path.parent.name)
        )

    def classifier(self, name: str) -> str:
        """Triton's name of the classifier that people call `name`.

        Raises:
            ConfigError: no such model, or another part of one.
            ArtifactError: no such repository.
        """
        check_name(name)
        known = self.models()
        found = names.resolve_classifier(name, known)
        if found not in known or names.public_name(found) not in names.public_names(known):
            raise self._unknown(name)
        return found

    def classifier_or_new(self, name: str) -> str:
        """`classifier`, or `name` itself where there is no such model yet, nor a repository perhaps.

        Raises:
            ConfigError: a name that cannot be.
        """
        check_name(name)
        return names.resolve_classifier(name, self.models()) if self.root.is_dir() else name

    def classifiers(self) -> list[str]:
        """Names of the models that have cards, sorted: those that `export` made, not what was added to them.

        Raises:
            ArtifactError: no such folder.
        """
        return [name for name in self.models() if any((self.root / name).glob(f"[1-9]*/{CARD}"))]

    def versions(self, name: str) -> list[int]:
        """Numbers of a model's versions, in order.

        Raises:
            ConfigError: no such model.
        """
        return versions_in(self.root / self.classifier(name))

    def active(self, name: str) -> int:
        """The version that answers.

        Raises:
            ConfigError: no such model.
            ArtifactError: the configuration cannot be read or does not say.
        """
        return model_config.active_version(self.config(self.classifier(name)))

    def version_before(self, name: str) -> int:
        """The newest version that is older than the one that answers.

        Raises:
            ConfigError: there is none, or no such model.
        """
        active = self.active(name)
        older = [version for version in self.versions(name) if version < active]
        if not older:
            raise ConfigError(f"{self.root / name}: no version before {active}", hint="name one that is there (--to)")
        return older[-1]

    def known_version(self, name: str, version: int) -> Path:
        """The folder of a version that must be there.

        Raises:
            ConfigError: no such model or version.
        """
        folder = self.root / self.classifier(name)
        known = versions_in(folder)
        if version not in known:
            shown = ", ".join(map(str, known))
            raise ConfigError(f"{folder}: no such version", expected=f"one of {shown}", found=version)
        return folder / str(version)

    def config(self, name: str) -> pb.ModelConfig:
        """A model's configuration.

        Raises:
            ConfigError: no such model.
            ArtifactError: the configuration cannot be read.
        """
        return model_config.read_config(self._folder(name) / CONFIG)

    def card(self, name: str, version: int, *, verify: bool = True) -> Card:
        """A version's card.

        Raises:
            ConfigError: no such model.
            ArtifactError: the card cannot be read, or a file is not the one that it names.
        """
        return read_card(self.known_version(name, version), verify=verify)

    def _folder(self, name: str) -> Path:
        check_name(name)
        if not (self.root / name / CONFIG).is_file():
            raise self._unknown(name)
        return self.root / name

    def _unknown(self, name: str) -> ConfigError:
        known = ", ".join(names.public_names(self.models())) or "none"
        return ConfigError(f"{self.root}: no such model", expected=f"one of {known}", found=names.public_name(name))

    def config_path(self, name: str, engine: str | None = None) -> Path:
        """The configuration of a model's default engine, or of a named one.

        Raises:
            ConfigError: no such model or engine.
        """
        folder = self._folder(name)
        if engine is None:
            return folder / CONFIG
        known = self.engines(name)
        if engine not in known:
            raise ConfigError(
                f"{folder}: no such engine", expected=f"one of {', '.join(known) or 'none'}", found=engine
            )
        return engine_config_path(folder, engine)

    def engines(self, name: str) -> list[str]:
        """Names of the engines besides the default one.

        Raises:
            ConfigError: no such model.
        """
        return sorted(path.stem for path in (self._folder(name) / CONFIGS).glob("*.pbtxt"))

    def snapshot(self, name: str) -> ModelSnapshot | None:
        """What `restore` needs to undo later changes; None when there is no such model."""
        folder = self.root / name
        if not (folder / CONFIG).is_file():
            return None
        kept = [folder / CONFIG, folder / LABELS, *(folder / CONFIGS).glob("*.pbtxt")]
        return ModelSnapshot(versions_in(folder), {str(p.relative_to(folder)): p.read_bytes() for p in kept})


def versions_in(folder: Path) -> list[int]:
    """Version numbers among a model folder's subfolders: those that Triton reads, so none with a leading zero."""
    return sorted(int(p.name) for p in folder.iterdir() if re.fullmatch(r"[1-9][0-9]*", p.name) and p.is_dir())
