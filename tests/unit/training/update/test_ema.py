from __future__ import annotations

import pytest
import torch
from torch import nn

from shrinkserve.training.update.ema import Ema


def network(value: float) -> nn.Module:
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    with torch.no_grad():
        for tensor in [*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())]:
            tensor.fill_(value)
    return module


def change(module: nn.Module, value: float) -> None:
    for tensor in [*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())]:
        tensor.data.fill_(value)


def test_ema_decay_warms_up_as_published() -> None:
    """min(decay, (1 + n) / (10 + n)) at update n, written out for a scalar."""
    module = network(0.0)
    ema, expected = Ema(module, decay=0.5), 0.0
    for n in range(1, 20):
        change(module, float(n))
        ema.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    assert ema.updates == 19
    for parameter in ema.network.parameters():
        assert parameter.flatten().tolist() == pytest.approx([expected] * parameter.numel(), rel=1e-6)


def test_ema_copies_running_statistics() -> None:
    module = network(1.0)
    ema = Ema(module, decay=0.9)
    change(module, 2.0)
    ema.update()
    settled = ema.with_statistics()
    assert settled[1].running_mean.tolist() == [2.0, 2.0]
    assert 1.0 < settled[1].weight[0].item() < 2.0


def test_ema_averages_running_statistics_with_buffers() -> None:
    module = network(1.0)
    ema = Ema(module, decay=0.9, buffers=True)
    change(module, 2.0)
    ema.update()
    settled = ema.with_statistics()
    assert settled[1].running_mean[0].item() == pytest.approx(settled[1].weight[0].item())
    assert 1.0 < settled[1].running_mean[0].item() < 2.0


def test_ema_network_is_not_trained() -> None:
    module = network(1.0)
    ema = Ema(module, decay=0.9)
    assert not ema.network.training
    assert not any(p.requires_grad for p in ema.network.parameters())
    assert all(p.requires_grad for p in module.parameters())
