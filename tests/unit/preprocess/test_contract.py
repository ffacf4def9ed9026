from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shrinkserve.errors import DataError
from shrinkserve.preprocess import Preprocess


@given(st.integers(1, 700), st.integers(1, 700), st.floats(0.01, 1.0))
def test_crop_is_central_inside_and_never_empty(width: int, height: int, fraction: float) -> None:
    left, top, right, bottom = Preprocess(crop_fraction=fraction).layout(width, height).box
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert abs(left - (width - right)) <= 1
    assert abs(top - (height - bottom)) <= 1


def test_defaults_are_the_published_preprocessing() -> None:
    # shrinkcnn: central 87.5 % of height and width, bicubic to 224, (x - 0.5) * 2
    default = Preprocess()
    assert default.layout(256, 512).box == (16, 32, 240, 480)
    assert (default.size, default.interpolation) == (224, "bicubic")
    assert (np.array([0.0, 0.5, 1.0]) - default.mean[0]).tolist() == [-0.5, 0.0, 0.5]
    assert default.std == (0.5, 0.5, 0.5)


def test_evaluate_returns_the_crop_if_nothing_is_scaled() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    seen = Preprocess().evaluate(Image.fromarray(pixels))
    assert seen.dtype == np.uint8
    np.testing.assert_array_equal(seen, pixels[16:240, 16:240])


def test_from_dict_reads_to_dict_with_the_same_fingerprint() -> None:
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
        *({"geometry": name} for name in ("circle", 3, None)),
        *({"resize_size": size} for size in (256, 0, "1")),
        *({"antialias": value} for value in (1, None, "true")),
        *({"fill": colour} for colour in ([1, 2], [0, 0, 256], [0.5, 0, 0], "abc", None)),
        *({"scale": value} for value in (0, -1, float("inf"), "1", None)),
        *({"channel_order": name} for name in ("rgb", 3, None, ["RGB"])),
        *({"apply_exif": value} for value in (0, None)),
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


def test_fingerprints_of_existing_descriptions_do_not_change() -> None:
    # computed by the version before geometries were added
    assert Preprocess().fingerprint == "77c4b9ddafc91b0a"
    other = Preprocess(32, 1.0, "bilinear", mean=(0, 0.1, 0.2), std=(1, 2, 3))
    assert other.fingerprint == "9c2adcbb1943f468"
    assert set(other.to_dict()) == {"size", "crop_fraction", "interpolation", "mean", "std"}


@pytest.mark.parametrize(
    "change",
    [
        {"geometry": "center"},
        {"geometry": "resize_crop", "resize_size": 256},
        {"antialias": False},
        {"fill": (1, 1, 1)},
        {"scale": 1.0},
        {"channel_order": "BGR"},
        {"apply_exif": True},
    ],
)
def test_every_field_changes_the_fingerprint(change: dict[str, object]) -> None:
    changed = Preprocess(**change)  # type: ignore[arg-type]
    assert changed.fingerprint != Preprocess().fingerprint
    assert Preprocess.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed


def test_from_dict_accepts_one_channel_with_one_mean() -> None:
    grey = {"size": 28, "crop_fraction": 1.0, "interpolation": "bilinear", "mean": [0.5], "std": [0.5]}
    assert Preprocess.from_dict({**grey, "channel_order": "L"}).shape == (28, 28, 1)
    with pytest.raises(DataError, match="mean: expected 3 finite numbers"):
        Preprocess.from_dict(grey)


def test_scale_and_shift_normalise_as_the_formula() -> None:
    described = Preprocess(scale=1.0, mean=(127.0, 1.0, 2.0), std=(128.0, 2.0, 4.0))
    scale, shift = described.scale_and_shift()
    assert (np.array([255, 11, 10], np.float32) * scale + shift).tolist() == [1.0, 5.0, 2.0]
    assert scale.dtype == shift.dtype == np.float32


@pytest.mark.parametrize(("width", "height"), [(21, 22), (22, 21)])
def test_letterbox_fills_a_border_of_one_pixel(width: int, height: int) -> None:
    preprocess = Preprocess(size=32, geometry="letterbox", fill=(200, 100, 50))
    pixels = preprocess.evaluate(Image.new("RGB", (width, height)))
    bordered = pixels[:, -1] if width < height else pixels[-1]
    assert (bordered == (200, 100, 50)).all()
    assert (pixels != 0).any(axis=2).sum() == 32
