"""Load recipes from TOML files, shipped recipes and ``--set`` overrides."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from shrinkserve.config.schema import Recipe
from shrinkserve.errors import ConfigError
from shrinkserve.paths import StrPath
from shrinkserve.preprocess.timm_config import TIMM, timm_preprocess
from shrinkserve.toml import parse_toml, read_toml, validate

TIMM_KEYS = {"geometry", "crop_fraction", "interpolation", "mean", "std"}
"""Keys of the section `input` that timm's description of a network decides."""


def load_recipe(source: StrPath, overrides: Sequence[str] | Mapping[str, object] = ()) -> Recipe:
    """Load a recipe.

    Args:
        source: path of a TOML file, or the name of a shipped recipe (see `recipe_names`).
        overrides: keys to change, as ``{"section.key": value}`` or as strings ``"section.key=value"``. In a string the
            value is written as in TOML; a bare word is a string. A string alone is one change.

    Returns:
        The recipe. For a network ``timm:NAME``, keys of ``input`` and the input size that it leaves out are timm's.

    Raises:
        ConfigError: no such recipe, or not TOML, or keys that are unknown or out of range (all are listed).

    Example:
        >>> load_recipe("digits", {"schedule.epochs": 2}).schedule.epochs
        2
    """
    path = _find_recipe(source)
    raw = read_toml(path)
    overrides = [overrides] if isinstance(overrides, str) else overrides
    pairs = overrides.items() if isinstance(overrides, Mapping) else map(_parse_override, overrides)
    for key, value in pairs:
        _set(raw, key, value)
    _fill_from_timm(raw)
    return parse_recipe(raw, str(path))


def parse_recipe(raw: Mapping[str, object], where: str = "recipe") -> Recipe:
    """Check plain data and return it as a recipe.

    Args:
        raw: the content of a recipe file.
        where: file name or other source, for the message.

    Raises:
        ConfigError: lists every key that is unknown, of the wrong type or out of range.
    """
    return validate(Recipe, raw, where, check=_inconsistencies)


def _inconsistencies(recipe: Recipe) -> list[str]:
    """Return one message for each value that does not fit another one."""
    found = []
    if not recipe.name.replace("-", "").replace("_", "").replace(".", "").isalnum() or recipe.name.startswith("."):
        found.append(f"name: expected letters, digits, '-', '_' and '.', found {recipe.name!r}")
    ranges = {key: value for key, value in vars(recipe.augment).items() if isinstance(value, tuple)}
    found += [
        f"augment.{key}: expected the lower value first, found {[low, high]}"
        for key, (low, high) in ranges.items()
        if low > high
    ]
    problems = recipe.preprocess.problems()
    found += [f"input.{name}: expected {expected}, found {value}" for name, expected, value in problems]
    serving, schedule = recipe.serving, recipe.schedule
    if any(size > serving.max_batch_size for size in serving.preferred_batch_sizes):
        found.append(
            f"serving.preferred_batch_sizes: expected at most serving.max_batch_size ({serving.max_batch_size}), "
            f"found {list(serving.preferred_batch_sizes)}"
        )
    if schedule.warmup_epochs > schedule.epochs:
        found.append(
            f"schedule.warmup_epochs: expected at most schedule.epochs ({schedule.epochs}), "
            f"found {schedule.warmup_epochs:g}; set both keys"
        )
    return found


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package.

    Returns:
        Sorted names, which `load_recipe` and `train` accept.

    Example:
        >>> "digits" in recipe_names()
        True
    """
    return sorted(path.stem for folder in _recipe_folders() for path in folder.glob("*.toml"))


def _recipe_folders() -> list[Path]:
    # The wheel has train/*.toml as shrinkserve/recipes; a checkout has them in train/.
    package = Path(str(resources.files("shrinkserve")))
    return [folder for folder in (package / "recipes", package.parent / "train") if folder.is_dir()]


def _find_recipe(source: StrPath) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    for folder in _recipe_folders():
        if (shipped := folder / f"{source}.toml").is_file() and path.name == str(source):
            return shipped
    known = recipe_names()
    near = difflib.get_close_matches(str(source), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"give a TOML file or one of: {', '.join(known)}"
    raise ConfigError(f"{source}: no such recipe", hint=hint)


def _parse_override(override: str) -> tuple[str, object]:
    """Return key and value of an override ``section.key=value``."""
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
        raise ConfigError("override", expected="section.key=value", found=repr(override))
    try:
        return key.strip(), parse_toml(f"value = {text}")["value"]
    except ValueError:
        return key.strip(), text


def _fill_from_timm(raw: dict[str, object]) -> None:
    """Fill the preprocessing that a recipe for a network of timm leaves out."""
    model, given = raw.get("model"), raw.get("input", {})
    if not isinstance(model, dict) or not isinstance(given, dict):
        return
    network = model.get("network")
    if not isinstance(network, str) or not network.startswith(TIMM):
        return
    if given.keys() >= TIMM_KEYS and "input_size" in model:  # the complete recipe of a run
        return
    preprocess = timm_preprocess(network)
    model.setdefault("input_size", preprocess.size)
    raw["input"] = {**{key: getattr(preprocess, key) for key in TIMM_KEYS}, **given}


def _set(raw: dict[str, object], key: str, value: object) -> None:
    """Set one key in the content of a recipe file."""
    *sections, last = key.split(".")
    for name in sections:
        section = raw.setdefault(name, {})
        if not isinstance(section, dict):
            raise ConfigError(f"{key}: {name} is not a section")
        raw = section
    if isinstance(value, Mapping) or isinstance(raw.get(last), dict):
        raise ConfigError(f"{key}: a section", expected=f"one key of it, e.g. {key}.NAME", found=repr(value))
    raw[last] = value
