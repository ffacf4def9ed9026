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
from shrinkserve.preprocess import Preprocess, dali_bytes, decode


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "I;16"])
def test_decode_converts_every_colour_model_to_rgb(mode: str) -> None:
    image = Image.new(mode, (40, 30))
    seen = Preprocess(size=32).evaluate_bytes(encoded(image, "JPEG" if mode == "CMYK" else "PNG"))
    assert seen.shape == (32, 32, 3)


def test_exif_orientation_is_ignored_by_default() -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    plain, turned = encoded(image, "JPEG"), encoded(image, "JPEG", exif=exif)
    assert plain != turned
    np.testing.assert_array_equal(Preprocess().evaluate_bytes(plain), Preprocess().evaluate_bytes(turned))


@given(st.binary(max_size=200))
def test_decode_refuses_any_bytes(junk: bytes) -> None:
    with pytest.raises(DataError, match=r"x\.jpg: cannot decode image"):
        preprocess.decode(junk, "x.jpg")


@pytest.mark.parametrize("form", ["EPS", "TIFF", "GIF", "PPM", "ICO"])
def test_decode_refuses_other_formats(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(DataError, match="unknown format"):
        preprocess.decode(encoded(Image.new("RGB", (32, 32)), form), "x.jpg")
    assert not (tmp_path / "started").exists()


def test_formats_match_suffixes() -> None:
    Image.init()
    assert {Image.EXTENSION[suffix] for suffix in preprocess.IMAGE_SUFFIXES} == set(preprocess.FORMATS)


def test_decode_refuses_a_truncated_jpeg() -> None:
    whole = encoded(Image.fromarray(np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
    with pytest.raises(DataError, match="cannot decode image"):
        preprocess.decode(whole[: len(whole) // 2])


def test_decode_refuses_a_small_file_that_claims_a_huge_picture() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(DataError, match=r"too large.*12000x12000"):
        preprocess.decode(bomb)
    with pytest.raises(DataError, match="too large"):
        preprocess.decode(bytes(preprocess.MAX_BYTES + 1))


def test_decode_scales_16_bit_grey_to_8_bits() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint16) * 257, (8, 1))
    found = np.asarray(decode(encoded(Image.fromarray(ramp))))
    assert np.array_equal(found, np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 8, 0).repeat(3, 2))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_decode_places_transparent_images_on_white(mode: str) -> None:
    ink = Image.new("LA", (8, 8), (0, 0))
    ink.putpixel((3, 4), (0, 255))
    image = ink.convert("RGBA") if mode == "P" else ink.convert(mode)
    image = image.quantize(4) if mode == "P" else image
    found = np.asarray(decode(encoded(image)))
    assert found[4, 3].tolist() == [0, 0, 0]
    assert found.sum() == 255 * 3 * 63


def test_decode_keeps_the_colours_of_an_opaque_alpha_channel() -> None:
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (20, 20, 3), dtype=np.uint8))
    assert np.array_equal(np.asarray(decode(encoded(image.convert("RGBA")))), np.asarray(image))


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        *((mode, "PNG") for mode in ("RGB", "L", "RGBA", "LA", "P", "1", "I;16")),
        *((mode, "JPEG") for mode in ("RGB", "L", "CMYK")),
        *((mode, form) for mode in ("RGB", "RGBA") for form in ("WEBP", "BMP")),
    ],
)
def test_dali_decodes_dali_bytes_as_decode(mode: str, form: str) -> None:
    dali = pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
    pixels = np.random.default_rng(4).integers(0, 256, (5, 4, 4), dtype=np.uint8)
    small = Image.fromarray(pixels, "RGBA")
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    else:
        image = small.resize((40, 50), Image.Resampling.BICUBIC).convert("RGB" if mode == "CMYK" else mode)
        image = image.convert(mode)
    raw = encoded(image, form)
    pipeline = dali.Pipeline(batch_size=1, num_threads=1, device_id=None)
    with pipeline:
        source = dali.fn.external_source(lambda: [np.frombuffer(dali_bytes(raw), np.uint8)])
        pipeline.set_outputs(dali.fn.decoders.image(source, device="cpu", output_type=dali.types.RGB))
    pipeline.build()
    theirs = pipeline.run()[0].as_array()[0].astype(int)
    difference = np.abs(theirs - np.asarray(decode(raw), int))
    assert difference.max() <= (2 if form == "JPEG" else 0)


def test_dali_bytes_keeps_plain_images_and_refuses_others() -> None:
    plain = encoded(Image.new("RGB", (8, 8)), "JPEG")
    assert dali_bytes(plain) == plain
    with pytest.raises(DataError, match=r"x\.jpg: cannot decode image: unknown format.*GIF89a|GIF87a"):
        dali_bytes(encoded(Image.new("RGB", (8, 8)), "GIF"), "x.jpg")


def test_dali_bytes_turns_images_when_exif_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = encoded(Image.new("RGBA", (8, 4)), "PNG", exif=exif)
    assert Image.open(io.BytesIO(dali_bytes(raw, apply_exif=True))).size == (4, 8)
    assert Image.open(io.BytesIO(dali_bytes(raw))).size == (8, 4)
