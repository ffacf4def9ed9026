from __future__ import annotations

import importlib.util
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from shrinkserve.arch import load_network
from shrinkserve.arch.counts import count
from shrinkserve.arch.module import compile_spec
from shrinkserve.config import OptimizerConfig
from shrinkserve.training.update.ema import Ema
from shrinkserve.training.update.optim import RMSProp, build_optimizer, parameter_groups

GOLDEN = json.loads(Path(__file__).with_name("tensorflow_golden.json").read_text(encoding="utf-8"))
L2 = GOLDEN["l2"]


class Weights(nn.Module):
    """Float64 weights of the golden updates, from 0.5."""

    def __init__(self) -> None:
        super().__init__()
        likes = [torch.tensor(gradient, dtype=torch.float64) for gradient in GOLDEN["steps"][0]["gradients"]]
        self.values = nn.ParameterList([nn.Parameter(torch.full_like(like, 0.5)) for like in likes])


def train(weights: Weights, optimizer: torch.optim.Optimizer, after: Callable[[], None] = lambda: None) -> None:
    """The golden updates, by any torch optimiser."""
    for step in GOLDEN["steps"]:
        optimizer.param_groups[0]["lr"] = step["rate"]
        for weight, gradient in zip(weights.values, step["gradients"], strict=True):
            weight.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        after()


def numbers(weights: nn.Module) -> list[float]:
    return torch.cat([weight.flatten() for weight in weights.parameters()]).tolist()


def ours(weights: Weights, epsilon: float, decay: float = 0.9) -> RMSProp:
    return RMSProp(weights.parameters(), lr=1.0, decay=decay, momentum=decay, epsilon=epsilon, weight_decay=2 * L2)


@pytest.mark.parametrize("epsilon", [1.0, 1e-3])
def test_rmsprop_and_ema_match_tensorflow_over_fifty_updates(epsilon: float) -> None:
    """`tf.compat.v1.train.RMSPropOptimizer` on a loss with L2 in it; see tensorflow_golden.py."""
    golden = {
        name: np.concatenate([np.ravel(v) for v in values]) for name, values in GOLDEN["results"][str(epsilon)].items()
    }
    weights = Weights()
    ema = Ema(weights, GOLDEN["ema_decay"])
    # TensorFlow holds these constants as float32, whatever the weights are.
    train(weights, ours(weights, float(np.float32(epsilon)), float(np.float32(0.9))), after=ema.update)
    np.testing.assert_allclose(numbers(weights), golden["weights"], rtol=1e-12)
    np.testing.assert_allclose(numbers(ema.network), golden["averages"], rtol=1e-6)


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
def test_rmsprop_matches_timm(epsilon: float) -> None:
    mine, theirs = Weights(), Weights()
    train(mine, ours(mine, epsilon))
    train(theirs, rmsprop_tf()(theirs.parameters(), lr=1.0, alpha=0.9, eps=epsilon, momentum=0.9, weight_decay=2 * L2))
    np.testing.assert_allclose(numbers(mine), numbers(theirs), rtol=1e-9)


def test_rmsprop_rate_change_does_not_scale_velocity() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = RMSProp([weight], lr=1.0, decay=0.0, momentum=0.5, epsilon=0.0)
    weight.grad = torch.ones(1)
    optimizer.step()
    assert weight.item() == pytest.approx(-1.0)
    optimizer.param_groups[0]["lr"] = 0.0
    weight.grad = torch.ones(1)
    optimizer.step()
    assert weight.item() == pytest.approx(-1.5)


def test_parameter_groups_give_l2_to_kernels_that_mix_channels() -> None:
    spec = load_network("shrinkcnn-a")
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
def test_build_optimizer_by_name(name: str, kind: type) -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    optimizer = build_optimizer(network, OptimizerConfig(name=name, l2=0.5))  # type: ignore[arg-type]
    assert isinstance(optimizer, kind)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1.0, 0.0]
    network(torch.ones(1, 2)).sum().backward()
    before = network[0].weight.detach().clone()
    optimizer.step()
    assert not torch.equal(before, network[0].weight)


@pytest.mark.parametrize("l2", [0.0, 0.01])
def test_rmsprop_with_loss_scaler_skips_overflows_and_else_matches_unscaled(l2: float) -> None:
    """The scaler passes its scale to the optimiser; a power of two changes no bit."""
    rng = torch.Generator().manual_seed(0)
    plain, scaled = nn.Linear(3, 2), nn.Linear(3, 2)
    scaled.load_state_dict(plain.state_dict())
    optimizers = [RMSProp(net.parameters(), lr=0.1, epsilon=1e-3, weight_decay=l2) for net in (plain, scaled)]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    for step in range(6):
        inputs, overflow = torch.randn(4, 3, generator=rng), step == 3
        if not overflow:
            plain(inputs).square().sum().backward()
            optimizers[0].step()
        scaler.scale(scaled(inputs).square().sum() * (float("inf") if overflow else 1.0)).backward()
        scaler.step(optimizers[1])
        scaler.update()
        for optimizer in optimizers:
            optimizer.zero_grad()
        assert torch.equal(plain.weight, scaled.weight), step
        assert torch.equal(plain.bias, scaled.bias), step
    assert scaler.get_scale() == 512.0  # halved once
