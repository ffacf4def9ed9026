"""The model repository: a folder that Triton loads, at every moment of its life.

```
ROOT/NAME/config.pbtxt        which version answers, its contract, how it is run
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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import Card, read_card, verify_file, write_atomic
from shrinkserve.config import ServingConfig
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.serving import model_config
from shrinkserve.serving.exchange import changed_folder, locked, unwritable
from shrinkserve.serving.model_config import CONFIG, LABELS, MODEL

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Repository:
    """A model repository.

    Args:
        root: its folder; made by the first `add`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(
        self,
        name: str,
        model_file: Path,
        card: Card,
        *,
        version: int | None = None,
        options: ServingConfig | None = None,
    ) -> Path:
        """Add a version of a model and make it the one that answers.

        Args:
            name: the model's name: letters, digits, ``-``, ``_`` and ``.``.
            model_file: the ONNX file; input ``images`` uint8 [N, S, S, 3], outputs ``logits`` and
                ``probabilities`` float32 [N, classes].
            card: of the model file; names its sha256 under ``model.onnx``.
            version: its number; the next free one when None.
            options: how it is run; None keeps what the model's configuration says, edits and all.

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
        with locked(self.root), changed_folder(self.root / name) as folder:
            taken = versions_in(folder)
            number = version or max(taken, default=0) + 1
            if number in taken:
                raise ConfigError(f"{self.root / name}: version {number} is there already", do="leave the version out")
            place = folder / str(number)
            with unwritable(self.root / name / str(number)):
                place.mkdir()
                shutil.copyfile(model_file, place / MODEL)
            verify_file(place / MODEL, card.files[MODEL])
            replace(card, name=name, files={MODEL: card.files[MODEL]}).write(place)
            _activate(folder, number, options)
        return self.root / name / str(number)

    def models(self) -> list[str]:
        """Names of the models, sorted.

        Raises:
            ArtifactError: no such folder.
        """
        if not self.root.is_dir():
            raise ArtifactError(f"{self.root}: no such model repository", do="make one with `shrinkserve export`")
        return sorted(p.parent.name for p in self.root.glob(f"*/{CONFIG}") if _NAME.fullmatch(p.parent.name))

    def versions(self, name: str) -> list[int]:
        """Numbers of a model's versions, in order.

        Raises:
            ConfigError: no such model.
        """
        return versions_in(self._folder(name))

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
        return read_card(self._folder(name) / str(version), verify=verify)

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


def _activate(folder: Path, version: int, options: ServingConfig | None = None) -> None:
    """Write the configuration and labels with which `version` answers into a model's staged folder."""
    card = read_card(folder / str(version), verify=False)
    if options is None and (folder / CONFIG).is_file():
        config = model_config.read(folder / CONFIG)
        model_config.set_contract(config, card, version)
    else:
        config = model_config.build(folder.name, card, options, version=version)
    write_atomic(folder / CONFIG, model_config.to_text(config).encode())
    write_atomic(folder / LABELS, labels_text(card.classes).encode())


def labels_text(classes: Sequence[str]) -> str:
    """The content of ``labels.txt``: a class a line.

    Raises:
        ArtifactError: a class name that is more than one line.
    """
    for name in classes:
        if len(name.splitlines()) > 1 or name != name.strip("\r\n"):
            raise ArtifactError("class names", expected="one line each", found=repr(name))
    return "".join(f"{name}\n" for name in classes)
