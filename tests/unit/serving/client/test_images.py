from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shrinkserve import Client
from shrinkserve.errors import ConfigError, DataError
from shrinkserve.preprocess import Preprocess
from shrinkserve.serving.client.images import encoded_bytes, numbered, prepare

PREPROCESS = Preprocess(size=8)


@pytest.fixture
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def encoded(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def test_every_kind_of_source_gives_the_same_pixels(picture: Image.Image, encoded: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded)
    expected = PREPROCESS.evaluate(picture)
    with path.open("rb") as file:
        sources = [path, str(path), encoded, bytearray(encoded), memoryview(encoded), io.BytesIO(encoded), file]
        for source in [*sources, picture, np.asarray(picture), Image.open(path)]:
            np.testing.assert_array_equal(prepare(source, PREPROCESS, "name"), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "one",
    [
        Path("a"),
        "a",
        b"a",
        bytearray(b"a"),
        memoryview(b"a"),
        io.BytesIO(b"a"),
        np.zeros((2, 2, 3), np.uint8),
        Image.new("RGB", (2, 2)),
        None,
        5,
    ],
)
def test_a_single_image_is_not_taken_for_many(one: Any) -> None:
    with pytest.raises(DataError, match=r"\[image\]"):
        numbered(one)


@pytest.mark.parametrize(
    "source",
    [
        *(None, 5, object(), io.StringIO("text"), b"", b"junk"),
        *(np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)),
        *("", ".", "a\0b", "http://host/x.jpg", "s3://bucket/x.jpg", "x" * 5000),
    ],
    ids=repr,
)
def test_other_sources_are_one_short_error(source: Any) -> None:
    name = source if isinstance(source, str) else "image 0"
    with pytest.raises(DataError) as caught:
        prepare(source, PREPROCESS, name)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "source", [None, np.zeros((4, 4, 3), np.uint8), b"", bytes((64 << 20) + 1)], ids=lambda one: type(one).__name__
)
def test_only_encoded_images_are_sent_encoded(source: Any) -> None:
    with pytest.raises(DataError):
        encoded_bytes(source, "image 0")


def test_closed_file_is_an_error_of_its_image() -> None:
    file = io.BytesIO(b"any")
    file.close()
    with pytest.raises(DataError, match="image 3"):
        prepare(file, PREPROCESS, "image 3")


@pytest.mark.parametrize("options", [{"top": 0}, {"top": -1}, {"workers": 0}, {"priority": -1}])
@pytest.mark.parametrize("method", ["stream", "stream_encoded"])
def test_counts_out_of_range_are_rejected(options: dict[str, int], method: str) -> None:
    with Client("grpc://127.0.0.1:1") as client, pytest.raises(ConfigError, match="at least"):
        list(getattr(client, method)([b"any"], "cats", **options))


@pytest.mark.parametrize("mode", ["I;16", "LA", "RGBA", "P", "CMYK", "L", "1"])
def test_pillow_image_is_converted_like_its_file(mode: str) -> None:
    levels = np.linspace(0, 65535, 400).reshape(20, 20)
    if mode == "I;16":
        image = Image.fromarray(levels.astype(np.uint16))
    else:
        image = Image.fromarray((levels / 257).astype(np.uint8)).convert(mode)
        if mode in {"LA", "RGBA"}:
            image.putalpha(128)
    stream = io.BytesIO()
    image.save(stream, "JPEG" if mode == "CMYK" else "PNG")
    found = prepare(image, PREPROCESS, "image 0")
    if mode != "CMYK":
        np.testing.assert_array_equal(found, prepare(stream.getvalue(), PREPROCESS, "image 0"))
    assert found.std() > 20, "no clipping to one colour"
