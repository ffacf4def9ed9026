from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from shrinkserve.exporting.samples import load_samples, synthetic
from shrinkserve.preprocess import Preprocess


def test_synthetic_images_are_reproducible() -> None:
    first, second = (load_samples(None, Preprocess(size=16), limit=5) for _ in range(2))
    np.testing.assert_array_equal(first.images, second.images)
    assert first.images.shape == (5, 16, 16, 3)
    assert first.labels is None
    assert first.source == "5 synthetic images, seed 0"


def test_synthetic_images_differ_and_are_not_flat() -> None:
    images = synthetic(16, 8).images.astype(int)
    assert all(image.std() > 10 for image in images)
    assert all(np.abs(images[0] - image).mean() > 10 for image in images[1:])


def test_samples_drop_labels_of_other_classes(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (20, 20), "red" if name == "cat" else "blue").save(tmp_path / split / name / "0.png")
    same = load_samples(tmp_path, Preprocess(size=16), ["cat", "dog"])
    assert same.labels is not None
    assert same.labels.tolist() == [0, 1]
    other = load_samples(tmp_path, Preprocess(size=16), ["dog", "cat"])
    assert other.labels is None
    assert "labels are ignored" in other.source
