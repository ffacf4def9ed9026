from __future__ import annotations

import numpy as np

from shrinkserve.export.samples import load_samples, synthetic
from shrinkserve.preprocess import Preprocess


def test_synthetic_images_are_the_same_every_time_and_say_what_they_are() -> None:
    first, second = (load_samples(None, Preprocess(size=16), limit=5) for _ in range(2))
    np.testing.assert_array_equal(first.images, second.images)
    assert first.images.shape == (5, 16, 16, 3)
    assert first.labels is None
    assert first.source == "5 synthetic images, seed 0"


def test_synthetic_images_differ_and_are_not_flat() -> None:
    images = synthetic(16, 8).images.astype(int)
    assert all(image.std() > 10 for image in images)
    assert all(np.abs(images[0] - image).mean() > 10 for image in images[1:])
