from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shrinkserve.config import AugmentConfig
from shrinkserve.data.loading.augment import (
    LUMA,
    YIQ,
    YIQ_INVERSE,
    Colour,
    colour_map,
    draw_augmentation,
    generator,
    turn_hue,
)
from shrinkserve.data.loading.pixels import recolour

CONFIG = AugmentConfig()
sides = st.integers(1, 900)


@given(sides, sides, st.integers(0, 10**6))
def test_crop_is_inside_the_image(width: int, height: int, index: int) -> None:
    drawn = draw_augmentation(CONFIG, generator(0, 0, index), width, height, 64, "bicubic")
    left, top, right, bottom = drawn.crop
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_draw_keeps_to_the_ranges() -> None:
    areas, ratios, erased, flips = [], [], [], 0
    for index in range(2000):
        drawn = draw_augmentation(CONFIG, generator(1, 2, index), 500, 375, 224, "bicubic")
        left, top, right, bottom = drawn.crop
        areas.append((right - left) * (bottom - top) / (500 * 375))
        ratios.append((right - left) / (bottom - top))
        flips += drawn.flip
        if drawn.erase is not None:
            left, top, right, bottom = drawn.erase
            assert drawn.noise.shape == (bottom - top, right - left, 3)
            erased.append((right - left) * (bottom - top) / 224**2)
    assert 0.74 < min(areas) < 0.77
    assert 0.97 < max(areas) <= 1  # at these aspect ratios the whole image is only nearly reached
    assert min(ratios) > 0.74
    assert max(ratios) < 1.35
    assert 0.45 < flips / 2000 < 0.55
    assert 0.45 < len(erased) / 2000 < 0.55
    assert 0.015 < min(erased) < 0.03
    assert 0.35 < max(erased) < 0.41


def test_draw_depends_only_on_seed_epoch_and_index() -> None:
    def crop(*key: int) -> tuple[int, int, int, int]:
        return draw_augmentation(CONFIG, generator(*key), 500, 375, 224, "bicubic").crop

    assert crop(1, 2, 3) == crop(1, 2, 3)
    assert len({crop(1, 2, 3), crop(2, 2, 3), crop(1, 3, 3), crop(1, 2, 4)}) == 4


def test_draw_is_the_identity_when_all_is_off(off: AugmentConfig) -> None:
    drawn = draw_augmentation(off, generator(0, 0, 0), 80, 80, 64, "bilinear")
    assert (drawn.crop, drawn.interpolation, drawn.flip) == ((0, 0, 80, 80), "bilinear", False)
    assert drawn.colour is None
    assert drawn.erase is None


def colours(config: AugmentConfig) -> list[Colour]:
    """2000 draws."""
    drawn = [draw_augmentation(config, generator(3, 0, index), 64, 64, 64, "bilinear").colour for index in range(2000)]
    assert all(drawn)
    return drawn  # type: ignore[return-value]


def shares(values: list[float], low: float, high: float) -> tuple[float, float]:
    """Return the smallest and largest share of values in a tenth of the range; zero if some are outside."""
    counts, _ = np.histogram(values, 10, (low, high))
    inside = counts.sum() == len(values)
    return inside * counts.min() / len(values), inside * counts.max() / len(values)


def test_colours_fill_the_published_ranges_evenly(off: AugmentConfig) -> None:
    """Turn on one operation at a time: it fills its range evenly, with nothing outside."""
    brightness = [c.offset[0] / 255 for c in colours(replace(off, brightness=CONFIG.brightness))]
    # The blue that a red pixel gets is (1 - saturation) of red's luma.
    saturation = [1 - c.pixel[2, 0] / LUMA[0] for c in colours(replace(off, saturation=CONFIG.saturation))]
    contrast = [c.pixel[0, 0] for c in colours(replace(off, contrast=CONFIG.contrast))]
    chroma = [(YIQ @ c.pixel @ YIQ_INVERSE)[1:, 1] for c in colours(replace(off, hue=CONFIG.hue))]
    hue = [-math.atan2(q, i) / (2 * math.pi) for i, q in chroma]
    found = [(brightness, -0.4, 0.4), (saturation, 0.6, 1.4), (contrast, 0.6, 1.4), (hue, -0.1, 0.1)]
    for values, low, high in found:
        least, most = shares(values, low, high)
        assert 0.07 < least < most < 0.13


def test_interpolations_are_drawn_equally_often() -> None:
    drawn = [
        draw_augmentation(CONFIG, generator(4, 0, index), 500, 375, 224, "lanczos").interpolation
        for index in range(1500)
    ]
    counts = Counter(drawn)
    assert set(counts) == {"nearest", "bilinear", "bicubic"}
    assert all(440 < count < 560 for count in counts.values())


def test_erased_pixels_are_noise_of_the_full_range() -> None:
    drawn = [draw_augmentation(CONFIG, generator(5, 0, index), 500, 375, 224, "bicubic") for index in range(20)]
    noise = np.concatenate([d.noise.ravel() for d in drawn if d.erase])
    assert (noise.min(), noise.max()) == (0, 255)
    assert np.abs(np.bincount(noise // 16) / len(noise) - 1 / 16).max() < 0.002
    ratios = [(d.erase[2] - d.erase[0]) / (d.erase[3] - d.erase[1]) for d in drawn if d.erase]
    assert 0.27 < min(ratios) < max(ratios) < 3.6


def photo() -> Image.Image:
    from skimage.data import astronaut

    return Image.fromarray(astronaut()).resize((64, 64))


def test_colour_map_equals_its_operations_in_any_order() -> None:
    """Without clipping in between, the four operations on pixels commute."""
    grey = np.outer(np.ones(3), LUMA)
    operations: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda pixels: pixels + 255 * 0.15,
        lambda pixels: 0.7 * pixels + 0.3 * pixels @ grey.T,
        lambda pixels: pixels.mean(0) + 1.3 * (pixels - pixels.mean(0)),
        lambda pixels: pixels @ turn_hue(0.08).T,
    ]
    image = np.asarray(photo(), float).reshape(-1, 3)
    matrix = colour_map(0.15, 0.7, 1.3, 0.08).matrix(image.mean(0))
    found = image @ matrix[:, :3].T + matrix[:, 3]
    for order in permutations(operations):
        np.testing.assert_allclose(found, reduce(lambda pixels, step: step(pixels), order, image), atol=2e-4)


@pytest.mark.parametrize("factor", [0.6, 1.4])
def test_saturation_equals_pillow(factor: float) -> None:
    from PIL import ImageEnhance

    ours = recolour(np.array(photo()), colour_map(0, factor, 1, 0))
    theirs = ImageEnhance.Color(photo()).enhance(factor)
    assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 1


def test_contrast_scales_each_channel_around_its_mean() -> None:
    image = np.asarray(photo(), float)
    mean = image.mean((0, 1))
    expected = np.clip(mean + 0.7 * (image - mean), 0, 255)
    assert np.abs(np.asarray(recolour(np.array(photo()), colour_map(0, 1, 0.7, 0)), float) - expected).max() <= 0.51


def test_hue_equals_dali() -> None:
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def turned():  # type: ignore[no-untyped-def]
        return fn.hue(fn.external_source(lambda: [np.asarray(photo())]), hue=36.0)

    pipeline = turned()
    pipeline.build()
    theirs = pipeline.run()[0].as_array()[0].astype(int)
    ours = np.asarray(recolour(np.array(photo()), colour_map(0, 1, 1, 0.1)), int)
    assert np.abs(ours - theirs).max() <= 2
    assert np.abs(ours - np.asarray(photo(), int)).max() > 20


@pytest.mark.parametrize("index", range(30))
def test_draws_are_those_of_numpys_functions(index: int) -> None:
    """The order and the values of the draws are a part of exact resume, whatever makes them."""
    config, rng = replace(CONFIG, erase_probability=1.0), generator(3, 1, index)
    drawn = draw_augmentation(config, generator(3, 1, index), 500, 375, 224, "bicubic")

    def rectangle(width: int, height: int, area: tuple[float, float], aspect: tuple[float, float]) -> tuple[int, ...]:
        while True:
            pixels = rng.uniform(*area) * width * height
            ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
            w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
            if w <= width and h <= height:
                left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
                return left, top, left + w, top + h

    assert drawn.crop == rectangle(500, 375, config.crop_area, config.crop_aspect)
    assert drawn.interpolation == ("nearest", "bilinear", "bicubic")[rng.integers(3)]
    assert drawn.flip == (rng.random() < 0.5)
    brightness = rng.uniform(-config.brightness, config.brightness)
    factors = rng.uniform(*config.saturation), rng.uniform(*config.contrast)
    expected = colour_map(brightness, *factors, rng.uniform(-config.hue, config.hue))
    assert drawn.colour is not None
    for part in ("pixel", "mean", "offset"):
        assert np.array_equal(getattr(drawn.colour, part), getattr(expected, part))
    assert rng.random() < 1
    left, top, right, bottom = box = rectangle(224, 224, config.erase_area, config.erase_aspect)
    assert drawn.erase == box
    assert np.array_equal(drawn.noise, rng.integers(0, 256, (bottom - top, right - left, 3), dtype=np.uint8))
