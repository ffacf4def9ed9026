from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shrinkserve import preprocess
from shrinkserve.errors import DataError
from shrinkserve.preprocess import Preprocess


def encode(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


@given(st.integers(1, 700), st.integers(1, 700), st.floats(0.01, 1.0))
def test_crop_is_central_inside_and_never_empty(width: int, height: int, fraction: float) -> None:
    left, top, right, bottom = Preprocess(crop_fraction=fraction).layout(width, height).box
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert abs(left - (width - right)) <= 1
    assert abs(top - (height - bottom)) <= 1


def test_published_numbers() -> None:
    # shrinkcnn: central 87.5 % of height and width, bicubic to 224, (x - 0.5) * 2
    default = Preprocess()
    assert default.layout(256, 512).box == (16, 32, 240, 480)
    assert (default.size, default.interpolation) == (224, "bicubic")
    assert (np.array([0.0, 0.5, 1.0]) - default.mean[0]).tolist() == [-0.5, 0.0, 0.5]
    assert default.std == (0.5, 0.5, 0.5)


def test_without_scaling_the_pixels_are_the_crop_itself() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    seen = Preprocess().evaluate_bytes(encode(Image.fromarray(pixels)))
    assert seen.dtype == np.uint8
    np.testing.assert_array_equal(seen, pixels[16:240, 16:240])


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "I;16"])
def test_every_colour_model_becomes_rgb(mode: str) -> None:
    image = Image.new(mode, (40, 30))
    seen = Preprocess(size=32).evaluate_bytes(encode(image, "JPEG" if mode == "CMYK" else "PNG"))
    assert seen.shape == (32, 32, 3)


def test_exif_orientation_is_ignored() -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    plain, turned = encode(image, "JPEG"), encode(image, "JPEG", exif=exif)
    assert plain != turned
    np.testing.assert_array_equal(Preprocess().evaluate_bytes(plain), Preprocess().evaluate_bytes(turned))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_image(junk: bytes) -> None:
    with pytest.raises(DataError, match=r"x\.jpg: cannot decode image"):
        preprocess.decode(junk, "x.jpg")


@pytest.mark.parametrize("form", ["EPS", "TIFF", "GIF", "PPM", "ICO"])
def test_decode_rejects_other_formats(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(DataError, match="unknown format"):
        preprocess.decode(encode(Image.new("RGB", (32, 32)), form), "x.jpg")
    assert not (tmp_path / "started").exists()


def test_formats_match_suffixes() -> None:
    Image.init()
    assert {Image.EXTENSION[suffix] for suffix in preprocess.IMAGE_SUFFIXES} == set(preprocess.FORMATS)


def test_a_truncated_jpeg_is_refused() -> None:
    whole = encode(Image.fromarray(np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
    with pytest.raises(DataError, match="cannot decode image"):
        preprocess.decode(whole[: len(whole) // 2])


def test_a_small_file_cannot_claim_a_huge_picture() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(DataError, match=r"too large.*12000x12000"):
        preprocess.decode(bomb)
    with pytest.raises(DataError, match="too large"):
        preprocess.decode(bytes(preprocess.MAX_BYTES + 1))


def test_description_round_trip_and_contract() -> None:
    first = Preprocess(size=32, std=(0.2, 0.3, 0.4))
    assert Preprocess.from_dict(first.to_dict()) == first
    assert first.fingerprint == Preprocess.from_dict(first.to_dict()).fingerprint
    assert first.fingerprint != Preprocess(size=33, std=(0.2, 0.3, 0.4)).fingerprint
    with pytest.raises(DataError, match="preprocessing description"):
        Preprocess.from_dict({"sise": 3})


@pytest.mark.parametrize(
    "change",
    [
        *({"size": size} for size in (0, -1, 4097, 40_000, 2.5, True, "32", None)),
        *({"crop_fraction": part} for part in (0, -1, 1.01, 10**400, float("nan"), "1", None)),
        *({"interpolation": name} for name in ("evil", "", 3, None, ["bicubic"])),
        *({"mean": mean} for mean in ("abc", [0.5] * 4, [0, 0, 10**400], [0, 0, "1"])),
        *({"std": std} for std in ([0.5, 0.5, 0], [0.5, 0.5, -1], [1, 1, float("nan")], [1, 1], "abc", [[1], 1, 1])),
    ],
)
def test_from_dict_rejects_invalid_values(change: dict[str, object]) -> None:
    with pytest.raises(DataError, match=next(iter(change))) as caught:
        Preprocess.from_dict({**Preprocess().to_dict(), **change})
    assert len(str(caught.value).splitlines()) == 1


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=4))
def test_from_dict_raises_only_data_error(value: object) -> None:
    for name, valid in Preprocess().to_dict().items():
        try:
            found = Preprocess.from_dict({**Preprocess().to_dict(), name: value})
        except DataError:
            continue
        assert found.fingerprint
        assert type(valid) is type(found.to_dict()[name]) or isinstance(value, int)


def test_find_images(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt", "sub/c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in preprocess.find_images([tmp_path])] == ["a.png", "b.JPG", "c.webp"]
    assert preprocess.find_images([tmp_path / "notes.txt"]) == [tmp_path / "notes.txt"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image in this folder"):
        preprocess.find_images([tmp_path / "empty"])
    with pytest.raises(DataError, match="no such file"):
        preprocess.find_images([tmp_path / "gone"])
