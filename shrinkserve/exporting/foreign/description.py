"""Preprocessing and class names of a foreign file, from the files that the user gives."""

from __future__ import annotations

from pathlib import Path

from shrinkserve.errors import ConfigError, DataError
from shrinkserve.exporting.foreign.presets import read_preset
from shrinkserve.paths import StrPath
from shrinkserve.preprocess import Preprocess
from shrinkserve.text import read_text
from shrinkserve.toml import read_toml, validate

REQUIRED = ("size", "interpolation", "mean", "std")
WAYS = "a TOML file, timm:NAME, torchvision:NAME, or a .json file of Hugging Face"


def read_preprocess(spec: StrPath) -> Preprocess:
    """Return the preprocessing that `spec` names: a TOML file with the keys of `Preprocess`, or a preset.

    See `presets.read_preset` for presets. A TOML file needs size, interpolation, mean, std, and crop_fraction unless
    its geometry has none: ShrinkCNN's values are wrong for other networks.

    Raises:
        ConfigError: cannot read the file, or a key is missing, unknown, of another type or out of its range.
    """
    preset = read_preset(str(spec))
    if preset is not None:
        _check_scale(preset, str(spec))
        return preset
    path = Path(spec)
    raw = read_toml(path)
    preprocess = validate(Preprocess, raw, str(path))
    needed = [*REQUIRED, "crop_fraction"] if preprocess.geometry in {"squash", "center"} else REQUIRED
    if missing := [name for name in needed if name not in raw]:
        raise ConfigError(f"{path}: missing keys", expected=", ".join(missing), hint="add them to the file")
    try:
        preprocess.check()
    except DataError as exc:
        raise ConfigError(f"{path}: out of range ({exc.what})", expected=exc.expected, found=exc.found) from exc
    _check_scale(preprocess, str(path))
    return preprocess


def _check_scale(preprocess: Preprocess, where: str) -> None:
    """Check that mean and std are of the scale of the pixels that they normalise."""
    largest = 255 * preprocess.scale
    if max(map(abs, preprocess.mean)) > largest or max(preprocess.std) > largest:
        found = f"mean {list(preprocess.mean)}, std {list(preprocess.std)}"
        hint = "divide both by 255, or do not scale the pixels" if largest <= 1 else None
        raise ConfigError(f"{where}: mean and std", expected=f"values up to {largest:g}", found=found, hint=hint)


def read_labels(path: Path) -> list[str]:
    """Read class names, one a line in the order of the logits; a byte order mark and empty last lines are ignored.

    Raises:
        DataError: cannot read the file, or it has no names, an empty name or a name twice.
    """
    try:
        text = read_text(path)
    except OSError as exc:
        raise DataError(f"{path}: cannot read the labels ({exc.strerror})", hint="check --labels") from exc
    except UnicodeDecodeError as exc:
        raise DataError(f"{path}: not a list of labels ({exc})", hint="give a text file in UTF-8") from exc
    labels = [line.removesuffix("\r") for line in text.rstrip("\r\n").split("\n")]
    if labels == [""]:
        raise DataError(f"{path}: no labels", expected="one class name a line")
    if "" in labels:
        raise DataError(f"{path}: empty label", found=f"line {labels.index('') + 1}", expected="one class name a line")
    first: dict[str, int] = {}
    for number, label in enumerate(labels, 1):
        if first.setdefault(label, number) != number:
            found = f"{label!r} in lines {first[label]} and {number}"
            raise DataError(
                f"{path}: label twice", expected="one name for each class", found=found, hint="make them distinct"
            )
    return labels
