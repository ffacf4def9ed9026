from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from shrinkserve.config import Recipe
from shrinkserve.training.update.network import precision_of


@pytest.mark.parametrize(
    ("wanted", "device", "has_bfloat16", "precision"),
    [
        ("auto", "cpu", True, torch.float32),
        ("auto", "cuda", True, torch.bfloat16),
        ("auto", "cuda", False, torch.float32),
        ("float16", "cuda", True, torch.float16),
    ],
)
def test_default_precision_is_bfloat16_where_the_gpu_has_it(
    tiny: Callable[..., Recipe],
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    device: str,
    has_bfloat16: bool,
    precision: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bfloat16)
    assert precision_of(tiny(train={"precision": wanted}), torch.device(device)) is precision
