"""The DALI loader on a GPU."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from shrinkserve.config import parse_recipe
from shrinkserve.data import open_dataset, train_loader
from shrinkserve.training import loader_choice

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


def test_batch_is_intact_when_it_is_read_after_the_next_ones(digits: Path) -> None:
    """DALI must not reuse the memory of a batch while torch's stream has yet to copy it."""
    raw = {"name": "t", "model": {"input_size": 32}, "train": {"batch_size": 64}, "data": {"loader": "dali"}}
    dataset, busy = open_dataset(digits, "train"), torch.randn(4096, 4096, device="cuda")
    expected = [batch.images.cpu() for batch in islice(train_loader(dataset, parse_recipe(raw)).epoch(0), 6)]  # type: ignore[union-attr]
    torch.cuda.synchronize()
    for _ in range(100):  # keeps the stream busy while all batches are requested
        busy = torch.tanh(busy @ busy)
    found = [batch.images for batch in islice(train_loader(dataset, parse_recipe(raw)).epoch(0), 6)]
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.cpu(), b)  # type: ignore[union-attr]


def test_both_loaders_are_measured_up_to_the_gpu(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_choice, "CACHE", tmp_path)
    monkeypatch.setattr(loader_choice, "LIMIT_SECONDS", 60.0)
    raw = {"name": "t", "model": {"input_size": 32}, "train": {"batch_size": 64}, "data": {"loader": "auto"}}
    choice = loader_choice.faster_loader(parse_recipe(raw), open_dataset(digits, "train"))
    assert "measured now" in choice.reason, choice
    assert len(list(tmp_path.iterdir())) == 1
