"""Read-only view of a model repository."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import CARD, MODEL_NAME, Card, check_name, read_card
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.serving import config_text, model_config, names
from shrinkserve.serving.model_config import CONFIG
from shrinkserve.serving.repository.engine_config import CONFIGS, engine_config_path

REMOTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
VERSION = re.compile(r"[1-9][0-9]{0,9}")


class RepositoryReader:
    """Read-only view of a model repository.

    Methods about versions take the public name of a model or Triton's name of its classifier.

    Args:
        root: its folder.

    Raises:
        ConfigError: `root` is the URL of a remote repository.
    """

    def __init__(self, root: Path) -> None:
        if scheme := REMOTE.match(str(root)):
            found = f"a URL of {scheme[1]}"
            raise ConfigError("model repository", expected="a local folder", found=found, hint="copy it to a folder")
        self.root = root

    def models(self) -> list[str]:
        """Return the names of all models that Triton would load, sorted.

        Raises:
            ArtifactError: no such folder.
        """
        if not self.root.is_dir():
            raise ArtifactError(f"{self.root}: no such model repository", hint="make one with `shrinkserve export`")
        return sorted(
            path.parent.name for path in self.root.glob(f"*/{CONFIG}") if MODEL_NAME.fullmatch(path.parent.name)
        )

    def classifier(self, name: str) -> str:
        """Return Triton's name of the classifier with the public name `name`.

        Raises:
            ConfigError: no such model, or `name` is a pipeline or ensemble.
            ArtifactError: no such repository.
        """
        check_name(name)
        known = self.models()
        found = names.resolve_classifier(name, known)
        if found not in known or names.public_name(found) not in names.public_names(known):
            raise self._unknown(name)
        return found

    def classifier_or_new(self, name: str) -> str:
        """Return `classifier(name)`, or `name` itself if there is no such model yet.

        Raises:
            ConfigError: an invalid name.
        """
        check_name(name)
        return names.resolve_classifier(name, self.models()) if self.root.is_dir() else name

    def classifiers(self) -> list[str]:
        """Return the names of the models with cards, sorted: those that `export` made, without their ensembles.

        Raises:
            ArtifactError: no such folder.
        """
        return [name for name in self.models() if any((self.root / name).glob(f"[1-9]*/{CARD}"))]

    def versions(self, name: str) -> list[int]:
        """Return the numbers of a model's versions, in order.

        Raises:
            ConfigError: no such model.
        """
        return _readable_versions(self.root / self.classifier(name))

    def active(self, name: str) -> int:
        """Return the active version.

        Raises:
            ConfigError: no such model.
            ArtifactError: the configuration cannot be read or names no version.
        """
        return model_config.active_version(self.config(self.classifier(name)))

    def version_before(self, name: str) -> int:
        """Return the newest version that is older than the active one.

        Raises:
            ConfigError: no such model, or no older version.
        """
        active = self.active(name)
        older = [version for version in self.versions(name) if version < active]
        if not older:
            newer = ", ".join(str(version) for version in self.versions(name) if version > active)
            hint = f"name another version with --to: {newer}" if newer else "it is the only one; publish another first"
            raise ConfigError(f"{self.root / name}: no version before {active}", hint=hint)
        return older[-1]

    def known_version(self, name: str, version: int) -> Path:
        """Return the folder of an existing version.

        Raises:
            ConfigError: no such model or version.
        """
        folder = self.root / self.classifier(name)
        known = _readable_versions(folder)
        if version not in known:
            shown = ", ".join(map(str, known))
            raise ConfigError(f"{folder}: no such version", expected=f"one of {shown}", found=version)
        return folder / str(version)

    def config(self, name: str) -> pb.ModelConfig:
        """Return a model's configuration.

        Raises:
            ConfigError: no such model.
            ArtifactError: the configuration cannot be read.
        """
        return config_text.read_config(self._folder(name) / CONFIG)

    def card(self, name: str, version: int, *, verify: bool = True) -> Card:
        """Return a version's card.

        Raises:
            ConfigError: no such model or version.
            ArtifactError: the card cannot be read, or a file does not match it.
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
        """Return the path of the configuration of a model's default engine, or of a named one.

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
        """Return the names of the engines besides the default one.

        Raises:
            ConfigError: no such model.
        """
        return sorted(path.stem for path in (self._folder(name) / CONFIGS).glob("*.pbtxt"))

    def fingerprint(self, name: str) -> str:
        """Return a hash of the files that say which version is active and how it runs; "" if there is no model."""
        folder = self.root / name
        if not (folder / CONFIG).is_file():
            return ""
        digest = hashlib.sha256()
        for path in (folder / CONFIG, *sorted((folder / CONFIGS).glob("*.pbtxt"))):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        return digest.hexdigest()


def labels_problem(folder: Path) -> str | None:
    """Return why clients would get wrong class names from a model's ``labels.txt``; None if they would not.

    Raises:
        ArtifactError: the configuration cannot be read.
    """
    for tensor in config_text.read_config(folder / CONFIG).output:
        if not tensor.label_filename:
            continue
        try:
            names = (folder / tensor.label_filename).read_bytes().decode().removesuffix("\n").split("\n")
        except OSError as exc:
            return f"{tensor.label_filename}: cannot be read ({exc.strerror})"
        except UnicodeDecodeError:
            return f"{tensor.label_filename}: not UTF-8"
        if any("\r" in name for name in names):
            return f"{tensor.label_filename}: carriage returns (line ends of Windows) would be part of the class names"
        if len(names) != sum(tensor.dims):
            return f"{tensor.label_filename}: expected {sum(tensor.dims)} class names, found {len(names)}"
    return None


def versions_in(folder: Path) -> list[int]:
    """Return the version numbers in a model's folder: those that Triton reads, so without leading zeros.

    Raises:
        OSError: the folder cannot be read.
    """
    return sorted(int(p.name) for p in folder.iterdir() if VERSION.fullmatch(p.name) and p.is_dir())


def _readable_versions(folder: Path) -> list[int]:
    try:
        return versions_in(folder)
    except OSError as exc:
        hint = "change its permissions or move it out of the repository"
        raise ArtifactError(f"{folder}: cannot be read ({exc.strerror})", hint=hint) from exc
