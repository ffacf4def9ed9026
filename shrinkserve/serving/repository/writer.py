"""The model repository: a folder that Triton loads, at every moment of its life.

```
ROOT/MODEL/config.pbtxt        which version answers, its contract, how it is run
ROOT/MODEL/configs/*.pbtxt     the same for other engines of that version
ROOT/MODEL/labels.txt          class names in the order of the logits
ROOT/MODEL/VERSION/model.onnx
ROOT/MODEL/VERSION/card.json   where it came from, and the sha256 of the files beside it
```

MODEL is Triton's name of a classifier, ``NAME_classifier`` where `export` wrote it (`family`); methods that change one
take NAME as well. The folders with which it takes encoded images follow its changes (`jpeg`).

Every change is made on a copy of the model's folder (hard links, so it costs nothing) which then takes the place
of the folder in one step, under a lock that all publishers share.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from shrinkserve.artifact import MODEL, Card, check_name, read_card, safe_join
from shrinkserve.atomic import check_writable, write_atomic
from shrinkserve.config import ServingConfig
from shrinkserve.engines import Engine, check_files, engines_of, keep_other_plans
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.serving import model_config, names
from shrinkserve.serving.model_config import CONFIG
from shrinkserve.serving.repository import ensemble, transaction
from shrinkserve.serving.repository.activation import activate
from shrinkserve.serving.repository.engine_config import CONFIGS
from shrinkserve.serving.repository.reader import ModelSnapshot, RepositoryReader, versions_in
from shrinkserve.serving.repository.version import place_engines, write_version


class Repository(RepositoryReader):
    """A model repository, to be changed.

    Args:
        root: its folder; made by the first `add`.
        say: is called with a line before a change waits for another publisher.
        wait: how many seconds a change waits for another publisher.
    """

    def __init__(
        self, root: Path, *, say: Callable[[str], None] = lambda _: None, wait: float = transaction.WAIT_SECONDS
    ) -> None:
        super().__init__(root)
        self._say, self._wait = say, wait
        self._held = 0

    @contextmanager
    def locked(self, say: Callable[[str], None] | None = None) -> Iterator[None]:
        """Keep other publishers waiting during several changes; may be nested.

        Args:
            say: is called with a line before a wait for another publisher; that of the repository when None.

        Raises:
            ArtifactError: the folder cannot be written or locked, or the other publisher takes too long.
        """
        with ExitStack() as stack:
            if not self._held:
                tell = say or self._say
                line = f"waiting: another publisher is at work in {self.root}"
                stack.enter_context(transaction.locked(self.root, lambda who: tell(f"{line} ({who})"), self._wait))
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
        engines: Sequence[Engine] = (),
        version: int | None = None,
        options: ServingConfig | None = None,
        initial: ServingConfig | None = None,
        encoded: bool = False,
    ) -> Path:
        """Add a version with all its engines in one transaction and make it the active one.

        Args:
            name: the model's name: letters, digits, ``-``, ``_`` and ``.``. A new model that takes encoded images
                needs a name that ends in ``_classifier``.
            model_file: the ONNX file; input ``images`` uint8 [N, S, S, 3], outputs ``logits`` and
                ``probabilities`` float32 [N, classes].
            card: of the model file; has its sha256 under ``model.onnx``. The other files that it names are taken
                from the folder of the model file.
            engines: engines to add to those of the card; their files are taken from the folder of the model file.
            version: its number; the next free one when None.
            options: serving options; None keeps the options and edits of the model's configuration.
            initial: serving options for a model without a configuration, if `options` is None.
            encoded: also write the pipeline and ensemble that take encoded images, as `add_jpeg` does.

        Returns:
            The version's folder.

        Raises:
            ConfigError: an invalid name or version, a version that exists, or `encoded` without DALI.
            ArtifactError: a file that does not match the card, an incomplete card, or a folder that cannot be written.
        """
        name = self.classifier_or_new(name)
        _check_version(version)
        if MODEL not in card.files:
            raise ArtifactError(f"card of {name}: no sha256 of {MODEL}", hint="export the model again")
        check_files(card)
        with self._changed(name, encoded=encoded) as folder:
            taken = versions_in(folder)
            number = version or max(taken, default=0) + 1
            if number in taken:
                raise _taken(self.root / name, number)
            place = folder / str(number)
            card = write_version(place, model_file, replace(card, name=name), engines)
            activate(folder, number, card, options if (folder / CONFIG).is_file() else options or initial)
        return self.root / name / str(number)

    def check_place(self, name: str | None, version: int | None) -> None:
        """Refuse before a model is made what `add` would refuse afterwards; what is None is not known yet.

        Raises:
            ConfigError: a name or version that cannot be, or a version that is there already.
            ArtifactError: the folder cannot be written.
        """
        _check_version(version)
        if name is not None:
            check_name(name)
            folder = self.root / names.classifier_name(name)
            if folder.is_dir() and version in versions_in(folder):
                raise _taken(folder, version)
        check_writable(self.root)

    def add_engines(self, name: str, engines: Sequence[Engine], folder: Path, *, version: int | None = None) -> Path:
        """Add engines to a version in one transaction. An engine of the same name is replaced.

        Plans of the replaced engine for other GPUs are kept.

        Args:
            name: the model's public name, or its classifier's.
            engines: the engines.
            folder: the folder with their files.
            version: the version whose weights they have; the active one when None.

        Returns:
            The version's folder.

        Raises:
            ConfigError: no such model or version, or an invalid name of an engine.
            ArtifactError: a missing file, or a folder that cannot be written.
        """
        name = self.classifier(name)
        number = version or self.active(name)
        self.known_version(name, number)
        with self._changed(name) as model:
            place = model / str(number)
            card = read_card(place, verify=False)
            known = {engine.name: engine for engine in engines_of(card)}
            merged = [keep_other_plans(engine, known.get(engine.name)) for engine in engines]
            new = place_engines(place, folder, card, merged)
            for file in card.files.keys() - new.files.keys():  # of the replaced engines
                safe_join(place, file).unlink(missing_ok=True)
            new.write(place)
            if number == self.active(name):
                activate(model, number, new)
        return self.root / name / str(number)

    def activate(self, name: str, version: int) -> None:
        """Make a version that is there the one that answers: configuration and labels become its own.

        Raises:
            ConfigError: no such model or version.
            ArtifactError: a damaged version, or a place that cannot be written.
        """
        name = self.classifier(name)
        self.known_version(name, version)
        with self._changed(name) as folder:
            activate(folder, version, read_card(folder / str(version)))

    def configure(self, name: str, options: ServingConfig, engine: str | None = None) -> None:
        """Change how a model is run: its default engine, or the one of ``configs/ENGINE.pbtxt``.

        Raises:
            ConfigError: no such model or engine.
            ArtifactError: a configuration that cannot be read, or a place that cannot be written.
        """
        name = self.classifier(name)
        path = self.config_path(name, engine).relative_to(self.root / name)
        with self._changed(name) as folder:
            config = model_config.read_config(folder / path)
            model_config.set_options(config, options)
            write_atomic(folder / path, model_config.to_text(config).encode())

    def remove(self, name: str, versions: Sequence[int]) -> None:
        """Remove versions that do not answer.

        Raises:
            ConfigError: no such model or version, or the one that answers.
            ArtifactError: a place that cannot be written.
        """
        name = self.classifier(name)
        active = self.active(name)
        for version in versions:
            self.known_version(name, version)
            if version == active:
                raise ConfigError(f"{self.root / name}: version {version} answers", hint="roll back to another first")
        with self._changed(name) as folder:
            for version in versions:
                shutil.rmtree(folder / str(version))

    def add_jpeg(self, name: str) -> None:
        """Have a classifier take encoded images too: write the pipeline and the ensemble of `jpeg`, or mend them.

        Raises:
            ConfigError: no such model, not the name of a classifier, or DALI is not installed.
            ArtifactError: a place that cannot be written.
        """
        with self._changed(self.classifier(name), encoded=True):
            pass

    def restore(self, name: str, before: ModelSnapshot | None) -> None:
        """Have a model as it was when `snapshot` was taken, less what came since.

        Raises:
            ArtifactError: a place that cannot be written.
        """
        if before is None:
            with self.locked():
                for part in reversed(names.names_of_ensemble(name)):
                    if (self.root / part).exists():
                        transaction.remove_folder(self.root / part)
            return
        with self._changed(name) as folder:
            for version in set(versions_in(folder)) - set(before.versions):
                shutil.rmtree(folder / str(version))
            shutil.rmtree(folder / CONFIGS, ignore_errors=True)
            for file, content in before.files.items():
                write_atomic(folder / file, content)

    @contextmanager
    def _changed(self, name: str, *, encoded: bool = False) -> Iterator[Path]:
        with self.locked(), transaction.changed_folders(self.root) as change:
            folder = change.copy(name)
            yield folder
            if (encoded or ensemble.takes_encoded(self.root, name)) and ensemble.misfit(self.root, folder):
                ensemble.stage(change, folder)


def _taken(folder: Path, version: int | None) -> ConfigError:
    return ConfigError(f"{folder}: version {version} is there already", hint="leave the version out")


def _check_version(version: int | None) -> None:
    if version is not None and not 1 <= version < 2**31:
        raise ConfigError("version", expected="a whole number from 1", found=version)
