from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from shrinkserve.arch import load
from shrinkserve.arch.counts import count
from shrinkserve.arch.module import compile_spec
from shrinkserve.config import OptimizerConfig
from shrinkserve.training.optim import RMSProp, build_optimizer, parameter_groups

STEPS = 50
SHAPES = ((5, 3), (4, 2, 3, 3), (7,))


def gradients(step: int) -> list[np.ndarray]:
    rng = np.random.default_rng(step)
    # Over six orders of magnitude, so that the epsilon matters in some steps and not in others.
    return [rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3) for shape in SHAPES]


def rate(step: int) -> float:
    return 0.1 * (1 + np.cos(step / STEPS * np.pi)) / 2


def ours(epsilon: float, l2: float) -> list[np.ndarray]:
    weights = [nn.Parameter(torch.full(shape, 0.5, dtype=torch.float64)) for shape in SHAPES]
    optimizer = RMSProp(weights, lr=1.0, decay=0.9, momentum=0.9, epsilon=epsilon, weight_decay=2 * l2)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = rate(step)
        for weight, gradient in zip(weights, gradients(step), strict=True):
            weight.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
    return [weight.detach().numpy() for weight in weights]


@pytest.mark.parametrize("epsilon", [1.0, 1e-3])
@pytest.mark.parametrize("l2", [0.0, 4e-5])
def test_rmsprop_follows_tensorflows_formula(epsilon: float, l2: float) -> None:
    """The update of ApplyRMSProp (tensorflow/core/ops/training_ops.cc), written out in numpy."""
    weights = [np.full(shape, 0.5) for shape in SHAPES]
    squares = [np.ones(shape) for shape in SHAPES]  # RMSPropOptimizer._create_slots: init_ops.ones_initializer
    moments = [np.zeros(shape) for shape in SHAPES]
    for step in range(STEPS):
        for i, gradient in enumerate(gradients(step)):
            g = gradient + 2 * l2 * weights[i]
            squares[i] = 0.9 * squares[i] + 0.1 * g**2
            moments[i] = 0.9 * moments[i] + rate(step) * g / np.sqrt(squares[i] + epsilon)
            weights[i] = weights[i] - moments[i]
    for got, expected in zip(ours(epsilon, l2), weights, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def rmsprop_tf() -> Any:
    """timm's class, without the package's own imports: those of its models want a torchvision that fits torch."""
    found = importlib.util.find_spec("timm")
    if found is None:
        pytest.skip("timm, an independent implementation, is not installed")
    package = types.ModuleType("timm_alone")
    package.__path__ = [str(Path(folder) / "optim") for folder in found.submodule_search_locations or []]
    sys.modules[package.__name__] = package
    try:
        return importlib.import_module("timm_alone.rmsprop_tf").RMSpropTF
    finally:
        for name in [name for name in sys.modules if name.startswith("timm_alone")]:
            del sys.modules[name]


@pytest.mark.parametrize("epsilon", [1.0, 1e-3])
def test_rmsprop_is_timms_rmsprop_tf(epsilon: float) -> None:
    weights = [nn.Parameter(torch.full(shape, 0.5, dtype=torch.float64)) for shape in SHAPES]
    optimizer = rmsprop_tf()(weights, lr=1.0, alpha=0.9, eps=epsilon, momentum=0.9, weight_decay=8e-5)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = rate(step)
        for weight, gradient in zip(weights, gradients(step), strict=True):
            weight.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
    for got, expected in zip(ours(epsilon, 4e-5), weights, strict=True):
        np.testing.assert_allclose(got, expected.detach().numpy(), rtol=1e-9)


def test_a_changed_rate_does_not_act_on_the_gathered_velocity() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = RMSProp([weight], lr=1.0, decay=0.0, momentum=0.5, epsilon=0.0)
    weight.grad = torch.ones(1)
    optimizer.step()
    assert weight.item() == pytest.approx(-1.0)
    optimizer.param_groups[0]["lr"] = 0.0
    weight.grad = torch.ones(1)
    optimizer.step()
    assert weight.item() == pytest.approx(-1.5)


def test_l2_is_for_kernels_that_mix_channels() -> None:
    spec = load("shrinkcnn-a")
    network = compile_spec(spec)
    decayed, others = parameter_groups(network, 4e-5)
    assert (decayed["weight_decay"], others["weight_decay"]) == (8e-5, 0.0)
    parameters = count(spec).parameters
    sizes = [sum(p.numel() for p in group["params"]) for group in (decayed, others)]
    biases = 1001
    assert sizes[0] == parameters["convolution"] + parameters["dense"] - biases
    assert sizes[1] == parameters["depthwise"] + parameters["batch_norm"] + biases


@pytest.mark.parametrize(
    ("name", "kind"), [("rmsprop", RMSProp), ("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)]
)
def test_recipes_name_optimisers(name: str, kind: type) -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    optimizer = build_optimizer(network, OptimizerConfig(name=name, l2=0.5))  # type: ignore[arg-type]
    assert isinstance(optimizer, kind)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1.0, 0.0]
    network(torch.ones(1, 2)).sum().backward()
    before = network[0].weight.detach().clone()
    optimizer.step()
    assert not torch.equal(before, network[0].weight)
