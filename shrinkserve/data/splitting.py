"""Split a folder of images into training and validation images."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shrinkserve.atomic import staged_folder
from shrinkserve.data.storage.names import class_folders
from shrinkserve.errors import ConfigError, DataError, check_range
from shrinkserve.paths import StrPath
from shrinkserve.preprocess import list_images


@dataclass(frozen=True)
class SplitReport:
    """Images of a split dataset.

    Attributes:
        train: number of training images, by class.
        validation: number of validation images, by class.
        skipped: files left out, by reason.
    """

    train: dict[str, int]
    validation: dict[str, int]
    skipped: dict[str, int]


def split_dataset(source: StrPath, out: StrPath, *, fraction: float = 0.2, seed: int = 0) -> SplitReport:
    """Split a folder with one folder per class into a dataset with training and validation images.

    Each class is split by the same fraction. Images are hard links where the file system allows it, else copies.

    Args:
        source: ``<class>/*.jpg``, or a dataset with ``train/<class>`` and without validation images.
        out: folder of the new dataset, ``train/<class>/*.jpg`` and ``val/<class>/*.jpg``; must not exist.
        fraction: validation part of each class, above 0 and below 1; at least one image.
        seed: of the random choice; the same seed and files give the same split.

    Returns:
        Numbers of images by class.

    Raises:
        ConfigError: `fraction` is out of range, or `out` exists.
        DataError: no images, a class with a single image, or a source that already has validation images.
        ArtifactError: `out` cannot be written.

    Example::

        split_dataset("photos", "data", fraction=0.2)
    """
    source, out = Path(source), Path(out)
    check_range(0, seed=seed)
    if not 0 < fraction < 1:
        raise ConfigError("fraction", expected="above 0 and below 1", found=fraction)
    if out.exists():
        raise ConfigError(f"{out}: exists already", hint="name a new folder")
    if not source.is_dir():
        raise DataError(f"{source}: no such folder", hint="check the path")
    for name in ("val", "validation"):
        if (source / "train").is_dir() and (source / name).is_dir():
            raise DataError(f"{source}: has validation images already", found=str(source / name))
    folders = class_folders(source / "train" if (source / "train").is_dir() else source)
    report = SplitReport({}, {}, {})
    with staged_folder(out) as staging:
        for name, folder in folders.items():
            listing = list_images(folder)
            for reason, count in listing.skipped.items():
                report.skipped[reason] = report.skipped.get(reason, 0) + count
            chosen = _choose(name, len(listing.images), fraction, seed)
            report.train[name], report.validation[name] = len(listing.images) - len(chosen), len(chosen)
            for index, path in enumerate(listing.images):
                split = "val" if index in chosen else "train"
                _link(path, staging / split / name / path.relative_to(folder))
    return report


def _choose(name: str, count: int, fraction: float, seed: int) -> set[int]:
    """Return the validation images of a class, which has `count` images."""
    wanted = max(1, round(count * fraction))
    if wanted >= count:
        raise DataError(
            f"class {name}: too few images for both splits",
            expected="at least 2, and a fraction that leaves some for training",
            found=count,
            hint="add images, remove the class, or give a smaller fraction",
        )
    # Seeded by the name too: the choice in a class does not depend on other classes.
    random = np.random.default_rng([seed, *name.encode(errors="surrogateescape")])
    return set(random.permutation(count)[:wanted].tolist())


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
