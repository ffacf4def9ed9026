from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from shrinkserve.errors import ConfigError
from shrinkserve.preprocess import Preprocess, published_preprocess
from shrinkserve.preprocess.published import from_hugging_face, from_timm

VIT = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 224, "width": 224},
}
EFFICIENTFORMER = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": {"shortest_edge": 256},
}
CONVNEXT = {
    "crop_pct": 0.875,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "resample": 3,
    "size": {"shortest_edge": 224},
}


def photo(width: int, height: int) -> Image.Image:
    return Image.fromarray(data.astronaut()).resize((width, height), Image.Resampling.BICUBIC)


def normalised(preprocess: Preprocess, image: Image.Image) -> np.ndarray:
    scale, shift = preprocess.scale_and_shift()
    return (preprocess.evaluate(image) * scale + shift).transpose(2, 0, 1)


@pytest.mark.parametrize("shape", [(500, 375), (91, 160), (301, 300)], ids=str)
@pytest.mark.parametrize(
    "name",
    ["resnet50.a1_in1k", "efficientnet_lite0.ra_in1k", "vit_base_patch16_siglip_224.webli", "convnext_tiny.fb_in22k"],
)
def test_timm_inputs_equal_timms_own_transform(name: str, shape: tuple[int, int]) -> None:
    from timm.data import create_transform, resolve_data_config
    from timm.models import get_pretrained_cfg

    config = resolve_data_config(pretrained_cfg=get_pretrained_cfg(name).to_dict())
    theirs = create_transform(**config, is_training=False)(photo(*shape)).numpy()
    ours = normalised(published_preprocess(f"timm:{name}"), photo(*shape))
    np.testing.assert_allclose(ours, theirs, atol=5e-6)


@pytest.mark.parametrize("shape", [(500, 375), (91, 160), (301, 300)], ids=str)
@pytest.mark.parametrize(
    "name", ["resnet50", "mobilenet_v2", "ResNet50_Weights.IMAGENET1K_V1", "swin_v2_t", "vit_l_16"]
)
def test_torchvision_inputs_equal_torchvisions_own_preset(name: str, shape: tuple[int, int]) -> None:
    from torchvision import models

    weights = models.get_weight(name) if "." in name else models.get_model_weights(name).DEFAULT
    theirs = weights.transforms()(photo(*shape)).numpy()
    ours = normalised(published_preprocess(f"torchvision:{name}"), photo(*shape))
    np.testing.assert_allclose(ours, theirs, atol=5e-6)


def test_hugging_face_files_become_a_contract(tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(VIT))
    assert published_preprocess(str(path)) == Preprocess(224, 1.0, "bilinear", geometry="stretch")
    cut = from_hugging_face(EFFICIENTFORMER, "x")
    assert (cut.size, cut.geometry, cut.resize_size, cut.interpolation) == (224, "resize_crop", 256, "bicubic")
    assert (cut.mean, cut.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert from_hugging_face(CONVNEXT, "x").resize_size == 256
    assert from_hugging_face({**CONVNEXT, "size": {"shortest_edge": 384}}, "x").geometry == "stretch"
    assert from_hugging_face({**VIT, "do_rescale": False}, "x").scale == 1.0


def test_config_json_of_a_timm_model_becomes_a_contract(tmp_path: Path) -> None:
    config = {
        "input_size": [3, 288, 288],
        "interpolation": "bicubic",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "crop_pct": 1.0,
        "crop_mode": "center",
        "tag": "a1_in1k",
    }
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet50", "pretrained_cfg": config}))
    found = published_preprocess(str(tmp_path / "config.json"))
    assert (found.size, found.geometry, found.crop_fraction) == (288, "center", 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_flip_channel_order": True}, "unknown keys: found do_flip_channel_order"),
        ({"architectures": ["ViT"]}, "preprocessor_config"),
        ({"resample": 5}, "interpolation"),
        ({"image_std": [0.5, 0.5, 0]}, "std"),
        ({"image_mean": 0.5}, "mean: expected a list"),
        ({"size": {"height": 224, "width": 192}}, "equal height and width"),
        ({"size": {"longest_edge": 224}}, "size"),
        ({"do_resize": False}, "do_resize"),
        ({"crop_pct": "1"}, "crop_pct"),
        ({"do_center_crop": True}, "do_center_crop"),
    ],
)
def test_hugging_face_file_that_cannot_be_described_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_hugging_face({**VIT, **change}, "x.json")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("timm:no_such_model", "no_such_model"),
        ("torchvision:no_such_model", "no_such_model"),
        ("torchvision:fasterrcnn_resnet50_fpn", "not an image classifier"),
        ("keras:resnet50", "unknown preprocessing source.*timm:NAME"),
        ("gone.json", "cannot be read"),
    ],
)
def test_unknown_sources_are_refused(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        published_preprocess(source)


def test_timm_crop_mode_that_the_contract_lacks_is_refused() -> None:
    config = {"input_size": (3, 8, 8), "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9}
    with pytest.raises(ConfigError, match="crop_mode 'squash'"):
        from_timm({**config, "crop_mode": "squash"}, "x")
    border = from_timm({**config, "crop_mode": "border", "crop_pct": 1.0}, "x")
    assert (border.geometry, border.fill) == ("letterbox", (128, 128, 128))


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5)


@given(st.dictionaries(st.sampled_from([*VIT, *EFFICIENTFORMER, "crop_pct"]), JSON))
def test_any_hugging_face_file_raises_only_config_error(change: dict[str, object]) -> None:
    with suppress(ConfigError):
        assert from_hugging_face({**VIT, **change}, "x").fingerprint
