"""RandAugment, against timm's own transform."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from shrinkserve.config import load_recipe
from shrinkserve.data import open_dataset, train_loader
from shrinkserve.data.loading.rand_augment import rand_augment, rand_augmented
from shrinkserve.errors import ConfigError

timm_policies = pytest.importorskip("timm.data.auto_augment")
POLICY = "rand-m9-n2-mstd0.5-inc1"


def test_pixels_equal_timms_and_global_generators_are_as_before() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    random.seed(1)
    np.random.seed(1)
    before = (random.getstate(), np.random.get_state()[1].tolist())
    found = [rand_augmented(pixels, POLICY, seed) for seed in (7, 8, 7)]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    transform = timm_policies.rand_augment_transform(POLICY, {"translate_const": 18, "img_mean": (128, 128, 128)})
    random.seed(7)
    np.random.seed(7)
    np.testing.assert_array_equal(found[0], np.array(transform(Image.fromarray(pixels))))
    np.testing.assert_array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[1])


@pytest.mark.parametrize("policy", ["rand-q3", "auto", "rand-mx", "rand-tnone", "rand-m9.5", "rand\n"])
def test_rand_augment_rejects_unknown_policy(policy: str) -> None:
    with pytest.raises(ConfigError, match="rand_augment"):
        rand_augment(policy, 32)


def test_loader_gives_equal_batches_with_any_number_of_workers(digits) -> None:
    recipe = load_recipe("digits", {"augment.rand_augment": POLICY, "data.loader": "portable"})
    dataset = open_dataset(digits, "train")
    batches = []
    for workers in (0, 2):
        loader = train_loader(dataset, replace(recipe, data=replace(recipe.data, workers=workers)))
        batches.append(next(loader.epoch(1)).images.copy())
    np.testing.assert_array_equal(*batches)
    plain = next(train_loader(dataset, load_recipe("digits", {"data.workers": 0, "data.loader": "portable"})).epoch(1))
    assert 0.1 < (batches[0] != plain.images).any(axis=(1, 2, 3)).mean() < 1


def test_dali_loader_refuses(digits) -> None:
    with pytest.raises(ConfigError, match=r"data\.loader"):
        train_loader(
            open_dataset(digits, "train"),
            load_recipe("digits", {"augment.rand_augment": POLICY, "data.loader": "dali"}),
        )
