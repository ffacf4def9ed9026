"""Preprocessing of published networks: timm's and torchvision's presets and Hugging Face's JSON files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from shrinkserve.errors import ConfigError
from shrinkserve.preprocess import Interpolation, Preprocess
from shrinkserve.preprocess.timm_config import TIMM, completed, from_timm_config, numbers, timm_preprocess

TORCHVISION = "torchvision:"
MAX_BYTES = 1 << 20
"""Largest JSON file that is read."""
RESAMPLING: Sequence[Interpolation] = ("nearest", "lanczos", "bilinear", "bicubic")
"""The filters in the order of Pillow's numbers, which Hugging Face's files contain."""
GEOMETRY_KEYS = {"size", "crop_size", "crop_pct", "resample", "do_resize", "do_center_crop", "do_pad"}
VALUE_KEYS = {"do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"}
KNOWN = GEOMETRY_KEYS | VALUE_KEYS
"""Keys of Hugging Face's ``preprocessor_config.json`` with a meaning for pixels."""
TYPE_KEYS = {"image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "_valid_processor_keys"}
FORMAT_KEYS = {"do_convert_rgb", "return_tensors", "data_format", "input_data_format", "default_to_square", "device"}
IGNORED = TYPE_KEYS | FORMAT_KEYS | {"disable_grouping"}
"""Keys without a meaning for pixels."""

Raw = Mapping[str, object]


def read_preset(spec: str) -> Preprocess | None:
    """Return the preprocessing that a preset names; None if `spec` is not one.

    Args:
        spec: ``timm:NAME`` or ``torchvision:NAME``, which read the installed library, or a ``.json`` file of Hugging
            Face: ``preprocessor_config.json``, or ``config.json`` with timm's ``pretrained_cfg``.

    Raises:
        ConfigError: an unknown name, an unknown key, or a preprocessing that the contract cannot express.
    """
    if spec.startswith(TIMM):
        return timm_preprocess(spec)
    if spec.startswith(TORCHVISION):
        return _from_torchvision(spec.removeprefix(TORCHVISION), spec)
    if spec.endswith(".json"):
        raw = _read_json(Path(spec))
        nested = raw.get("pretrained_cfg")
        return from_timm_config(cast(Raw, nested), spec) if isinstance(nested, dict) else _from_hugging_face(raw, spec)
    return None


def _from_torchvision(name: str, where: str) -> Preprocess:
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as exc:
        raise ConfigError(f"{where}: cannot import torchvision ({exc})", hint="pip install torchvision") from exc
    try:
        weights = models.get_weight(name) if "." in name else models.get_model_weights(name).DEFAULT
    except (AttributeError, KeyError, ValueError) as exc:
        hint = "name a network (resnet50) or weights (ResNet50_Weights.IMAGENET1K_V1)"
        raise ConfigError(f"{where}: torchvision has no such network", hint=hint) from exc
    transforms = weights.transforms()
    if type(transforms).__name__ != "ImageClassification":
        raise ConfigError(f"{where}: not an image classifier", found=type(transforms).__name__)
    (size,), (resize_size,) = transforms.crop_size, transforms.resize_size
    antialias = transforms.antialias is not False
    geometry = Preprocess(size, geometry="resize_crop", resize_size=resize_size, antialias=antialias)
    return completed(where, geometry, transforms.interpolation.value, transforms.mean, transforms.std)


def _from_hugging_face(given: Raw, where: str) -> Preprocess:
    raw = _without_nulls(given, where)
    if unknown := sorted(raw.keys() - KNOWN - IGNORED):
        raise ConfigError(f"{where}: unknown keys", expected=", ".join(sorted(KNOWN)), found=", ".join(unknown)[:200])
    if raw.get("do_resize") is False or raw.get("do_pad") is True or "size" not in raw:
        raise ConfigError(f"{where}: no resize to a fixed size", expected="do_resize, size and no do_pad")
    geometry = _hugging_face_geometry(raw, where)
    scale = 1.0
    if raw.get("do_rescale", True):
        (scale,) = numbers(where, "rescale_factor", [raw.get("rescale_factor", 1 / 255)], 1)
    mean, std = raw.get("image_mean"), raw.get("image_std")
    if raw.get("do_normalize", True) is False:
        mean, std = [0.0] * 3, [1.0] * 3
    elif mean is None or std is None:
        raise ConfigError(f"{where}: missing keys", expected="image_mean and image_std")
    number = raw.get("resample", 2)
    name = RESAMPLING[number] if type(number) is int and 0 <= number < len(RESAMPLING) else number
    return completed(where, replace(geometry, scale=scale), name, mean, std)


def _without_nulls(given: Raw, where: str) -> Raw:
    """Return the keys with a meaning: null is "no" for a step and "not given" for a value, as in Hugging Face's code.

    Unknown steps that are not done are left out, too.
    """
    steps = {key: value is not None and value for key, value in given.items() if key.startswith("do_")}
    if wrong := [key for key, value in steps.items() if not isinstance(value, bool)]:
        raise ConfigError(f"{where}: {wrong[0]}", expected="true or false", found=str(given[wrong[0]])[:80])
    done = {key: value for key, value in steps.items() if value or key in KNOWN}
    return {**{key: value for key, value in given.items() if key not in steps and value is not None}, **done}


def _hugging_face_geometry(raw: Raw, where: str) -> Preprocess:
    """Return a preprocessing with the size and the geometry only."""
    shorter, square = _size(where, "size", raw["size"])
    if isinstance(raw["size"], int) and (raw.get("do_center_crop", False) or "crop_pct" in raw):
        shorter, square = square, None  # older files leave shortest_edge out
    crop = _size(where, "crop_size", raw.get("crop_size", square or shorter))
    size = crop[1] or crop[0]
    fraction = raw.get("crop_pct")
    if shorter is not None and fraction is not None:  # ConvNeXt: larger inputs are not cropped
        (fraction,) = numbers(where, "crop_pct", fraction, 1)
        if not 0 < fraction <= 1:
            raise ConfigError(f"{where}: crop_pct", expected="above 0 and up to 1", found=fraction)
        if shorter >= 384:
            return Preprocess(shorter, 1.0, geometry="stretch")
        return Preprocess(shorter, geometry="resize_crop", resize_size=int(shorter / fraction))
    if shorter is not None and size is not None and raw.get("do_center_crop", False):
        return Preprocess(size, geometry="resize_crop", resize_size=shorter)
    if square is not None and (size == square or not raw.get("do_center_crop", False)):
        return Preprocess(square, 1.0, geometry="stretch")
    expected = "shortest_edge with do_center_crop, or height and width without another crop_size"
    raise ConfigError(f"{where}: size", expected=expected, found=str({"size": raw["size"], "crop_size": size})[:120])


def _size(where: str, key: str, value: object) -> tuple[int | None, int | None]:
    """Return a size as (shorter side, None) or (None, side of a square)."""
    if isinstance(value, dict) and set(value) == {"shortest_edge"}:
        return int(numbers(where, key, [value["shortest_edge"]], 1, whole=True)[0]), None
    if isinstance(value, dict) and set(value) == {"height", "width"} and value["height"] == value["width"]:
        value = value["height"]
    if isinstance(value, int) and not isinstance(value, bool):
        return None, value
    expected = "a number, shortest_edge, or equal height and width"
    raise ConfigError(f"{where}: {key}", expected=expected, found=str(value)[:80])


def _read_json(path: Path) -> Raw:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{path}: the file is too large", expected=f"at most {MAX_BYTES} bytes")
        raw = json.loads(content)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot read the file ({exc.strerror})", hint="check --preprocess") from exc
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{path}: not a JSON file ({exc})") from exc
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: not a preprocessing", expected="a JSON object")
    return raw
