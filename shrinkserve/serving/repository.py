"""The model repository: a folder that Triton loads, at every moment of its life.

```
ROOT/NAME/config.pbtxt        which version answers, its contract, how it is run
ROOT/NAME/configs/*.pbtxt     the same for other engines of that version
ROOT/NAME/labels.txt          class names in the order of the logits
ROOT/NAME/VERSION/model.onnx
ROOT/NAME/VERSION/card.json   where it came from, and the sha256 of the files beside it
```

Every change is made on a copy of the model's folder (hard links, so it costs nothing) which then takes the place
of the folder in one step, under a lock that all publishers share.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import CARD, Card, read_card, safe_join, sha256_file, verify_file, write_atomic
from shrinkserve.config import ServingConfig
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.serving import exchange, model_config
from shrinkserve.serving.activation import activate
from shrinkserve.serving.engines import CONFIGS, DETAILS, Engine, configuration_path
from shrinkserve.serving.model_config import CONFIG, LABELS, MODEL

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Snapshot:
    """A model's versions, and the content of the files that say which of them answers and how."""

    versions: list[int]
    files: dict[str, bytes]


class Repository:
    """A model repository.

    Args:
        root: its folder; made by the first `add`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._held = 0

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other publishers waiting during several changes; may be nested.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        with ExitStack() as stack:
            if not self._held:
                stack.enter_context(exchange.locked(self.root))
            self._held += 1
            try:
                yield
            finally:
                self._held -= 1

    def add(
        self,
        name: str,
        model_file: Path,
        card: Card,
        *,
        version: int | None = None,
        options: ServingConfig | None = None,
        initial: ServingConfig | None = None,
    ) -> Path:
        """Add a version of a model and make it the one that answers.

        Args:
            name: the model's name: letters, digits, ``-``, ``_`` and ``.``.
            model_file: the ONNX file; input ``images`` uint8 [N, S, S, 3], outputs ``logits`` and
                ``probabilities`` float32 [N, classes].
            card: of the model file; names its sha256 under ``model.onnx``. Further files that it names are taken
                from beside the model file.
            version: its number; the next free one when None.
            options: how it is run; None keeps what the model's configuration says, edits and all.
            initial: how it is run where there is no configuration yet and no `options`.

        Returns:
            The version's folder.

        Raises:
            ConfigError: a name or version that cannot be, or a version that is there already.
            ArtifactError: a model file that is not its card's, an incomplete card, or a place that cannot be written.
        """
        check_name(name)
        _check_version(version)
        if MODEL not in card.files:
            raise ArtifactError(f"card of {name}: no sha256 of {MODEL}", do="export the model again")
        with self._changed(name) as folder:
            taken = versions_in(folder)
            number = version or max(taken, default=0) + 1
            if number in taken:
                raise ConfigError(f"{self.root / name}: version {number} is there already", do="leave the version out")
            place = folder / str(number)
            place.mkdir()
            for file, sha256 in card.files.items():
                source = model_file if file == MODEL else safe_join(model_file.parent, file)
                self._place(source, safe_join(place, file), sha256)
            replace(card, name=name).write(place)
            activate(folder, number, options if (folder / CONFIG).is_file() else options or initial)
        return self.root / name / str(number)

    def add_engine(self, name: str, engine: Engine, folder: Path, *, version: int | None = None) -> Path:
        """Add another way to run a version: its files, and ``configs/ENGINE.pbtxt``.

        Args:
            name: the model's name.
            engine: what it is; one of the same name is replaced.
            folder: where its files are now.
            version: the version whose weights it has; the one that answers when None.

        Returns:
            The configuration's path.

        Raises:
            ConfigError: no such model or version, or a name of the engine that cannot be.
            ArtifactError: a file that is missing, or a place that cannot be written.
        """
        check_name(engine.name)
        number = version or self.active(name)
        self.known_version(name, number)
        with self._changed(name) as model:
            place = model / str(number)
            card = read_card(place, verify=False)
            hashes = {}
            for file in sorted(engine.files - {MODEL}):  # that one is there, and other engines may read it too
                source = safe_join(folder, file)
                if not source.is_file():
                    raise ArtifactError(f"{source}: no such file", do="build the engine again")
                hashes[file] = sha256_file(source)
                self._place(source, safe_join(place, file), hashes[file])
            engines = {**card.details.get(DETAILS, {}), engine.name: engine.to_dict()}
            details = {**card.details, DETAILS: engines}
            replace(card, files={**card.files, **hashes}, details=details).write(place)
            if number == self.active(name):
                activate(model, number)
        return configuration_path(self.root / name, engine.name)

    def _place(self, source: Path, target: Path, sha256: str) -> None:
        """Copy a file into a staged folder; a hard link to the old one is replaced, not written into."""
        with exchange.unwritable(target):
            target.unlink(missing_ok=True)
            shutil.copyfile(source, target)
        verify_file(target, sha256)

    def activate(self, name: str, version: int) -> None:
        """Make a version that is there the one that answers: configuration and labels become its own.

        Raises:
            ConfigError: no such model or version.
            ArtifactError: a damaged version, or a place that cannot be written.
        """
        self.known_version(name, version)
        with self._changed(name) as folder:
            read_card(folder / str(version))
            activate(folder, version)

    def configure(self, name: str, options: ServingConfig, engine: str | None = None) -> None:
        """Change how a model is run: its default engine, or the one of ``configs/ENGINE.pbtxt``.

        Raises:
            ConfigError: no such model or engine.
            ArtifactError: a configuration that cannot be read, or a place that cannot be written.
        """
        path = self.config_path(name, engine).relative_to(self.root / name)
        with self._changed(name) as folder:
            config = model_config.read(folder / path)
            model_config.set_options(config, options)
            write_atomic(folder / path, model_config.to_text(config).encode())

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
        return configuration_path(folder, engine)

    def engines(self, name: str) -> list[str]:
        """Names of the engines besides the default one.

        Raises:
            ConfigError: no such model.
        """
        return sorted(path.stem for path in (self._folder(name) / CONFIGS).glob("*.pbtxt"))

    def remove(self, name: str, versions: Sequence[int]) -> None:
        """Remove versions that do not answer.

        Raises:
            ConfigError: no such model or version, or the one that answers.
            ArtifactError: a place that cannot be written.
        """
        active = self.active(name)
        for version in versions:
            self.known_version(name, version)
            if version == active:
                raise ConfigError(f"{self.root / name}: version {version} answers", do="roll back to another first")
        with self._changed(name) as folder:
            for version in versions:
                shutil.rmtree(folder / str(version))

    def restore(self, name: str, before: Snapshot | None) -> None:
        """Have a model as it was when `snapshot` was taken, less what came since.

        Raises:
            ArtifactError: a place that cannot be written.
        """
        if before is None:
            with self.locked():
                if (self.root / name).exists():
                    exchange.remove_folder(self.root / name)
            return
        with self._changed(name) as folder:
            for version in set(versions_in(folder)) - set(before.versions):
                shutil.rmtree(folder / str(version))
            shutil.rmtree(folder / CONFIGS, ignore_errors=True)
            for file, content in before.files.items():
                write_atomic(folder / file, content)

    def snapshot(self, name: str) -> Snapshot | None:
        """What `restore` needs to undo later changes; None when there is no such model."""
        folder = self.root / name
        if not (folder / CONFIG).is_file():
            return None
        kept = [folder / CONFIG, folder / LABELS, *(folder / CONFIGS).glob("*.pbtxt")]
        return Snapshot(versions_in(folder), {str(p.relative_to(folder)): p.read_bytes() for p in kept})

    @contextmanager
    def _changed(self, name: str) -> Iterator[Path]:
        with self.locked(), exchange.changed_folder(self.root / name) as folder:
            yield folder

    def models(self) -> list[str]:
        """Names of all that Triton would load, sorted.

        Raises:
            ArtifactError: no such folder.
        """
        if not self.root.is_dir():
            raise ArtifactError(f"{self.root}: no such model repository", do="make one with `shrinkserve export`")
        return sorted(path.parent.name for path in self.root.glob(f"*/{CONFIG}") if _NAME.fullmatch(path.parent.name))

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
        return versions_in(self._folder(name))

    def active(self, name: str) -> int:
        """The version that answers.

        Raises:
            ConfigError: no such model.
            ArtifactError: the configuration cannot be read or does not say.
        """
        return model_config.active_version(self.config(name))

    def version_before(self, name: str) -> int:
        """The newest version that is older than the one that answers.

        Raises:
            ConfigError: there is none, or no such model.
        """
        active = self.active(name)
        older = [version for version in self.versions(name) if version < active]
        if not older:
            raise ConfigError(f"{self.root / name}: no version before {active}", do="name one that is there (--to)")
        return older[-1]

    def known_version(self, name: str, version: int) -> Path:
        """The folder of a version that must be there.

        Raises:
            ConfigError: no such model or version.
        """
        known = self.versions(name)
        if version not in known:
            shown = ", ".join(map(str, known))
            raise ConfigError(f"{self.root / name}: no such version", expected=f"one of {shown}", found=version)
        return self.root / name / str(version)

    def config(self, name: str) -> pb.ModelConfig:
        """A model's configuration.

        Raises:
            ConfigError: no such model.
            ArtifactError: the configuration cannot be read.
        """
        return model_config.read(self._folder(name) / CONFIG)

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
            known = ", ".join(self.models()) or "none"
            raise ConfigError(f"{self.root}: no such model", expected=f"one of {known}", found=name)
        return self.root / name


def check_name(name: str) -> None:
    """Refuse a model name that is not a plain folder name.

    Raises:
        ConfigError: says what a name may be.
    """
    if not _NAME.fullmatch(name):
        wanted = "a letter or digit, then up to 127 letters, digits, '-', '_' or '.'"
        raise ConfigError("model name", expected=wanted, found=repr(name))


def versions_in(folder: Path) -> list[int]:
    """Version numbers among a model folder's subfolders: those that Triton reads, so none with a leading zero."""
    return sorted(int(p.name) for p in folder.iterdir() if re.fullmatch(r"[1-9][0-9]*", p.name) and p.is_dir())


def _check_version(version: int | None) -> None:
    if version is not None and not 1 <= version < 2**31:
        raise ConfigError("version", expected="a whole number from 1", found=version)
