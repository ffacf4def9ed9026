"""Recipes: a TOML file describes a training run completely.

`schema` has the sections as frozen dataclasses, `loading` reads files and overrides, and `keys` documents each key.
"""

from shrinkserve.config.keys import Key, document_recipe, recipe_keys
from shrinkserve.config.loading import load_recipe, parse_recipe, recipe_names
from shrinkserve.config.schema import (
    AugmentConfig,
    DataConfig,
    DistillConfig,
    InputConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    ServingConfig,
    TrainConfig,
)

__all__ = [
    "AugmentConfig",
    "DataConfig",
    "DistillConfig",
    "InputConfig",
    "Key",
    "ModelConfig",
    "OptimizerConfig",
    "Recipe",
    "ScheduleConfig",
    "ServingConfig",
    "TrainConfig",
    "document_recipe",
    "load_recipe",
    "parse_recipe",
    "recipe_keys",
    "recipe_names",
]
