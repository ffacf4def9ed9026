"""The images that a conversion is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shrinkserve.artifact import open_recorded, read_card
from shrinkserve.data import evaluation_batches, open_dataset
from shrinkserve.preprocess import Preprocess

SYNTHETIC_SEED = 0


@dataclass(frozen=True)
class Samples:
    """Images at the network's size.

    Attributes:
        images: uint8 [N, S, S, 3].
        labels: int64 [N], or None where the images have none.
        source: what they are, for the card and for messages.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64] | None
    source: str

    def __len__(self) -> int:
        return len(self.images)


def load_samples(
    data_root: Path | None, preprocess: Preprocess, classes: Sequence[str] | None = None, limit: int = 256
) -> Samples:
    """Validation images, spread evenly over the dataset; without a dataset, synthetic ones that say so.

    Args:
        data_root: the dataset; None for synthetic images.
        preprocess: what happens to an image.
        classes: of the network that is asked; labels that mean others are left out, so that nothing is judged by them.
        limit: how many images at most.

    Raises:
        DataError: no dataset there, or an image that cannot be read.
    """
    if data_root is None:
        return synthetic(preprocess.size, min(limit, 64))
    dataset = open_dataset(data_root, "validation")
    batches = list(evaluation_batches(dataset, preprocess, 64, limit=limit))
    images, labels = (np.concatenate([getattr(batch, part) for batch in batches]) for part in ("images", "labels"))
    source = f"{len(images)} of {len(dataset)} validation images of {data_root}"
    if classes is not None and list(classes) != list(dataset.classes):
        return Samples(images, None, f"{source}, whose classes are not the network's: labels are not used")
    return Samples(images, labels, source)


def is_version(folder: Path) -> bool:
    """Whether a folder is a version of a model repository, and not a run.

    Raises:
        ArtifactError: neither, or a card that cannot be read.
    """
    return read_card(folder, verify=False).kind == "onnx"


def trained_on(folder: Path) -> Path | None:
    """The dataset that a run was trained on, where it still lies there.

    Args:
        folder: the run's, or that of a version which was exported from it.

    Raises:
        ArtifactError: no card there.
    """
    card = read_card(folder, verify=False)
    recorded = card.details.get("data")
    if not isinstance(recorded, str) or not recorded:
        return None
    return path if (path := open_recorded(recorded)).is_dir() else None


def synthetic(size: int, count: int) -> Samples:
    """Smooth coloured fields with a sharp patch each: no photos, but neither flat nor white noise.

    The same images every time.
    """
    from PIL import Image

    rng = np.random.default_rng(SYNTHETIC_SEED)
    images = np.empty((count, size, size, 3), np.uint8)
    for image in images:
        field = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        image[:] = np.asarray(field.resize((size, size), Image.Resampling.BICUBIC))
        top, left = rng.integers(0, size // 2, 2)
        image[top : top + size // 3, left : left + size // 3] = rng.integers(0, 256, 3, dtype=np.uint8)
    return Samples(images, None, f"{count} synthetic images, seed {SYNTHETIC_SEED}")
