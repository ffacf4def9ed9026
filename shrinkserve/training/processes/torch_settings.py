"""Global settings of torch that a run changes, and that are restored after it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def torch_settings(*, deterministic: bool) -> Iterator[None]:
    """Set what a run needs in torch, and restore the settings and random states at the end of the block.

    Args:
        deterministic: use deterministic algorithms only; else let cuDNN choose the fastest.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    python_random = random.getstate()  # importing TensorBoard draws from it
    benchmark, workspace = torch.backends.cudnn.benchmark, os.environ.get(CUBLAS_WORKSPACE)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        os.environ.setdefault(CUBLAS_WORKSPACE, ":4096:8")  # cuBLAS needs it to be deterministic
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = not deterministic
        try:
            yield
        finally:
            random.setstate(python_random)
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            torch.backends.cudnn.benchmark = benchmark
            if workspace is None:
                os.environ.pop(CUBLAS_WORKSPACE, None)
