"""Shipped recipes: all load, and the published ones equal the publication, value by value."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shrinkserve.config import load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_loads_under_its_own_name(name: str) -> None:
    assert load_recipe(name).name == name


def test_shrinkcnn_a_is_the_published_recipe() -> None:
    """The values of the paper's README and solver (arXiv:1911.09251)."""
    recipe = load_recipe("shrinkcnn-a").to_dict()
    assert recipe["model"] == {
        "network": "shrinkcnn-a", "input_size": 224, "width": 1.0, "dropout": 0.0, "batch_norm_decay": 0.999,
        "stochastic_depth": 0.0, "pretrained": True,
    }  # fmt: skip
    assert recipe["optimizer"] == {
        "name": "rmsprop", "lr": 0.1, "reference_batch": 256, "decay": 0.9, "momentum": 0.9, "epsilon": 1.0, "l2": 4e-5,
        "backbone_lr": 1.0,
    }  # fmt: skip
    assert recipe["schedule"] == {"epochs": 300, "warmup_epochs": 10, "per_step": False, "sizes": ()}
    train = recipe["train"]
    assert (train["batch_size"], train["accumulate"]) == (128, 1)
    assert (train["label_smoothing"], train["ema_decay"], train["ema_buffers"]) == (0.1, 0.999, False)
    assert train["precision"] == "float16"
    assert recipe["input"] == {
        "crop_fraction": 0.875, "interpolation": "bicubic", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
        "geometry": "squash", "antialias": True, "apply_exif": False, "fill": (0, 0, 0),
    }  # fmt: skip
    assert recipe["augment"] == {
        "crop_area": (0.75, 1.0), "crop_aspect": (0.75, 1.33), "random_interpolation": True, "flip": True,
        "brightness": 0.4, "saturation": (0.6, 1.4), "contrast": (0.6, 1.4), "hue": 0.1,
        "erase_probability": 0.5, "erase_area": (0.02, 0.4), "erase_aspect": (0.3, 3.3),
        "mixup": 0.0, "cutmix": 0.0, "rand_augment": "",
    }  # fmt: skip


def test_shrinkcnn_b_differs_in_its_network_only() -> None:
    a, b = load_recipe("shrinkcnn-a"), load_recipe("shrinkcnn-b")
    assert replace(b, name=a.name, model=replace(b.model, network=a.model.network)) == a
