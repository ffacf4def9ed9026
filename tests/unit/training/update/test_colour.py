"""The loader that leaves the colours to the device, compared with the loader that changes them itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photos

from shrinkserve import arch
from shrinkserve.config import Recipe, parse_recipe
from shrinkserve.data import Dataset, TrainBatch, open_dataset, train_loader
from shrinkserve.training.processes.distributed import join
from shrinkserve.training.update.colour import coloured
from shrinkserve.training.update.prefetch import on_device
from shrinkserve.training.update.train_state import TrainState

CPU = torch.device("cpu")
SIZE = 48
NO_COLOUR = {"brightness": 0.0, "saturation": [1.0, 1.0], "contrast": [1.0, 1.0], "hue": 0.0}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Colour and grey JPEG files, PNG files, and one truncated file."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, photo in (("cat", photos.chelsea()), ("cup", photos.coffee())):
        (root / "train" / name).mkdir(parents=True)
        for number in range(24):
            left, top = rng.integers(0, 40, 2).tolist()
            image = Image.fromarray(photo).resize((120, 90), box=(left, top, left + 400, top + 260))
            image = image.convert("L") if number % 4 == 1 else image
            path = root / "train" / name / f"{number:02d}"
            image.save(path.with_suffix(".png" if number % 4 == 2 else ".jpg"))
    bad = root / "train" / "cup" / "04.jpg"
    bad.write_bytes(bad.read_bytes()[:500])
    return open_dataset(root, "train")


def recipe(workers: int = 0, batch: int = 12, **augment: Any) -> Recipe:
    return parse_recipe(
        {
            "name": "colour",
            "model": {"input_size": SIZE, "width": 0.25},
            "augment": augment,
            "train": {"batch_size": batch, "threads": 1},
            "data": {"loader": "portable", "workers": workers, "max_bad_fraction": 0.1},
        }
    )


def uncoloured(dataset: Dataset, found: Recipe, start: int = 0) -> list[TrainBatch]:
    return list(train_loader(dataset, found, colour_on_device=True).epoch(1, start))


def assert_same_pixels(ours: torch.Tensor, worker: np.ndarray) -> None:
    difference = np.abs(ours.cpu().numpy().astype(int) - worker)
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.999


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "augment",
    [
        {},
        {"erase_probability": 1.0},
        {"flip": False, "erase_probability": 0.0, **NO_COLOUR, "contrast": [0.3, 0.5]},
        {**NO_COLOUR, "brightness": 0.9},
    ],
    ids=["published", "erase", "contrast", "clipped"],
)
def test_device_gives_the_pixels_of_the_worker(pictures: Dataset, workers: int, augment: dict[str, Any]) -> None:
    found = recipe(workers, **augment)
    expected = list(train_loader(pictures, found).epoch(1))
    left = uncoloured(pictures, found)
    assert sorted(map(len, left)) == [11, 12, 12, 12]  # one image is bad
    for batch, moved, right in zip(left, on_device(iter(left), CPU), expected, strict=True):
        assert np.array_equal(batch.indices, right.indices)
        assert np.array_equal(moved.labels.numpy(), right.labels)
        assert not np.array_equal(batch.images, right.images)  # the worker has left something to do
        assert_same_pixels(moved.images, np.asarray(right.images))


@pytest.mark.parametrize("augment", [NO_COLOUR, {"rand_augment": "rand-m9"}], ids=["off", "RandAugment"])
def test_workers_finish_images_that_the_device_cannot(pictures: Dataset, augment: dict[str, Any]) -> None:
    found = recipe(**augment, erase_probability=1.0)
    for batch, right in zip(uncoloured(pictures, found), train_loader(pictures, found).epoch(1), strict=True):
        assert batch.colour is None
        assert np.array_equal(batch.images, right.images)


def test_loader_changes_colours_itself_unless_asked(pictures: Dataset) -> None:
    assert all(batch.colour is None for batch in train_loader(pictures, recipe()).epoch(0))


def test_epoch_of_uncoloured_batches_starts_at_any_batch(pictures: Dataset) -> None:
    whole, rest = uncoloured(pictures, recipe()), uncoloured(pictures, recipe(1), start=2)
    for batch, again in zip(whole[2:], rest, strict=True):
        assert batch.colour is not None
        assert again.colour is not None
        assert np.array_equal(batch.images, again.images)
        assert np.array_equal(batch.colour.matrices, again.colour.matrices)
        assert np.array_equal(batch.colour.erased, again.colour.erased)


@pytest.mark.parametrize("compile_it", [False, True])
def test_coloured_rounds_and_clips_as_pillow(compile_it: bool) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 20, 20, 3), dtype=np.uint8)
    matrices = rng.uniform(-1, 1.5, (8, 3, 4)).astype(np.float32)
    matrices[:, :, 3] *= 60
    matrices[0] = np.eye(3, 4)
    matrices[1] = 0.5 * np.eye(3, 4)  # halves
    matrices[2] = np.eye(3, 4)
    matrices[2, :, 3] = -100.5  # negative halves
    boxes = np.tile(np.array([3, 5, 9, 18], np.int32), (8, 1))
    boxes[:4] = 0
    apply: Callable[..., torch.Tensor] = torch.compile(coloured, backend="eager") if compile_it else coloured
    ours = apply(*map(torch.from_numpy, (images, matrices, boxes)))
    for image, matrix, box, found in zip(images, matrices, boxes, ours.numpy(), strict=True):
        expected = np.array(Image.fromarray(image).convert("RGB", tuple(matrix.ravel().tolist())))
        left, top, right, bottom = box
        expected[top:bottom, left:right] = image[top:bottom, left:right]
        np.testing.assert_array_equal(found, expected)


def test_update_sees_coloured_pixels_of_a_loaders_batch(pictures: Dataset) -> None:
    found = recipe(batch=24)
    with join(1) as ranks:
        state = TrainState(arch.from_recipe(found.model, 2), found, ranks)
        for batch, right in zip(uncoloured(pictures, found), train_loader(pictures, found).epoch(1), strict=True):
            assert_same_pixels(state.place(batch).images, np.asarray(right.images))
