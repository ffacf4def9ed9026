"""The DALI loader on a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shrinkserve.config import parse_recipe
from shrinkserve.data import open_dataset, train_loader

torch = pytest.importorskip("torch")
pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def test_dali_leaves_the_images_of_the_portable_loader_on_the_gpu(digits: Path) -> None:
    raw = {"name": "t", "model": {"input_size": 32}, "train": {"batch_size": 64}}
    dataset = open_dataset(digits, "train")
    dali = train_loader(dataset, parse_recipe({**raw, "data": {"loader": "dali"}})).epoch(0)
    portable = train_loader(dataset, parse_recipe({**raw, "data": {"loader": "portable", "workers": 0}})).epoch(0)
    for a, b in zip(dali, portable, strict=True):
        assert a.images.is_cuda  # type: ignore[attr-defined]
        assert np.array_equal(a.indices, b.indices)
        assert np.abs(a.images.cpu().numpy().astype(int) - b.images).mean() < 2  # type: ignore[attr-defined]
