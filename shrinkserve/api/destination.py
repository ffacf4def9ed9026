"""Destination of an export: a repository, a live server with its repository, or a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from shrinkserve.api.arguments import Say
from shrinkserve.errors import ConfigError

if TYPE_CHECKING:
    from shrinkserve.artifact import Card
    from shrinkserve.engines import Engine
    from shrinkserve.exporting.exporter import Exported


@dataclass(frozen=True)
class ExportResult(os.PathLike[str]):
    """A version that `export` wrote or extended. Functions that take the path of a version take this too.

    Attributes:
        folder: the version's folder.
        card: its card.
        engines: the engines that were made.
        added: the engines were added to a version that existed.
    """

    folder: Path
    card: Card = field(repr=False)
    engines: list[Engine]
    added: bool = False

    def __fspath__(self) -> str:
        return str(self.folder)


@dataclass(frozen=True)
class Destination:
    """Place and options of the version that an export writes; see `shrinkserve.api.exporting.export`."""

    root: Path
    out: Path | None
    url: str | None
    token: str | None
    version: int | None
    approximate_decoder: bool
    data: Path | None
    say: Say

    def check(self, name: str | None) -> None:
        """Check the place before the work."""
        from shrinkserve.artifact import check_name
        from shrinkserve.atomic import check_writable
        from shrinkserve.serving.repository.writer import Repository

        if self.out is not None:
            if self.url is not None or self.version is not None:
                raise ConfigError("--out", expected="neither --url nor --version with it")
            if self.out.exists():
                raise ConfigError(f"{self.out}: the folder exists", hint="name a new folder")
            check_writable(self.out.parent)
            if name is not None:
                check_name(name)
        elif self.url is not None and self.version is not None:
            raise ConfigError("--url", expected="no --version with it", found=self.version)
        else:
            Repository(self.root).check_place(name, self.version)

    def write(self, made: Exported, name: str | None, engines: list[Engine]) -> ExportResult:
        """Write the version, with its engines, in one step."""
        from shrinkserve.serving.names import classifier_name
        from shrinkserve.serving.repository.version import write_version
        from shrinkserve.serving.repository.writer import Repository
        from shrinkserve.serving.server.launch import importable

        card = replace(made.card, name=name or made.card.name)
        if self.out is not None:
            card = write_version(self.out, made.model, card, engines)
            return ExportResult(self.out, card, engines)
        decodes = importable("nvidia.dali")
        if decodes:
            self._report_decoder(card)
        if self.url is not None:
            return self._publish(made, card, engines)
        place = Repository(self.root, say=self.say).add(
            classifier_name(card.name),
            made.model,
            card,
            engines=engines,
            version=self.version,
            initial=made.serving,
            encoded=decodes,
            approximate_decoder=self.approximate_decoder,
        )
        return ExportResult(place, card, engines)

    def _report_decoder(self, card: Card) -> None:
        """Measure how far DALI's pixels are from the contract's if DALI lacks the filter."""
        from shrinkserve.preprocess import Preprocess

        preprocess = Preprocess.from_dict(card.preprocess)
        if preprocess.approximate_in_dali() is None or self.data is None:
            return
        from shrinkserve.data import open_dataset
        from shrinkserve.data.loading.dali import decoder_difference

        difference = decoder_difference(open_dataset(self.data, "validation"), preprocess)
        self.say(f"DALI's pixels differ from the preprocessing by {difference:.1f} of 255 on average")

    def _publish(self, made: Exported, card: Card, engines: list[Engine]) -> ExportResult:
        from shrinkserve.api.publishing import publish
        from shrinkserve.serving.repository.version import write_version

        staged = made.model.parent / "version"
        card = write_version(staged, made.model, card, engines)
        place = publish(
            staged,
            self.root,
            name=card.name,
            initial=made.serving,
            url=self.url,
            token=self.token,
            approximate_decoder=self.approximate_decoder,
            say=self.say,
        )
        return ExportResult(place, card, engines)
