"""The choice of captured updates; tests/gpu captures them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from shrinkserve import arch
from shrinkserve.arch.code import CodeNetwork
from shrinkserve.config import Recipe, parse_recipe
from shrinkserve.errors import ConfigError
from shrinkserve.training.processes.distributed import DistContext
from shrinkserve.training.update.cuda_graph import captures

GPU, CPU = (DistContext(0, 1, torch.device(name), None) for name in ("cuda:0", "cpu"))


def recipe(cuda_graph: object, **sections: dict[str, Any]) -> Recipe:
    train = {"cuda_graph": cuda_graph, **sections.pop("train", {})}
    return parse_recipe({"name": "t", "train": train, **sections})


SPEC = arch.from_recipe(recipe("auto").model, 10)


@pytest.mark.parametrize("compiled", [False, True, "default"])
@pytest.mark.parametrize("wanted", ["auto", True])
def test_updates_are_captured_on_one_gpu(wanted: object, compiled: object) -> None:
    assert captures(recipe(wanted, train={"compile": compiled}), GPU, SPEC)


@pytest.mark.parametrize(
    ("ranks", "sections"),
    [
        (CPU, {}),
        (DistContext(0, 2, GPU.device, None), {}),
        (GPU, {"train": {"accumulate": 2}}),
        (GPU, {"train": {"compile": "reduce-overhead"}}),
        (GPU, {"augment": {"mixup": 0.2}}),
        (GPU, {"augment": {"cutmix": 1.0}}),
    ],
)
def test_auto_falls_back_where_true_is_an_error(ranks: DistContext, sections: dict[str, Any]) -> None:
    assert not captures(recipe("auto", **dict(sections)), ranks, SPEC)
    with pytest.raises(ConfigError, match="cuda_graph"):
        captures(recipe(True, **dict(sections)), ranks, SPEC)


def test_false_and_networks_from_code_are_not_captured() -> None:
    code = CodeNetwork("python:package.module:function", 10, 32)
    assert not captures(recipe(False), GPU, SPEC)
    assert not captures(recipe("auto"), GPU, code)
    assert captures(recipe(True), GPU, code)
