"""Tests of how a rank's network is wrapped, and in which precision it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from shrinkserve import arch
from shrinkserve.config import Recipe
from shrinkserve.training.processes.distributed import join
from shrinkserve.training.update.train_state import TrainState, precision_of


def test_one_process_trains_without_ddp(tiny: Callable[..., Recipe]) -> None:
    with join(1) as ranks:
        state = TrainState(arch.from_recipe(tiny().model, 2), tiny(), ranks)
    assert not any(isinstance(value, DistributedDataParallel) for value in vars(state).values())


def test_processes_exchange_gradients_only(tiny: Callable[..., Recipe]) -> None:
    """The statistics of batch norms are not exchanged in an update: 399 buffers for each forward pass."""
    with join(1) as ranks:
        state = TrainState(arch.from_recipe(tiny().model, 2), tiny(), replace(ranks, world=2))
        wrapped = next(value for value in vars(state).values() if isinstance(value, DistributedDataParallel))
        assert not wrapped.will_sync_module_buffers()


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
