"""Compare the pixels of every geometry with those of the libraries that defined it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from shrinkserve.preprocess import Interpolation, Preprocess

SHAPES = [(500, 375), (375, 500), (224, 224), (300, 301), (64, 48), (1, 1), (1, 500), (500, 1), (1200, 20), (257, 33)]
GOLDEN = np.load(Path(__file__).with_name("tensorflow_golden.npz"))


def photo(width: int, height: int) -> Image.Image:
    return Image.fromarray(data.astronaut()).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("resize_size", "size"), [(64, 56), (56, 56), (40, 56), (61, 48)])
def test_resize_crop_equals_torchvision(
    shape: tuple[int, int], interpolation: Interpolation, resize_size: int, size: int
) -> None:
    from torchvision import transforms

    mode = transforms.InterpolationMode(interpolation)
    theirs = transforms.Compose([transforms.Resize(resize_size, mode), transforms.CenterCrop(size)])
    ours = Preprocess(size, interpolation=interpolation, geometry="resize_crop", resize_size=resize_size)
    assert np.array_equal(ours.evaluate(photo(*shape)), np.asarray(theirs(photo(*shape))))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("size", "crop"), [(224, 0.875), (240, 0.9), (64, 0.95), (64, 1.0)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_center_equals_timm(shape: tuple[int, int], size: int, crop: float, interpolation: Interpolation) -> None:
    from timm.data import create_transform

    theirs = create_transform(
        size, crop_pct=crop, interpolation=interpolation, is_training=False, normalize=False, crop_mode="center"
    )
    ours = Preprocess(size, crop, interpolation, geometry="center")
    expected = np.asarray(theirs(photo(*shape))).transpose(1, 2, 0)
    assert np.array_equal(ours.evaluate(photo(*shape)), expected)


def test_timm_normalises_as_scale_and_shift() -> None:
    from timm.data import create_transform

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    theirs = create_transform(64, mean=mean, std=std, crop_pct=0.875, interpolation="bicubic", is_training=False)
    ours = Preprocess(64, 0.875, mean=mean, std=std, geometry="center")
    scale, shift = ours.scale_and_shift()
    pixels = ours.evaluate(photo(80, 70)) * scale + shift
    np.testing.assert_allclose(pixels.transpose(2, 0, 1), theirs(photo(80, 70)).numpy(), atol=2e-6)


@pytest.mark.parametrize("name", ["landscape", "portrait", "small"])
@pytest.mark.parametrize("geometry", ["squash", "tpu"])
def test_bicubic_tf1_equals_tensorflow(name: str, geometry: str) -> None:
    ours = Preprocess(32, 0.875, "bicubic_tf1", geometry=geometry)  # type: ignore[arg-type]
    difference = np.abs(ours.evaluate(Image.fromarray(GOLDEN[name])).astype(int) - GOLDEN[f"{name}.{geometry}"])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.002  # values halfway between two integers


@pytest.mark.parametrize("name", ["landscape", "portrait", "small"])
def test_bilinear_without_antialiasing_equals_tensorflow(name: str) -> None:
    ours = Preprocess(32, interpolation="bilinear", geometry="stretch", antialias=False)
    difference = np.abs(ours.evaluate(Image.fromarray(GOLDEN[name])).astype(int) - GOLDEN[f"{name}.stretch"])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.002


def test_boxes_equal_tensorflow() -> None:
    crop = Preprocess(interpolation="bicubic_tf1")
    for height, width, *box in GOLDEN["central_crop"].tolist():
        assert crop.layout(width, height).box == tuple(box)
    for height, width, size, side in GOLDEN["tpu_side"].tolist():
        left, top, right, bottom = Preprocess(size, geometry="tpu").layout(width, height).box
        assert (right - left, bottom - top) == (max(1, side),) * 2
        assert (left, top) == ((width - max(1, side) + 1) // 2, (height - max(1, side) + 1) // 2)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(90, 61), (20, 33), (1, 1), (1, 70)], ids=str)
def test_no_antialiasing_equals_torch(shape: tuple[int, int], interpolation: Interpolation) -> None:
    import torch
    from torch.nn.functional import interpolate

    image = photo(*shape)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    theirs = interpolate(pixels, (32, 32), mode=interpolation, align_corners=False)[0].permute(1, 2, 0).numpy()
    ours = Preprocess(32, interpolation=interpolation, geometry="stretch", antialias=False).evaluate(image)
    assert np.abs(ours - theirs.clip(0, 255)).max() <= 0.51


def test_lanczos_without_antialiasing_keeps_a_constant_and_interpolates_a_ramp() -> None:
    ours = Preprocess(32, interpolation="lanczos", geometry="stretch", antialias=False)
    assert set(np.unique(ours.evaluate(Image.new("RGB", (50, 20), (7, 7, 7))))) == {7}
    ramp = Image.fromarray(np.tile(np.arange(0, 128, 2, dtype=np.uint8)[None, :, None], (64, 1, 3)))
    assert np.abs(ours.evaluate(ramp)[4, 4:-4, 0] - (np.arange(4, 28) * 4 + 1.0)).max() <= 1


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_letterbox_fits_the_image_and_fills_the_border(shape: tuple[int, int]) -> None:
    ours = Preprocess(64, geometry="letterbox", fill=(1, 2, 3), interpolation="bilinear")
    factor = 64 / max(shape)
    width, height = (max(1, round(length * factor)) for length in shape)
    expected = Image.new("RGB", (64, 64), (1, 2, 3))
    part = photo(*shape).resize((width, height), Image.Resampling.BILINEAR)
    expected.paste(part, ((64 - width) // 2, (64 - height) // 2))
    assert np.array_equal(ours.evaluate(photo(*shape)), np.asarray(expected))


def test_channel_order_reverses_or_reduces_the_channels() -> None:
    rgb = Preprocess(64, geometry="letterbox", fill=(10, 20, 30)).evaluate(photo(64, 40))
    bgr = Preprocess(64, geometry="letterbox", fill=(10, 20, 30), channel_order="BGR").evaluate(photo(64, 40))
    assert np.array_equal(bgr, rgb[..., ::-1])
    one = {"mean": (0.5,), "std": (0.5,), "channel_order": "L"}
    grey = Preprocess(64, geometry="resize_crop", resize_size=64, **one).evaluate(photo(64, 64))  # type: ignore[arg-type]
    assert np.array_equal(grey[..., 0], np.asarray(photo(64, 64).convert("L")))
    border = Preprocess(64, geometry="letterbox", fill=(10, 20, 30), **one).evaluate(photo(64, 40))  # type: ignore[arg-type]
    assert border[0, 0, 0] == np.asarray(Image.new("RGB", (1, 1), (10, 20, 30)).convert("L"))[0, 0]


def test_exif_orientation_is_applied_on_request() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    photo(60, 40).save(stream, "PNG", exif=exif)
    upright = Preprocess(32, apply_exif=True).evaluate_bytes(stream.getvalue())
    assert np.array_equal(upright, Preprocess(32).evaluate(photo(60, 40).rotate(-90, expand=True)))


@pytest.mark.parametrize("shape", [(1, 500_000), (500_000, 2), (3, 900_000)], ids=str)
@pytest.mark.parametrize("interpolation", ["bicubic", "bicubic_tf1"])
def test_extreme_panorama_needs_little_memory(shape: tuple[int, int], interpolation: Interpolation) -> None:
    ours = Preprocess(64, geometry="resize_crop", resize_size=256, interpolation=interpolation)
    assert ours.evaluate(Image.new("RGB", shape, (9, 8, 7))).tolist()[5][5] == [9, 8, 7]
