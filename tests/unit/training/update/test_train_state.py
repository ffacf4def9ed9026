from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch.nn.parallel import DistributedDataParallel

from shrinkserve import arch
from shrinkserve.config import Recipe
from shrinkserve.training.processes.distributed import join
from shrinkserve.training.update.train_state import TrainState


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
