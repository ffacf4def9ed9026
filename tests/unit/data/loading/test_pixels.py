from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shrinkserve.config import AugmentConfig
from shrinkserve.data.dataset import Record
from shrinkserve.data.loading.augment import generator
from shrinkserve.data.loading.pixels import _decode_jpeg, augmented, plain_jpeg_size, resize_uint8
from shrinkserve.errors import DataError
from shrinkserve.preprocess import Interpolation, Preprocess

KINDS = ("cmyk", "grey", "png", "exif", "progressive", "444", "00")


def square(encoded: bytes, scale: int = 1) -> bytes:
    """Return the picture as a square JPEG."""
    stream = io.BytesIO()
    Image.open(io.BytesIO(encoded)).convert("RGB").resize((96 * scale, 96 * scale)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_augmented_decodes_every_kind_of_file_as_pillow(photo_folder: Path, off: AugmentConfig, kind: str) -> None:
    raw = (photo_folder / "train" / "cat" / f"{kind}.jpg").read_bytes()
    record = Record(raw, 0, kind)
    pillow = Image.open(io.BytesIO(raw)).convert("RGB")  # Pillow ignores the EXIF rotation
    assert pillow.size == (120, 90)
    whole = replace(off, crop_aspect=(4 / 3, 4 / 3))
    ours = augmented(record, whole, generator(0, 0, 0), Preprocess(60, interpolation="bilinear")).astype(int)
    theirs = np.asarray(pillow.resize((60, 60), Image.Resampling.BILINEAR), int)
    assert np.abs(ours - theirs).mean() < 0.5


def test_plain_jpeg_size_is_none_for_files_that_libjpeg_cannot_convert(photo_folder: Path) -> None:
    taken = {k: plain_jpeg_size((photo_folder / "train" / "cat" / f"{k}.jpg").read_bytes()) for k in KINDS}
    assert [kind for kind, size in taken.items() if size is None] == ["cmyk", "png"]
    assert plain_jpeg_size(b"") is None


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_resize_equals_pillow(photo_folder: Path, interpolation: Interpolation) -> None:
    image = Image.open(photo_folder / "train" / "cup" / "00.jpg").convert("RGB")
    box = (11, 5, 107, 80)
    ours = resize_uint8(np.array(image), box, 48, interpolation).astype(int)
    theirs = np.asarray(image.resize((48, 48), Image.Resampling[interpolation.upper()], box=box), int)
    assert np.abs(ours - theirs).mean() < 0.3


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_augmented_of_a_large_picture_equals_pillow(photo_folder: Path, off: AugmentConfig, scale: int) -> None:
    raw = square((photo_folder / "train" / "cat" / "00.jpg").read_bytes(), scale)
    ours = augmented(Record(raw, 0, "large"), off, generator(0, 0, 0), Preprocess(40, interpolation="bilinear")).astype(
        int
    )
    theirs = np.asarray(Image.open(io.BytesIO(raw)).resize((40, 40), Image.Resampling.BILINEAR), int)
    assert np.abs(ours - theirs).mean() < 2


@pytest.mark.parametrize(("size", "decoded"), [(300, 384), (192, 192), (60, 96), (40, 48), (5, 48)])
def test_jpeg_is_decoded_at_the_smallest_size_that_the_crop_allows(photo_folder: Path, size: int, decoded: int) -> None:
    raw = square((photo_folder / "train" / "cat" / "00.jpg").read_bytes(), 4)
    pixels, box = _decode_jpeg(Record(raw, 0, "large"), (384, 384), (0, 0, 384, 384), size)
    assert pixels.shape == (decoded, decoded, 3)
    assert box == (0, 0, decoded, decoded)


def test_augmented_refuses_a_damaged_image(photo_folder: Path, off: AugmentConfig) -> None:
    raw = (photo_folder / "train" / "cat" / "00.jpg").read_bytes()
    for bad in (raw[: len(raw) // 2], b"no image", b""):
        with pytest.raises(DataError, match="photo: cannot decode image"):
            augmented(Record(bad, 0, "photo"), off, generator(0, 0, 0), Preprocess(40))
