from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shrinkserve import arch
from shrinkserve.arch.module import compile_spec
from shrinkserve.config import Recipe
from shrinkserve.training.plan import LOADER_SPEED, activation_bytes, plan_training


@pytest.mark.parametrize("network_name", ["shrinkcnn-a", "shrinkcnn-b"])
def test_activation_bytes_match_what_autograd_keeps(tiny: Callable[..., Recipe], network_name: str) -> None:
    recipe = tiny(model={"network": network_name, "input_size": 64}, train={"batch_size": 4})
    spec = arch.from_recipe(recipe.model, 2)
    network = compile_spec(spec)
    weights = {p.data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = network(torch.randn(4, 3, 64, 64))
    assert logits.shape == (4, 2)
    assert activation_bytes(spec, recipe) == pytest.approx(sum(kept.values()), rel=0.15)


def test_plan_hours_follow_speed_and_processes(colours: Path, tiny: Callable[..., Recipe]) -> None:
    recipe = tiny(schedule={"epochs": 3})
    one = plan_training(recipe, colours, images_per_second=10)
    assert (one.steps_an_epoch, one.steps, one.total_batch, one.classes) == (6, 18, 8, 2)
    assert one.hours == pytest.approx((3 * 48 + 3 * 22 / 3) / 10 / 3600)
    two = plan_training(recipe, colours, nproc=2, images_per_second=10)
    assert (two.steps_an_epoch, two.total_batch) == (3, 16)
    assert two.hours == pytest.approx(one.hours / 2)
    assert two.peak_rate == 2 * one.peak_rate == pytest.approx(0.1 * 16 / 256)
    assert plan_training(recipe, colours).hours is None


@pytest.mark.parametrize(("speed", "cores"), [(1, 1), (LOADER_SPEED, 1), (LOADER_SPEED + 1, 2), (4 * LOADER_SPEED, 4)])
def test_plan_has_the_cores_that_the_loader_needs(
    colours: Path, tiny: Callable[..., Recipe], speed: float, cores: int
) -> None:
    assert plan_training(tiny(), colours, images_per_second=speed).loader_cores == cores
    assert plan_training(tiny(), colours).loader_cores is None
