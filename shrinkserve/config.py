"""The recipe: everything that decides what a training run is, as frozen dataclasses.

A recipe is a TOML file; ``--set section.key=value`` changes single keys. pydantic checks types and ranges, so that
every fault of a file is reported at once, each with its key.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from shrinkserve.errors import ConfigError
from shrinkserve.preprocess import Interpolation, Preprocess
from shrinkserve.toml import parse_toml, read_toml, validate

Positive = Annotated[int, Gt(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
Range = tuple[float, float]


@dataclass(frozen=True)
class ModelConfig:
    """The network. `network` is a name of the zoo or the path of a .prototxt."""

    network: str = "shrinkcnn-a"
    classes: Positive | None = None  # None: as many as the data has
    input_size: Annotated[int, Ge(32)] = 224
    width: Annotated[float, Gt(0)] = 1.0
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    batch_norm_decay: Annotated[float, Ge(0), Lt(1)] = 0.999  # TensorFlow's convention: 1 - torch's momentum


@dataclass(frozen=True)
class InputConfig:
    """Evaluation preprocessing; `shrinkserve.preprocess.Preprocess` without the size."""

    crop_fraction: Annotated[float, Gt(0), Le(1)] = 0.875
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class AugmentConfig:
    """Training-time augmentation, applied to uint8 pixels before the normalisation."""

    crop_area: Range = (0.75, 1.0)
    crop_aspect: Range = (0.75, 1.33)
    random_interpolation: bool = True
    flip: bool = True
    brightness: Fraction = 0.4  # added, in [-b, b] of the full scale
    saturation: Range = (0.6, 1.4)
    contrast: Range = (0.6, 1.4)
    hue: Annotated[float, Ge(0), Le(0.5)] = 0.1  # in [-h, h] turns
    erase_probability: Fraction = 0.5
    erase_area: Range = (0.02, 0.4)
    erase_aspect: Range = (0.3, 3.3)


@dataclass(frozen=True)
class OptimizerConfig:
    """`lr` is for `reference_batch` images a step and scales linearly with the real total batch."""

    name: Literal["rmsprop", "sgd", "adamw"] = "rmsprop"
    lr: Annotated[float, Gt(0)] = 0.1
    reference_batch: Positive = 256
    decay: Annotated[float, Ge(0), Lt(1)] = 0.9
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    epsilon: Annotated[float, Gt(0)] = 1.0
    l2: Annotated[float, Ge(0)] = 4e-5  # times sum(w^2) in the loss: its gradient is 2 * l2 * w


@dataclass(frozen=True)
class ScheduleConfig:
    """Linear warm-up from 0, then cosine to 0."""

    epochs: Positive = 300
    warmup_epochs: Annotated[float, Ge(0)] = 10
    per_step: bool = False  # False: the rate changes once an epoch


@dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    batch_size: Positive = 128  # a process
    accumulate: Positive = 1
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.1
    ema_decay: Annotated[float, Ge(0), Lt(1)] = 0.999
    ema_buffers: bool = False
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = True
    compile: bool = False
    sync_batch_norm: bool = False
    deterministic: bool = False
    threads: Positive | None = None  # of torch on a CPU, a process; None: an even share of the cores
    seed: int = 0
    evaluate_every: Positive = 1  # epochs
    checkpoint_steps: Annotated[int, Ge(0)] = 0  # 0: at the end of an epoch only
    keep_checkpoints: Positive = 3


@dataclass(frozen=True)
class DataConfig:
    """Reading and decoding."""

    loader: Literal["auto", "portable", "dali"] = "auto"
    workers: Annotated[int, Ge(0)] | None = None  # None: one a core that this process may use
    max_bad_fraction: Fraction = 0.0


@dataclass(frozen=True)
class ServingConfig:
    """How Triton runs the model. `shrinkserve repo tune` measures what suits a machine."""

    max_batch_size: Positive = 32
    instances: Positive = 1  # one with all threads answers fastest; several with one thread each answer most
    threads: Annotated[int, Ge(0)] = 0  # of one instance; 0: as many as there are cores
    queue_delay_us: Annotated[int, Ge(0)] = 0  # waiting for company only helps a GPU that is far from full
    preferred_batch_sizes: tuple[Positive, ...] = ()  # for engines whose kernels are tuned to certain sizes
    # The next three cost latency on Triton 2.51: requests stall for 500 ms now and again (model_config.set_options).
    queue_size: Annotated[int, Ge(0)] = 0  # requests beyond it are refused; 0: no limit
    queue_timeout_us: Annotated[int, Ge(0)] = 0  # a request that has waited longer is refused; 0: none is
    priority_levels: Annotated[int, Ge(0)] = 0  # 1 is served first and the default; 0: one queue for all
    warmup: bool = True  # before the model is ready: the first real request is not the slow one
    response_cache: bool = False  # for repeated images; NVIDIA's container, started with --cache-config, has one


@dataclass(frozen=True)
class Recipe:
    """One training run. `name` is the model's name from the run folder to Triton."""

    name: str
    model: ModelConfig = field(default_factory=ModelConfig)
    input: InputConfig = field(default_factory=InputConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    data: DataConfig = field(default_factory=DataConfig)
    serving: ServingConfig = field(default_factory=ServingConfig)

    @property
    def preprocess(self) -> Preprocess:
        """The evaluation preprocessing at the network's input size."""
        return Preprocess(size=self.model.input_size, **asdict(self.input))

    def to_dict(self) -> dict[str, Any]:
        """As plain data; keys that are None are left out, as TOML has no null."""
        return _without_none(asdict(self))

    def to_toml(self) -> str:
        """As the text of a recipe file."""
        import tomli_w

        return tomli_w.dumps(self.to_dict())


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        source: the path of a TOML file, or the name of a shipped recipe (see `recipe_names`).
        overrides: ``section.key=value`` each, the value written as in TOML (a bare word is a string).

    Raises:
        ConfigError: no such recipe, not TOML, or every key that is unknown or out of range.
    """
    path = _find_recipe(source)
    raw = read_toml(path)
    for override in overrides:
        _apply(raw, override)
    return parse_recipe(raw, str(path))


def parse_recipe(raw: Mapping[str, object], where: str = "recipe") -> Recipe:
    """Check plain data and return it as a recipe.

    Raises:
        ConfigError: lists every key that is unknown, of the wrong type or out of range.
    """
    return validate(Recipe, raw, where, check=_inconsistencies)


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for folder in _recipe_folders() for path in folder.glob("*.toml"))


def _recipe_folders() -> list[Path]:
    # The wheel carries train/*.toml as shrinkserve/recipes; a checkout has them where people edit them.
    package = Path(str(resources.files("shrinkserve")))
    return [folder for folder in (package / "recipes", package.parent / "train") if folder.is_dir()]


def _find_recipe(source: str | Path) -> Path:
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


def _apply(raw: dict[str, object], override: str) -> None:
    """Set the key that an override ``section.key=value`` names."""
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise ConfigError("--set", expected="section.key=value", found=repr(override))
    try:
        value = parse_toml(f"value = {text}")["value"]
    except ValueError:
        value = text
    *sections, last = key.strip().split(".")
    for name in sections:
        section = raw.setdefault(name, {})
        if not isinstance(section, dict):
            raise ConfigError(f"--set {override}: {name} is not a section")
        raw = section
    raw[last] = value


def _inconsistencies(recipe: Recipe) -> list[str]:
    """What no single key can tell."""
    faults = []
    if not recipe.name.replace("-", "").replace("_", "").replace(".", "").isalnum() or recipe.name.startswith("."):
        faults.append(f"name: expected letters, digits, '-', '_' and '.', found {recipe.name!r}")
    for f in fields(AugmentConfig):
        value = getattr(recipe.augment, f.name)
        if isinstance(value, tuple) and not 0 <= value[0] <= value[1]:
            faults.append(f"augment.{f.name}: expected 0 <= low <= high, found {list(value)}")
    if any(s <= 0 for s in recipe.input.std):
        faults.append(f"input.std: expected values above 0, found {list(recipe.input.std)}")
    if any(size > recipe.serving.max_batch_size for size in recipe.serving.preferred_batch_sizes):
        faults.append(
            f"serving.preferred_batch_sizes: expected at most serving.max_batch_size "
            f"({recipe.serving.max_batch_size}), found {list(recipe.serving.preferred_batch_sizes)}"
        )
    if recipe.schedule.warmup_epochs > recipe.schedule.epochs:
        faults.append(
            f"schedule.warmup_epochs: expected at most schedule.epochs ({recipe.schedule.epochs}), "
            f"found {recipe.schedule.warmup_epochs}"
        )
    return faults


def _without_none(raw: dict[str, Any]) -> dict[str, Any]:
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in raw.items() if v is not None}
