from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shrinkserve.config import AugmentConfig
from shrinkserve.data.augment import generator
from shrinkserve.data.dataset import Record
from shrinkserve.data.pixels import augmented, image_size, plain_jpeg_size, resize
from shrinkserve.errors import DataError
from shrinkserve.preprocess import Interpolation

KINDS = ("cmyk", "grey", "png", "exif", "progressive", "444", "00")


def square(encoded: bytes, scale: int = 1) -> bytes:
    """The same picture, square, as a JPEG."""
    stream = io.BytesIO()
    Image.open(io.BytesIO(encoded)).convert("RGB").resize((96 * scale, 96 * scale)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_pillows_picture(photo_folder: Path, off: AugmentConfig, kind: str) -> None:
    raw = (photo_folder / "train" / "cat" / f"{kind}.jpg").read_bytes()
    record = Record(raw, 0, kind)
    pillow = Image.open(io.BytesIO(raw)).convert("RGB")  # without the EXIF rotation, as ImageNet's pipelines
    assert image_size(record) == pillow.size == (120, 90)
    whole = replace(off, crop_aspect=(4 / 3, 4 / 3))
    ours = augmented(record, whole, generator(0, 0, 0), 60, "bilinear").astype(int)
    theirs = np.asarray(pillow.resize((60, 60), Image.Resampling.BILINEAR), int)
    assert np.abs(ours - theirs).mean() < 0.5


def test_which_files_libjpeg_takes(photo_folder: Path) -> None:
    taken = {k: plain_jpeg_size((photo_folder / "train" / "cat" / f"{k}.jpg").read_bytes()) for k in KINDS}
    assert [kind for kind, size in taken.items() if size is None] == ["cmyk", "png"]
    assert plain_jpeg_size(b"") is None


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_resizing_is_pillows(photo_folder: Path, interpolation: Interpolation) -> None:
    image = Image.open(photo_folder / "train" / "cup" / "00.jpg").convert("RGB")
    box = (11, 5, 107, 80)
    ours = resize(np.array(image), box, 48, interpolation).astype(int)
    theirs = np.asarray(image.resize((48, 48), Image.Resampling[interpolation.upper()], box=box), int)
    assert np.abs(ours - theirs).mean() < 0.3


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_large_picture_is_decoded_small(photo_folder: Path, off: AugmentConfig, scale: int) -> None:
    raw = square((photo_folder / "train" / "cat" / "00.jpg").read_bytes(), scale)
    ours = augmented(Record(raw, 0, "large"), off, generator(0, 0, 0), 40, "bilinear").astype(int)
    theirs = np.asarray(Image.open(io.BytesIO(raw)).resize((40, 40), Image.Resampling.BILINEAR), int)
    assert np.abs(ours - theirs).mean() < 2


def test_a_damaged_jpeg(photo_folder: Path, off: AugmentConfig) -> None:
    raw = (photo_folder / "train" / "cat" / "00.jpg").read_bytes()
    for bad in (raw[: len(raw) // 2], b"no image", b""):
        with pytest.raises(DataError, match="photo: not an image"):
            augmented(Record(bad, 0, "photo"), off, generator(0, 0, 0), 40, "bilinear")
