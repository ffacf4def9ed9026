"""Published architectures with random weights, at small sizes, through the whole export."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    if importlib.util.find_spec("timm") is None:  # its import needs what the program prepares
        pytest.skip("timm is not installed")
    spec = importlib.util.spec_from_file_location("architectures", ROOT / "bench" / "architectures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["architectures"] = module
    spec.loader.exec_module(module)
    return module


NAMES = [
    "resnet18", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x1_0", "squeezenet1_1", "densenet121",
    "resnext50_32x4d", "googlenet", "regnet_y_400mf", "mobilenet_v2", "mnasnet0_5", "vit_b_16", "swin_t",
    "convnext_atto", "mobilenetv4_conv_small", "ghostnet_100", "repvgg_a0", "fastvit_t8", "efficientformerv2_s0",
    "nfnet_l0", "resnest14d", "tf_efficientnet_lite0", "deit_tiny_patch16_224", "mobilevit_xxs", "levit_128s",
    "edgenext_xx_small", "tinynet_e",
]  # fmt: skip


def test_architecture_keeps_predictions(bench: ModuleType) -> None:
    check(bench.measure("fastvit_t8", 64, dynamo=False, serve=False))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shufflenet_v2_x1_0", "vit_b_16", "swin_t", "tf_efficientnet_lite0"])
def test_architecture_of_torchscript_keeps_predictions(bench: ModuleType, name: str) -> None:
    check(bench.measure(name, 64, dynamo=False, serve=False))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_served_architecture_keeps_predictions(bench: ModuleType, name: str) -> None:
    check(bench.measure(name, 64 if name in bench.TORCHVISION else 96))
    eight = bench.measure_int8(name, 64 if name in bench.TORCHVISION else 96)
    assert isinstance(eight["int8"], str) or eight["int8"] < 0.25


def check(row: dict[str, Any]) -> None:
    assert "refused" not in row, row["refused"]
    assert row["float32"] < 1e-4
    assert row["float32_flips"] == 0
    assert row["float16"] < 0.01
