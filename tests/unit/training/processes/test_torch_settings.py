from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from shrinkserve.config import Recipe
from shrinkserve.training.train import train


def settings() -> tuple[object, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        dict(os.environ),
        sys.excepthook,
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        threading.active_count(),
        torch.get_num_threads(),
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
    )


@pytest.mark.parametrize("deterministic", [False, True])
def test_train_restores_global_settings(
    tmp_path: Path, colours: Path, tiny: Callable[..., Recipe], deterministic: bool
) -> None:
    before = settings()
    train(tiny(schedule={"epochs": 1}, train={"deterministic": deterministic}), colours, tmp_path / "run")
    assert settings() == before
