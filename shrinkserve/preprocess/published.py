"""Read the preprocessing that other libraries publish with their networks: timm, torchvision and Hugging Face."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from shrinkserve.errors import ConfigError, DataError
from shrinkserve.preprocess.contract import Preprocess
from shrinkserve.preprocess.resize import Interpolation

SOURCES = "timm:NAME, torchvision:NAME, a Hugging Face preprocessor_config.json, or the config.json of a timm model"
PILLOW_FILTERS: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of its filters, which Hugging Face's files contain."""
TIMM_KEYS = frozenset({"input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode"})
HF_KEYS = frozenset(
    {"do_resize", "size", "resample", "do_center_crop", "crop_size", "crop_pct", "do_rescale", "rescale_factor"}
    | {"do_normalize", "image_mean", "image_std", "do_convert_rgb"}
)
HF_METADATA = frozenset(
    {"image_processor_type", "feature_extractor_type", "processor_class", "_processor_class", "_valid_processor_keys"}
    | {"auto_map", "return_tensors", "data_format", "input_data_format", "device", "disable_grouping"}
)
"""Keys of Hugging Face's files that do not change pixels."""


def published_preprocess(source: str) -> Preprocess:
    """Return the preprocessing of a published network.

    Args:
        source: ``timm:NAME``, ``torchvision:NAME`` (a model or a weights entry), or the path of a Hugging Face
            ``preprocessor_config.json`` or of a timm model's ``config.json``.

    Raises:
        ConfigError: unknown source or name, a library that is not installed, an unknown key, or a preprocessing that
            the contract cannot describe.

    Example::

        published_preprocess("timm:resnet50.a1_in1k")
    """
    library, _, name = source.partition(":")
    if library == "timm" and name:
        return from_timm(_timm_config(name), source)
    if library == "torchvision" and name:
        return _from_torchvision(name, source)
    if not source.endswith(".json"):
        raise ConfigError(f"{source}: unknown preprocessing source", expected=SOURCES)
    try:
        raw = json.loads(Path(source).read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"{source}: cannot be read ({exc.strerror})", hint="check the path") from exc
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{source}: not JSON ({exc})", expected=SOURCES) from exc
    if not isinstance(raw, dict):
        raise ConfigError(f"{source}: not a JSON object", expected=SOURCES)
    config = raw.get("pretrained_cfg")
    if isinstance(config, dict):
        return from_timm({key: config[key] for key in TIMM_KEYS & config.keys()}, source)
    return from_hugging_face(raw, source)


def from_timm(config: Mapping[str, object], where: str) -> Preprocess:
    """Return the preprocessing of a timm ``pretrained_cfg``.

    Args:
        config: the keys of `TIMM_KEYS`.
        where: name of the source in messages.

    Raises:
        ConfigError: a missing or unsupported value.
    """
    if missing := sorted(TIMM_KEYS - {"crop_mode"} - config.keys()):
        raise ConfigError(f"{where}: missing keys", expected=", ".join(missing))
    shape = config["input_size"]
    if not isinstance(shape, Sequence) or len(shape) != 3 or shape[1] != shape[2]:
        raise ConfigError(
            f"{where}: input_size", expected="channels, and equal height and width", found=repr(shape)[:60]
        )
    crop, mode = config["crop_pct"], config.get("crop_mode") or "center"
    described = _shared(config["interpolation"], config["mean"], config["std"], where)
    if mode == "center":
        geometry: dict[str, object] = {"geometry": "center", "crop_fraction": crop}
    elif mode == "squash" and crop == 1:
        geometry = {"geometry": "stretch", "crop_fraction": 1.0}
    elif mode == "border" and crop == 1:
        fill = [round(255 * float(value)) for value in described["mean"]]
        geometry = {"geometry": "letterbox", "crop_fraction": 1.0, "fill": (fill * 3)[:3]}
    else:
        raise ConfigError(f"{where}: crop_mode {mode!r} with crop_pct {crop}", expected="center, or crop_pct 1")
    return _checked({"size": shape[1], **described, **geometry}, where)


def from_hugging_face(raw: Mapping[str, object], where: str) -> Preprocess:
    """Return the preprocessing of a ``preprocessor_config.json``, with the central crop of the fast processors.

    Args:
        raw: the content of the file.
        where: name of the file in messages.

    Raises:
        ConfigError: an unknown key, or a value that the contract cannot describe.
    """
    if unknown := sorted(raw.keys() - HF_KEYS - HF_METADATA):
        hint = "give preprocessor_config.json" if "architectures" in raw else "describe it in a TOML file"
        raise ConfigError(f"{where}: unknown keys", found=", ".join(unknown)[:200], hint=hint)
    if missing := sorted({"size", "image_mean", "image_std"} - raw.keys()):
        raise ConfigError(f"{where}: missing keys", expected=", ".join(missing))
    if raw.get("do_resize", True) is not True or raw.get("do_normalize", True) is not True:
        raise ConfigError(f"{where}: do_resize and do_normalize", expected="true")
    described = _shared(raw.get("resample", 2), raw["image_mean"], raw["image_std"], where)
    rescale = raw.get("rescale_factor", 1 / 255) if raw.get("do_rescale", True) else 1.0
    return _checked({**_hugging_face_geometry(raw, where), **described, "scale": rescale}, where)


def _hugging_face_geometry(raw: Mapping[str, object], where: str) -> dict[str, object]:
    """Return size and geometry of a Hugging Face file."""
    size = raw["size"]
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else size
    crops = raw.get("do_center_crop", "crop_size" in raw and isinstance(size, Mapping) and "shortest_edge" in size)
    if (fraction := raw.get("crop_pct")) is not None:  # ConvNeXT: no crop from 384 pixels on
        if not isinstance(shortest, int) or not isinstance(fraction, float | int) or not 0 < fraction <= 1:
            found = repr((size, fraction))[:60]
            raise ConfigError(f"{where}: size and crop_pct", expected="size.shortest_edge and 0 < x <= 1", found=found)
        if shortest >= 384:
            return {"size": shortest, "geometry": "stretch", "crop_fraction": 1.0}
        return _cut(shortest, int(shortest / fraction))
    if crops:
        inner = _square(raw.get("crop_size", size), f"{where}: crop_size")
        if isinstance(shortest, int):
            return _cut(inner, shortest)
        raise ConfigError(f"{where}: size with do_center_crop", expected="shortest_edge", found=repr(size)[:60])
    return {"size": _square(size, f"{where}: size"), "geometry": "stretch", "crop_fraction": 1.0}


def _cut(size: int, shorter: int) -> dict[str, object]:
    return {"size": size, "geometry": "resize_crop", "crop_fraction": 1.0, "resize_size": shorter}


def _square(size: object, what: str) -> int:
    height, width = (size.get("height"), size.get("width")) if isinstance(size, Mapping) else (size, size)
    if height != width or not isinstance(height, int):
        raise ConfigError(what, expected="one size, or equal height and width", found=repr(size)[:60])
    return height


def _timm_config(name: str) -> Mapping[str, object]:
    timm = _library("timm", "timm")
    try:
        config = timm.models.get_pretrained_cfg(name)
    except (RuntimeError, ValueError) as exc:
        raise ConfigError(f"timm:{name}: {exc}", hint="see timm.list_models()") from exc
    if config is None:
        raise ConfigError(f"timm:{name}: no such model", hint="see timm.list_models()")
    found: Mapping[str, object] = timm.data.resolve_data_config(pretrained_cfg=config.to_dict())
    return {key: found[key] for key in TIMM_KEYS & found.keys()}


def _from_torchvision(name: str, where: str) -> Preprocess:
    models = _library("torchvision.models", "torchvision")
    try:
        weights = models.get_weight(name) if "." in name else models.get_model_weights(name).DEFAULT
    except (ValueError, AttributeError, KeyError) as exc:
        raise ConfigError(f"{where}: {exc}", hint="see torchvision.models.list_models()") from exc
    preset = weights.transforms()
    try:
        described = _shared(preset.interpolation.value, preset.mean, preset.std, where)
        size, shorter = preset.crop_size, preset.resize_size
    except AttributeError:
        raise ConfigError(f"{where}: not an image classifier") from None
    return _checked({**_cut(*size, *shorter), **described}, where)


def _library(module: str, name: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise ConfigError(f"{name} is not installed", hint=f"pip install {name}") from None
    except RuntimeError as exc:  # torchvision that was built for another torch
        raise ConfigError(f"{name} cannot be imported ({exc})", hint=f"install the {name} of this torch") from exc


def _shared(interpolation: object, mean: object, std: object, where: str) -> dict[str, Any]:
    """Return the filter and the normalisation in the words of the contract."""
    known = PILLOW_FILTERS.get(interpolation) if type(interpolation) is int else interpolation
    if not isinstance(known, str) or known not in get_args(Interpolation):
        words = ", ".join([*PILLOW_FILTERS.values(), *map(str, PILLOW_FILTERS)])
        raise ConfigError(f"{where}: interpolation", expected=f"one of {words}", found=repr(interpolation)[:60])
    values = {"mean": mean, "std": std}
    for key, value in values.items():
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: {key}", expected="a list of numbers", found=repr(value)[:60])
    order = {"channel_order": "L"} if isinstance(mean, list | tuple) and len(mean) == 1 else {}
    return {"interpolation": known, **{key: list(value) for key, value in values.items()}, **order}  # type: ignore[call-overload]


def _checked(raw: Mapping[str, object], where: str) -> Preprocess:
    try:
        return Preprocess.from_dict(raw)
    except DataError as exc:
        raise ConfigError(f"{where}: {exc.reason}", expected=exc.expected, found=exc.found) from exc
