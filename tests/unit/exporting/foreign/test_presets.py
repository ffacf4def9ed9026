from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shrinkserve.errors import ConfigError
from shrinkserve.exporting.foreign.presets import read_preset

TIMM = [
    "resnet50",
    "vit_base_patch16_224",
    "tf_efficientnet_lite0",
    "swin_base_patch4_window7_224",
    "beitv2_base_patch16_224",
]


def picture(width: int, height: int) -> Image.Image:
    colours = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


def check_pixels(found: np.ndarray, normalised: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    expected = (normalised.transpose(1, 2, 0) * np.array(std) + np.array(mean)) * 255
    np.testing.assert_array_equal(found, np.round(expected).astype(np.uint8))


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("size", [(500, 375), (211, 340)])
def test_timm_preset_equals_timms_transform(name: str, size: tuple[int, int]) -> None:
    timm = pytest.importorskip("timm")
    config = timm.data.resolve_data_config(timm.models.get_pretrained_cfg(name).to_dict())
    transform = timm.data.create_transform(**config)
    preprocess = read_preset(f"timm:{name}")
    assert preprocess is not None
    assert (preprocess.mean, preprocess.std) == (tuple(config["mean"]), tuple(config["std"]))
    image = picture(*size)
    check_pixels(preprocess.evaluate(image), transform(image).numpy(), preprocess.mean, preprocess.std)


@pytest.mark.parametrize("name", ["resnet50", "ResNet50_Weights.IMAGENET1K_V1", "vit_b_16", "efficientnet_v2_s"])
def test_torchvision_preset_equals_torchvisions_transform(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    weights = models.get_weight(name) if "." in name else models.get_model_weights(name).DEFAULT
    preprocess = read_preset(f"torchvision:{name}")
    assert preprocess is not None
    image = picture(500, 375)
    normalised = weights.transforms()(image).numpy()
    check_pixels(preprocess.evaluate(image), normalised, preprocess.mean, preprocess.std)


VIT = {
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "size": 224,
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {"geometry": "stretch", "size": 224, "interpolation": "bilinear"}),
        ({"size": {"height": 224, "width": 224}}, {"geometry": "stretch", "size": 224}),
        (
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True},
            {"geometry": "resize_crop", "resize_size": 256, "size": 224},
        ),
        ({"size": 256, "crop_size": 224, "do_center_crop": True}, {"geometry": "resize_crop", "resize_size": 256}),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3}, {"resize_size": 256, "size": 224}),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, {"geometry": "stretch", "size": 384}),
        ({"do_rescale": False, "do_normalize": False}, {"scale": 1.0, "mean": (0.0,) * 3, "std": (1.0,) * 3}),
        ({"image_processor_type": "ViTImageProcessor"}, {"size": 224}),
        ({"crop_size": None, "do_center_crop": None, "pad_size": None, "do_x": False}, {"geometry": "stretch"}),
        ({"do_rescale": None, "image_mean": [0, 0, 0]}, {"scale": 1.0, "mean": (0.0,) * 3}),
    ],
)
def test_hugging_face_file_is_read(tmp_path: Path, change: dict[str, object], expected: dict[str, object]) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**VIT, **change}))
    found = read_preset(str(path))
    assert {key: getattr(found, key) for key in expected} == expected


def test_hugging_face_config_of_timm_is_read(tmp_path: Path) -> None:
    inner = {
        "input_size": [3, 288, 288], "interpolation": "bicubic", "crop_pct": 0.95, "mean": [0.5] * 3, "std": [0.2] * 3
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "x", "pretrained_cfg": inner}))
    found = read_preset(str(tmp_path / "config.json"))
    assert found is not None
    assert (found.geometry, found.size, found.crop_fraction) == ("center", 288, 0.95)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"do_flip": True}, "do_flip"),
        ({"do_pad": True}, "do_pad"),
        ({"resample": 9}, "interpolation"),
        ({"image_std": [0.5, 0.0, 0.5]}, "std"),
        ({"image_mean": None}, "image_mean"),
        ({"image_mean": [0.5]}, "3 numbers"),
        ({"size": {"longest_edge": 224}}, "shortest_edge"),
        ({"size": 256, "do_center_crop": False, "crop_size": {"width": 3}}, "crop_size"),
        ({"rescale_factor": "x"}, "rescale_factor"),
        ({"do_resize": None}, "do_resize"),
        ({"do_normalize": "false"}, "do_normalize"),
        ({"resample": True}, "interpolation"),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0}, "crop_pct"),
        ({"size": {"shortest_edge": 224}, "crop_pct": 1.5}, "crop_pct"),
        ({"size": {"shortest_edge": float("inf")}, "crop_size": 224, "do_center_crop": True}, "whole number"),
        ({"rescale_factor": 10**400}, "rescale_factor"),
    ],
)
def test_unsuitable_hugging_face_file_is_rejected(tmp_path: Path, change: dict[str, object], part: str) -> None:
    (tmp_path / "p.json").write_text(json.dumps({**VIT, **change}))
    with pytest.raises(ConfigError, match=part):
        read_preset(str(tmp_path / "p.json"))


@pytest.mark.parametrize("content", ["", "[", "[1]", "[" * 100_000])
def test_file_that_is_no_json_object_is_rejected(tmp_path: Path, content: str) -> None:
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(ConfigError, match=r"p\.json"):
        read_preset(str(tmp_path / "p.json"))


@pytest.mark.parametrize("spec", ["timm:", "timm:no_such_net", "torchvision:no_such_net", "torchvision:A.B"])
def test_unknown_preset_is_rejected(spec: str) -> None:
    pytest.importorskip(spec.partition(":")[0])
    with pytest.raises(ConfigError, match=spec):
        read_preset(spec)


def test_other_text_is_no_preset() -> None:
    assert read_preset("net.toml") is None
