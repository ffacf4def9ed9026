"""The images that a conversion is judged by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shrinkserve.artifact import read_card
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


def load_samples(data_root: Path | None, preprocess: Preprocess, limit: int = 256) -> Samples:
    """Validation images, spread evenly over the dataset; without a dataset, synthetic ones that say so.

    Raises:
        DataError: no dataset there, or an image that cannot be read.
    """
    if data_root is None:
        return synthetic(preprocess.size, min(limit, 64))
    dataset = open_dataset(data_root, "validation")
    batches = list(evaluation_batches(dataset, preprocess, 64, limit=limit))
    images, labels = (np.concatenate([getattr(batch, part) for batch in batches]) for part in ("images", "labels"))
    return Samples(images, labels, f"{len(images)} of {len(dataset)} validation images of {data_root}")


def trained_on(run: Path) -> Path | None:
    """The dataset that a run was trained on, where it still lies there.

    Raises:
        ArtifactError: no run there.
    """
    recorded = read_card(run, "checkpoint", verify=False).details.get("data")
    return Path(recorded) if recorded and Path(recorded).is_dir() else None


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
