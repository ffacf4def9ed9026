"""Change a model repository.

```
ROOT/MODEL/config.pbtxt        active version, contract and serving options
ROOT/MODEL/configs/*.pbtxt     the same for other engines of that version
ROOT/MODEL/labels.txt          class names in the order of the logits
ROOT/MODEL/VERSION/model.onnx
ROOT/MODEL/VERSION/card.json   provenance, and the sha256 of the other files
```

MODEL is Triton's name of a classifier: ``NAME_classifier`` if `export` wrote it (`names`). Methods also take NAME. The
models that take encoded images follow each change (`ensemble`).

A change is made on copies of the folders (hard links, so it is cheap), which then take the places of the originals
under a lock. The originals are kept until the change is confirmed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from shrinkserve.artifact import MODEL, Card, check_name, read_card, safe_join
from shrinkserve.atomic import check_writable
from shrinkserve.config import ServingConfig
from shrinkserve.engines import Engine, check_files, engines_of, keep_other_plans
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.serving import config_text, names
from shrinkserve.serving.model_config import CONFIG
from shrinkserve.serving.repository import ensemble, lock, serving_options
from shrinkserve.serving.repository.activation import activate
from shrinkserve.serving.repository.reader import RepositoryReader, versions_in
from shrinkserve.serving.repository.transaction import Change, changing
from shrinkserve.serving.repository.version import place_engines, write_version

Confirm = Callable[[int], None]
"""Receives the version that a change made active; an exception undoes the change."""


class Repository(RepositoryReader):
    """A model repository that can be changed.

    Args:
        root: its folder; the first `add` makes it.
        say: receives a line before a change waits for another publisher.
        wait: the longest wait for another publisher in seconds.
    """

    def __init__(
        self, root: Path, *, say: Callable[[str], None] = lambda _: None, wait: float = lock.WAIT_SECONDS
    ) -> None:
        super().__init__(root)
        self._say, self._wait = say, wait
        self._depth = dict.fromkeys((lock.CHANGE, lock.PUBLISH), 0)

    @contextmanager
    def locked(self, name: str = lock.CHANGE) -> Iterator[None]:
        """Hold a lock of the repository; calls may be nested.

        Args:
            name: `lock.CHANGE` for changes of folders, `lock.PUBLISH` while a version is tried out.

        Raises:
            ArtifactError: the folder cannot be written or locked, or the wait took too long.
        """
        with ExitStack() as stack:
            if not self._depth[name]:
                line = f"waiting: another publisher is at work in {self.root}"
                held = lock.locked(self.root, lambda who: self._say(f"{line} ({who})"), self._wait, name=name)
                stack.enter_context(held)
            self._depth[name] += 1
            try:
                yield
            finally:
                self._depth[name] -= 1

    def add(  # noqa: PLR0913 - options by keyword
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
        approximate_decoder: bool = False,
        confirm: Confirm = lambda _: None,
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
            encoded: also write the pipeline and ensemble that take encoded images, as `add_jpeg` does, if a pipeline
                can compute the contract.
            approximate_decoder: with `encoded`, also write them for a contract that the pipeline only approximates.
            confirm: is called when the version is in its place; an exception restores the previous folders.

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
        with self._changing() as change:
            folder = change.copy(name)
            taken = versions_in(folder)
            number = version or max(taken, default=0) + 1
            if number in taken:
                raise _taken(self.root / name, number)
            place = folder / str(number)
            card = write_version(place, model_file, replace(card, name=name), engines)
            activate(folder, number, card, options if (folder / CONFIG).is_file() else options or initial)
            self._commit(change, folder, encoded=encoded, approximate=approximate_decoder)
            confirm(number)
        return self.root / name / str(number)

    def check_place(self, name: str | None, version: int | None) -> None:
        """Check before a model is made what `add` would reject afterwards; None means not known yet.

        Raises:
            ConfigError: an invalid name or version, or a version that exists.
            ArtifactError: the folder cannot be written.
        """
        _check_version(version)
        if name is not None:
            check_name(names.classifier_name(name))
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
        with self._changing() as change:
            model = change.copy(name)
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
            self._commit(change, model)
        return self.root / name / str(number)

    def activate(self, name: str, version: int, *, confirm: Confirm = lambda _: None) -> None:
        """Make an existing version the active one.

        Args:
            name: the model's public name, or its classifier's.
            version: its number.
            confirm: is called when the version is active; an exception restores the previous folders.

        Raises:
            ConfigError: no such model or version.
            ArtifactError: a damaged version, or a folder that cannot be written.
        """
        name = self.classifier(name)
        self.known_version(name, version)
        with self._changing() as change:
            folder = change.copy(name)
            activate(folder, version, read_card(folder / str(version)))
            self._commit(change, folder)
            confirm(version)

    def configure(self, name: str, options: ServingConfig, engine: str | None = None) -> None:
        """Change the serving options of a model's default engine, or of ``configs/ENGINE.pbtxt``.

        Raises:
            ConfigError: no such model or engine.
            ArtifactError: a configuration that cannot be read, or a folder that cannot be written.
        """
        name = self.classifier(name)
        path = self.config_path(name, engine).relative_to(self.root / name)
        with self._changing() as change:
            folder = change.copy(name)
            config = config_text.read_config(folder / path)
            serving_options.set_options(config, options)
            config_text.write_config(folder / path, config)
            self._commit(change, folder)

    def remove(self, name: str, versions: Sequence[int]) -> None:
        """Remove versions that are not active.

        Raises:
            ConfigError: no such model or version, or the active one.
            ArtifactError: a folder that cannot be written.
        """
        name = self.classifier(name)
        with self._changing() as change:
            active = self.active(name)
            for version in versions:
                self.known_version(name, version)
                if version == active:
                    hint = "roll back to another version first"
                    raise ConfigError(f"{self.root / name}: version {version} is active", hint=hint)
            folder = change.copy(name)
            for version in versions:
                shutil.rmtree(folder / str(version))
            self._commit(change, folder)

    def add_jpeg(self, name: str, *, approximate_decoder: bool = False) -> None:
        """Write the models that are derived from a classifier again, so that it takes encoded images.

        Args:
            name: the model's name.
            approximate_decoder: also for a contract that the pipeline only approximates.

        Raises:
            ConfigError: no such model, not the name of a classifier, a model of the user has one of the names, or
                DALI is not installed.
            ArtifactError: a folder that cannot be written.
        """
        with self._changing() as change:
            hidden = ensemble.stage(change, change.copy(self.classifier(name)), approximate=approximate_decoder)
            change.commit(hidden=hidden)

    @contextmanager
    def _changing(self) -> Iterator[Change]:
        with self.locked(), changing(self.root) as change:
            yield change

    def _commit(self, change: Change, folder: Path, *, encoded: bool = False, approximate: bool = False) -> None:
        """Commit a change of a classifier's folder, together with derived models that no longer fit it."""
        hidden: Sequence[str] = ()
        present = ensemble.takes_encoded(self.root, folder.name)
        if encoded and not present and not approximate and (why := ensemble.unsupported(folder)):
            self._say(f"{folder.name} takes pixels only: {why}; --approximate-decoder accepts other pixels")
        elif (encoded or present) and ensemble.misfit(self.root, folder):
            hidden = ensemble.stage(change, folder, approximate=approximate)
        change.commit(hidden=hidden)


def _taken(folder: Path, version: int | None) -> ConfigError:
    return ConfigError(f"{folder}: version {version} exists", hint="leave the version out to take the next number")


def _check_version(version: int | None) -> None:
    if version is not None and not 1 <= version < 2**31:
        raise ConfigError("version", expected="a whole number from 1", found=version)
