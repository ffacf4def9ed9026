from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shrinkserve.config import Recipe, load_recipe
from shrinkserve.training.inputs import class_weights, open_inputs
from shrinkserve.training.plan import plan_training
from shrinkserve.training.recipe_checks import resolve_auto_decays, settled_decay, warnings_of


def test_published_recipe_on_few_images_is_warned_about() -> None:
    """256 photographs, 20 epochs of 2 updates: batch norm at 0.999 gave chance accuracy."""
    (warning,) = warnings_of(load_recipe("shrinkcnn-a"), 40)
    assert "model.batch_norm_decay=" in warning
    assert not warnings_of(load_recipe("shrinkcnn-a"), 375_300)


def test_float16_on_a_cpu_is_warned_about() -> None:
    recipe = load_recipe("shrinkcnn-a", {"train.precision": "float16"})
    (warning,) = warnings_of(recipe, 375_300, gpu=False)
    assert "train.precision" in warning
    assert not warnings_of(recipe, 375_300, gpu=True)


def test_head_epochs_that_leave_none_for_the_network_are_warned_about() -> None:
    (warning,) = warnings_of(load_recipe("finetune", {"schedule.epochs": 2}), 400)
    assert "train.head_epochs" in warning
    assert not warnings_of(load_recipe("finetune", {"schedule.epochs": 3}), 400)


@pytest.mark.parametrize("steps", [1, 22, 40, 704, 5000, 375_300])
def test_suggested_decay_settles(steps: int) -> None:
    recipe = load_recipe("shrinkcnn-a", {"model.batch_norm_decay": settled_decay(steps)})
    assert not warnings_of(recipe, max(steps, 4))
    assert 0.5 <= settled_decay(steps) <= 0.999


def test_auto_decays_follow_the_number_of_updates() -> None:
    recipe = load_recipe("finetune")
    assert not warnings_of(recipe, 10)
    settled = resolve_auto_decays(recipe, 400)
    assert settled.model.batch_norm_decay == settled.train.ema_decay == settled_decay(400) == 0.96


def test_plan_has_the_warnings(colours: Path, tiny: Callable[..., Recipe]) -> None:
    assert plan_training(tiny(model={"batch_norm_decay": 0.999}), colours).warnings
    assert not plan_training(tiny(model={"batch_norm_decay": "auto"}), colours).warnings


def test_class_weights_balance_the_classes(tmp_path: Path, colours: Path, tiny: Callable[..., Recipe]) -> None:
    import shutil

    data = Path(shutil.copytree(colours, tmp_path / "data"))
    for path in sorted((data / "train" / "red").iterdir())[6:]:
        path.unlink()
    weights = class_weights(open_inputs(tiny(), data).training)
    assert weights == pytest.approx([30 / (2 * 24), 30 / (2 * 6)])
