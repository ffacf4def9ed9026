from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photos

from shrinkserve.config import AugmentConfig


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def odd_ones(image: Image.Image) -> dict[str, bytes]:
    """Return the unusual kinds of file in ImageNet, each with the name of a JPEG."""
    rotated = Image.Exif()
    rotated[0x0112] = 6  # orientation: turn by 90 degrees
    return {
        "cmyk": encoded(image.convert("CMYK")),
        "grey": encoded(image.convert("L")),
        "png": encoded(image, "PNG"),
        "exif": encoded(image, exif=rotated),
        "progressive": encoded(image, progressive=True),
        "444": encoded(image, subsampling=0),
    }


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photographs of two classes, 120x90, with every unusual kind of file in it. Read only."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, photo in (("cat", photos.chelsea()), ("cup", photos.coffee())):
        whole = Image.fromarray(photo)
        for split, count in (("train", 24), ("val", 4)):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                left, top = rng.integers(0, 40, 2).tolist()
                image = whole.resize((120, 90), Image.Resampling.BICUBIC, box=(left, top, left + 400, top + 260))
                (root / split / name / f"{number:02d}.jpg").write_bytes(encoded(image, quality=90))
            for kind, raw in odd_ones(image).items():
                (root / split / name / f"{kind}.jpg").write_bytes(raw)
    return root


@pytest.fixture
def off() -> AugmentConfig:
    """A recipe section without any augmentation."""
    return AugmentConfig(
        crop_area=(1, 1),
        crop_aspect=(1, 1),
        random_interpolation=False,
        flip=False,
        brightness=0,
        saturation=(1, 1),
        contrast=(1, 1),
        hue=0,
        erase_probability=0,
    )


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """An image folder of three classes, each with 6 training and 2 validation images."""
    root = tmp_path / "classes"
    for split, count in (("train", 6), ("val", 2)):
        for label, name in enumerate(("a", "b", "c")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (48, 48), (label * 100, number * 40, 7))
                (root / split / name / f"{number:03d}.jpg").write_bytes(encoded(image))
    return root


@pytest.fixture
def packed(classes: Path, tmp_path: Path) -> Path:
    """`classes` as TFRecord shards: two for training, one for validation, without labels.txt."""
    from shrinkserve.data.packing.pack import pack_dataset

    pack_dataset(classes, tmp_path / "packed", train_shards=2, workers=1)
    (tmp_path / "packed" / "labels.txt").unlink()
    return tmp_path / "packed"
