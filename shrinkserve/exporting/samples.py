"""Sample images used to check that a conversion preserves the model's outputs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shrinkserve.artifact import open_recorded, read_card
from shrinkserve.data import evaluation_batches, open_dataset
from shrinkserve.data.loading.order import evaluation_order
from shrinkserve.preprocess import Preprocess

SYNTHETIC_SEED = 0
SYNTHETIC_SIZES = ((500, 375), (375, 500), (224, 224), (1024, 683), (97, 131), (640, 480), (300, 300), (256, 341))
"""Width and height of synthetic image files."""
ENCODED = 32
"""Largest number of image files."""


@dataclass(frozen=True)
class Samples:
    """Images at the network's size.

    Attributes:
        images: uint8 [N, S, S, 3].
        labels: int64 [N]; None without labels.
        source: description of the images, for cards and messages.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64] | None
    source: str

    def __len__(self) -> int:
        return len(self.images)


def load_samples(
    data_root: Path | None, preprocess: Preprocess, classes: Sequence[str] | None = None, limit: int = 256
) -> Samples:
    """Return validation images, spread evenly over the dataset; without a dataset, synthetic images.

    Args:
        data_root: the dataset; None for synthetic images.
        preprocess: the preprocessing.
        classes: of the network; if the dataset has others, the samples have no labels.
        limit: largest number of images.

    Raises:
        DataError: no dataset there, or an image cannot be read.
    """
    if data_root is None:
        return synthetic(preprocess.size, min(limit, 64), preprocess.channels)
    dataset = open_dataset(data_root, "validation")
    batches = list(evaluation_batches(dataset, preprocess, 64, limit=limit))
    images = np.concatenate([batch.images for batch in batches])
    labels = np.concatenate([batch.labels for batch in batches])
    source = f"{len(images)} of {len(dataset)} validation images of {data_root}"
    if classes is not None and list(classes) != list(dataset.classes):
        return Samples(images, None, f"{source}, whose classes are not those of the network: labels are ignored")
    return Samples(images, labels, source)


@dataclass(frozen=True)
class EncodedSamples:
    """Image files.

    Attributes:
        images: their content.
        source: description of the images, for cards and messages.
    """

    images: list[bytes]
    source: str


def load_encoded(data_root: Path | None, modes: Sequence[str]) -> EncodedSamples:
    """Return validation images as they are stored, spread evenly over the dataset; else synthetic ones.

    Args:
        data_root: the dataset; None for synthetic images.
        modes: Pillow's modes of the images to take; others are left out.

    Raises:
        DataError: no dataset there, or an image cannot be read.
    """
    from PIL import Image

    found = []
    if data_root is not None:
        dataset = open_dataset(data_root, "validation")
        for index in evaluation_order(len(dataset), rank=0, world=1, limit=ENCODED).tolist():
            encoded = dataset.record(index).encoded
            with suppress(OSError), Image.open(io.BytesIO(encoded)) as image:
                if image.mode in modes:
                    found.append(encoded)
        if found:
            return EncodedSamples(found, f"{len(found)} encoded validation images of {data_root}")
    for number, size in enumerate(SYNTHETIC_SIZES):
        stream = io.BytesIO()
        picture = Image.fromarray(synthetic(64, number + 1).images[number])
        picture.resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=95)
        found.append(stream.getvalue())
    return EncodedSamples(found, f"{len(found)} synthetic JPEG images, seed {SYNTHETIC_SEED}")


def is_version(folder: Path) -> bool:
    """Return True for a version of a model repository, False for a run.

    Raises:
        ArtifactError: neither, or the card cannot be read.
    """
    return read_card(folder, verify=False).kind == "onnx"


def trained_on(folder: Path) -> Path | None:
    """Return the dataset that a run was trained on; None if it is no longer there.

    Args:
        folder: of the run, or of a version that was exported from it.

    Raises:
        ArtifactError: no card there.
    """
    card = read_card(folder, verify=False)
    recorded = card.details.get("data")
    if not isinstance(recorded, str) or not recorded:
        return None
    return path if (path := open_recorded(recorded)).is_dir() else None


def synthetic(size: int, count: int, channels: int = 3) -> Samples:
    """Return smooth coloured images with a sharp patch each, the same ones in every call.

    They are no photographs, but neither flat nor white noise.
    """
    from PIL import Image

    rng = np.random.default_rng(SYNTHETIC_SEED)
    images = np.empty((count, size, size, 3), np.uint8)
    for image in images:
        field = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        image[:] = np.asarray(field.resize((size, size), Image.Resampling.BICUBIC))
        top, left = rng.integers(0, max(1, size // 2), 2)
        image[top : top + size // 3, left : left + size // 3] = rng.integers(0, 256, 3, dtype=np.uint8)
    images = np.ascontiguousarray(images[..., :channels])
    return Samples(images, None, f"{count} synthetic images, seed {SYNTHETIC_SEED}")
