"""scikit-learn's handwritten digits as a small ImageNet: real images without a download.

Each 8x8 digit is drawn 56x56 in the middle of a black 64x64 canvas, so the standard evaluation crop of 87.5 % is
exactly the digit.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from shrinkserve.atomic import staged_folder
from shrinkserve.data.dataset import Split
from shrinkserve.data.packing.writing import example, refuse_foreign_folder
from shrinkserve.data.storage.records import BACKGROUND
from shrinkserve.data.storage.shards import LABELS, PREFIXES, shard_name
from shrinkserve.data.storage.tfrecord import append_record
from shrinkserve.paths import StrPath

CANVAS, DIGIT = 64, 56
SHARDS: dict[Split, int] = {"train": 4, "validation": 2}
VALIDATION_EVERY = 5
"""In each class every fifth image is a validation image: 80/20, stratified, without a random number."""


def write_digits(target: StrPath) -> dict[Split, int]:
    """Write scikit-learn's 1,797 handwritten digits as JPEGs in TFRecord shards, the same bytes every time.

    Args:
        target: the dataset's folder; an earlier dataset there is replaced.

    Returns:
        The number of images of each split.

    Raises:
        DataError: `target` contains something that is not such a dataset.
        ArtifactError: `target` cannot be written.

    Example::

        write_digits("data/digits")
    """
    target = Path(target)
    from sklearn.datasets import load_digits

    refuse_foreign_folder(target)
    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))  # numpy guarantees this stream
    rank_in_class = np.zeros(len(order), dtype=np.int64)
    for digit in range(10):
        members = order[digits.target[order] == digit]
        rank_in_class[members] = np.arange(len(members))
    held_out = rank_in_class % VALIDATION_EVERY == 0
    parts: dict[Split, np.ndarray] = {"train": order[~held_out[order]], "validation": order[held_out[order]]}
    with staged_folder(target) as folder:
        for split, members in parts.items():
            _write_split(folder, split, digits.images, digits.target, members)
        (folder / LABELS).write_text("\n".join([BACKGROUND, *map(str, range(10))]) + "\n", encoding="utf-8")
    return {split: len(members) for split, members in parts.items()}


def _write_split(root: Path, split: Split, images: np.ndarray, digits: np.ndarray, members: np.ndarray) -> None:
    folder, prefix = PREFIXES[split]
    (root / folder).mkdir()
    for number, part in enumerate(np.array_split(members, SHARDS[split])):
        with (root / folder / shard_name(prefix, number, SHARDS[split])).open("wb") as stream:
            for index in part:
                digit = int(digits[index])
                jpeg = _draw(images[index])
                append_record(
                    stream,
                    example(
                        jpeg,
                        size=(CANVAS, CANVAS),
                        label=digit + 1,
                        synset=str(digit),
                        text=str(digit),
                        filename=f"digit-{index:04d}.JPEG",
                    ),
                )


def _draw(image: np.ndarray) -> bytes:
    """Return the JPEG of an 8x8 image of values 0..16 on its canvas."""
    from PIL import Image

    small = Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8))
    canvas = Image.new("RGB", (CANVAS, CANVAS))
    edge = (CANVAS - DIGIT) // 2
    canvas.paste(small.resize((DIGIT, DIGIT), Image.Resampling.BICUBIC).convert("RGB"), (edge, edge))
    stream = io.BytesIO()
    canvas.save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()
