"""Costs of networks that are code, against torch's own counter and the spec's costs."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from shrinkserve.arch.code import CodeNetwork
from shrinkserve.arch.counts import count
from shrinkserve.arch.describe import describe
from shrinkserve.arch.module import compile_spec
from shrinkserve.arch.traced import count_code
from shrinkserve.arch.zoo import build_network
from shrinkserve.errors import ConfigError, SpecError


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a network of the zoo as code."""
    module = ModuleType("zoo_network_as_code")
    module.make = lambda: compile_spec(build_network("shrinkcnn-b", classes=10, input_size=64, width=0.5))  # type: ignore[attr-defined]
    module.branches = lambda: nn.Sequential(nn.Flatten(), Branches())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return f"python:{module.__name__}"


class Branches(nn.Module):
    """Reads the data, which torch.export cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(3 * 32 * 32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(x) if x.sum() > 1 else self.dense(-x)


def test_costs_of_code_equal_those_of_its_spec(source: str) -> None:
    found = describe(f"{source}:make", classes=10, input_size=64)
    expected = count(build_network("shrinkcnn-b", classes=10, input_size=64, width=0.5))
    assert (found.parameters, found.statistics, found.macs) == (expected.parameters, expected.statistics, expected.macs)
    assert found.peak_activations == expected.peak_activations


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_nfnet", "test_convnext"])
def test_costs_equal_those_of_torchs_counter(name: str) -> None:
    timm = pytest.importorskip("timm")
    found, module = describe(f"timm:{name}"), timm.create_model(name).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, 3, found.input_size, found.input_size))
    assert 2 * sum(found.macs.values()) == counter.get_total_flops()
    assert sum(found.parameters.values()) == sum(value.numel() for value in module.parameters())
    assert found.operations[-1].shape == (1000,)


def test_attention_is_counted() -> None:
    """A layer of width 64 with 10x10 patches and a class token: q k^T and the product with v, in each of 6 layers."""
    pytest.importorskip("timm")
    found = describe("timm:test_vit", classes=3)
    assert found.macs["matmul"] == 6 * 2 * 101 * 101 * 64
    assert found.to_dict()["classes"] == 3


def test_count_code_rejects_network_that_cannot_be_traced(source: str) -> None:
    with pytest.raises(SpecError, match="trace"):
        count_code(CodeNetwork(f"{source}:branches", 10, 32))


def test_describe_rejects_plot_of_code(source: str) -> None:
    with pytest.raises(ConfigError, match="--plot"):
        describe(f"{source}:make", width=0.5)
