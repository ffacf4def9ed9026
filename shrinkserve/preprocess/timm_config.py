"""The preprocessing of timm's networks: their ``pretrained_cfg`` as a contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import get_args

from shrinkserve.errors import ConfigError, DataError
from shrinkserve.preprocess.checks import is_number
from shrinkserve.preprocess.contract import Preprocess
from shrinkserve.preprocess.resize import Interpolation

TIMM = "timm:"
INSTALL = "pip install 'shrinkserve[timm]', with a torchvision that fits torch"

Raw = Mapping[str, object]


def timm_preprocess(spec: str) -> Preprocess:
    """Return the preprocessing of a network of timm.

    Args:
        spec: ``timm:NAME``.

    Raises:
        ConfigError: timm cannot be imported, has no such network, or evaluates it as no contract can express.
    """
    return from_timm_config(_registered(spec.removeprefix(TIMM)), spec)


def _registered(name: str) -> Raw:
    try:
        from timm.models import get_pretrained_cfg
    except (ImportError, RuntimeError) as exc:  # a torchvision for another torch raises RuntimeError
        raise ConfigError(f"{TIMM}{name}: cannot import timm ({exc})", hint=INSTALL) from exc
    try:
        found = get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        found = None
    if found is None:
        raise ConfigError(f"{TIMM}{name}: timm has no such network", hint="see timm.list_models()")
    return asdict(found)


def from_timm_config(raw: Raw, where: str) -> Preprocess:
    """Return the preprocessing of timm's evaluation for a ``pretrained_cfg``.

    Raises:
        ConfigError: a missing key, or a value that no contract can express.
    """
    missing = [key for key in ("input_size", "interpolation", "mean", "std") if key not in raw]
    if missing:
        raise ConfigError(f"{where}: missing keys", expected=", ".join(missing))
    channels, height, width = numbers(where, "input_size", raw["input_size"], 3, whole=True)
    if height != width or channels != 3:
        raise ConfigError(f"{where}: input_size", expected="3, S, S", found=f"{channels:g}, {height:g}, {width:g}")
    crop, mode = raw.get("crop_pct") or 0.875, raw.get("crop_mode") or "center"
    if mode == "squash" and crop == 1:
        geometry = Preprocess(int(width), 1.0, geometry="stretch")
    elif mode == "center" and isinstance(crop, int | float):
        geometry = Preprocess(int(width), float(crop), geometry="center")
    else:
        raise ConfigError(f"{where}: crop_mode", expected="center, or squash with crop_pct 1", found=f"{mode}, {crop}")
    return completed(where, geometry, raw["interpolation"], raw["mean"], raw["std"])


def completed(where: str, geometry: Preprocess, interpolation: object, mean: object, std: object) -> Preprocess:
    """Return a preprocessing with the filter and the normalisation.

    Raises:
        ConfigError: a value that is not valid.
    """
    if interpolation not in get_args(Interpolation):
        expected = ", ".join(get_args(Interpolation))
        raise ConfigError(f"{where}: interpolation", expected=f"one of {expected}", found=str(interpolation)[:40])
    found = replace(
        geometry,
        interpolation=interpolation,  # type: ignore[arg-type]
        mean=tuple(numbers(where, "mean", mean, 3)),
        std=tuple(numbers(where, "std", std, 3)),
    )
    try:
        found.check()
    except DataError as exc:
        raise ConfigError(f"{where}: {exc.what}", expected=exc.expected, found=exc.found) from exc
    return found


def numbers(where: str, key: str, value: object, count: int, *, whole: bool = False) -> list[float]:
    """Return `count` numbers.

    Args:
        where: the description, for messages.
        key: its key, for messages.
        value: a number or a list.
        count: how many.
        whole: they must be whole numbers.

    Raises:
        ConfigError: something else.
    """
    given = list(value) if isinstance(value, list | tuple) else [value]
    known = [n for n in given if is_number(n)]
    if not len(known) == len(given) == count or (whole and any(n % 1 for n in known)):
        kind = f"{'whole ' * whole}number{'s' * (count > 1)}"
        raise ConfigError(f"{where}: {key}", expected=f"{count} {kind}", found=str(value)[:80])
    return [float(n) for n in known]
