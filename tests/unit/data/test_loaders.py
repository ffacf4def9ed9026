from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest

from shrinkserve.config import Recipe, parse_recipe
from shrinkserve.data import Batch, evaluation_batches, open_dataset, train_loader
from shrinkserve.errors import DataError
from shrinkserve.preprocess import Preprocess


def recipe(workers: int = 0, **data: object) -> Recipe:
    return parse_recipe(
        {
            "name": "t",
            "model": {"input_size": 32},
            "train": {"batch_size": 50},
            "data": {"loader": "portable", "workers": workers, **data},
        }
    )


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(getattr(x, key), getattr(y, key))
        for x, y in zip(a, b, strict=True)
        for key in ("images", "labels", "indices")
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_epoch_does_not_depend_on_the_number_of_workers(digits: Path, workers: int) -> None:
    dataset = open_dataset(digits, "train")
    assert same(list(train_loader(dataset, recipe()).epoch(3)), list(train_loader(dataset, recipe(workers)).epoch(3)))


def test_epoch_starts_at_any_batch(digits: Path) -> None:
    loader = train_loader(open_dataset(digits, "train"), recipe(1))
    whole = list(loader.epoch(1))
    assert len(whole) == len(loader) == 28
    for start in (1, 27, 28):
        assert same(list(loader.epoch(1, start)), whole[start:])


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_get_disjoint_images_that_change_with_the_epoch(digits: Path, world: int) -> None:
    dataset = open_dataset(digits, "train")
    seen = []
    for epoch in (0, 1):
        parts = [
            [b.indices for b in train_loader(dataset, recipe(), rank=rank, world=world).epoch(epoch)]
            for rank in range(world)
        ]
        assert len({len(part) for part in parts}) == 1
        indices = np.concatenate([i for part in parts for i in part])
        assert len(set(indices.tolist())) == len(indices) == len(dataset) // (50 * world) * 50 * world
        seen.append(indices)
    assert not np.array_equal(*seen)


@pytest.mark.parametrize("world", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("limit", [None, 7, 100])  # 7 is fewer than the ranks
def test_evaluation_batches_contain_every_image_once(digits: Path, world: int, limit: int | None) -> None:
    dataset = open_dataset(digits, "validation")
    ranks = [
        [b.indices for b in evaluation_batches(dataset, Preprocess(32), 60, rank=r, world=world, limit=limit)]
        for r in range(world)
    ]
    for rank in filter(None, ranks):
        assert (np.diff(np.concatenate(rank)) > 0).all()
    indices = np.sort(np.concatenate([i for rank in ranks for i in rank]))
    assert len(set(indices.tolist())) == len(indices) == (limit or len(dataset))
    if limit:
        assert indices[-1] > len(dataset) * 0.8  # spread over the dataset


def test_evaluation_batches_have_the_pixels_of_preprocess(digits: Path) -> None:
    dataset = open_dataset(digits, "validation")
    batch = next(evaluation_batches(dataset, Preprocess(48), 5, start=3))
    for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
        assert np.array_equal(image, Preprocess(48).evaluate_bytes(dataset.record(index).encoded))
    assert batch.indices.tolist() == [3, 4, 5, 6, 7]


def test_train_loader_refuses_too_few_images(digits: Path) -> None:
    with pytest.raises(DataError, match="expected at least 50 x 40 processes, found 1433"):
        train_loader(open_dataset(digits, "train"), recipe(), world=40)


@pytest.fixture
def damaged(tmp_path: Path, digits: Path) -> Path:
    """Class folders of digits with one truncated image."""
    dataset = open_dataset(digits, "train")
    for index in range(100):
        record = dataset.record(index)
        folder = tmp_path / "train" / f"c{record.label:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index:03d}.jpg").write_bytes(record.encoded if index != 42 else record.encoded[:300])
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_epoch_leaves_out_and_counts_a_bad_image(damaged: Path, workers: int) -> None:
    loader = train_loader(open_dataset(damaged, "train"), recipe(workers, max_bad_fraction=0.01))
    for epoch in (0, 1):
        batches = list(loader.epoch(epoch))
        assert sorted(len(b) for b in batches) == [49, 50]
        assert len(loader.bad) == 1
        assert "042.jpg" in loader.bad[0]


def test_epoch_raises_on_more_bad_images_than_allowed(damaged: Path) -> None:
    loader = train_loader(open_dataset(damaged, "train"), recipe(2))
    with pytest.raises(DataError, match=r"042\.jpg.*--quarantine"):
        list(loader.epoch(0))


def test_threads_share_a_newly_opened_shard(digits: Path) -> None:
    failures: list[Exception] = []

    def read() -> None:
        try:
            for index in range(0, 364, 7):
                dataset.record(index)
        except DataError as exc:  # the main thread reports it
            failures.append(exc)

    for _ in range(10):
        dataset = open_dataset(digits, "validation")
        threads = [threading.Thread(target=read) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


def test_epoch_does_not_use_torchs_random_stream(digits: Path) -> None:
    import torch

    before = torch.get_rng_state()
    next(train_loader(open_dataset(digits, "train"), recipe(1)).epoch(0))
    assert torch.equal(before, torch.get_rng_state())


def test_available_workers_divides_the_cores_among_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    from shrinkserve.data.loaders import available_workers

    monkeypatch.setattr("shrinkserve.machine.usable_cores", lambda: 16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert available_workers() == 4


def test_epoch_depends_on_the_seed(digits: Path) -> None:
    dataset = open_dataset(digits, "train")
    other = dataclasses.replace(recipe(), train=dataclasses.replace(recipe().train, seed=1))
    a, b = (next(train_loader(dataset, r).epoch(0)) for r in (recipe(), other))
    assert not np.array_equal(a.indices, b.indices)
