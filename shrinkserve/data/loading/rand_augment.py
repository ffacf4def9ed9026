"""RandAugment by timm, with random numbers that depend only on the seed of an image."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock

import numpy as np
from PIL import Image

from shrinkserve.errors import ConfigError
from shrinkserve.preprocess import Pixels
from shrinkserve.preprocess.timm_config import INSTALL

KEY = "augment.rand_augment"
POLICY = re.compile(r"rand(-(m|n|p|mstd|mmax|inc)\d+(\.\d+)?)*")
LOCK = Lock()
"""Loader threads, where there are no loader processes, share the generators."""
Transform = Callable[[Image.Image], Image.Image]


@cache
def rand_augment(policy: str, size: int) -> Transform:
    """Return timm's RandAugment.

    Args:
        policy: in timm's notation, such as ``rand-m9-mstd0.5-inc1``.
        size: height and width of the images; the largest shift is 45 % of it.

    Raises:
        ConfigError: timm cannot be imported, or does not know the policy.
    """
    try:
        from timm.data.auto_augment import rand_augment_transform
    except (ImportError, RuntimeError) as exc:  # a torchvision for another torch raises RuntimeError
        raise ConfigError(f"{KEY}: cannot import timm ({exc})", hint=INSTALL) from exc
    try:
        if not POLICY.fullmatch(policy):  # timm ignores what it does not know
            raise ValueError
        made: Transform = rand_augment_transform(policy, {"translate_const": int(size * 0.45), "img_mean": (128,) * 3})
        with _seeded(0):
            made(Image.new("RGB", (size, size)))
    except (AssertionError, KeyError, ValueError) as exc:
        raise ConfigError(KEY, expected="timm's notation, such as rand-m9-mstd0.5-inc1", found=policy[:80]) from exc
    return made


def rand_augmented(pixels: Pixels, policy: str, seed: int) -> Pixels:
    """Return an image after RandAugment. The global random generators, which timm uses, are as before.

    Args:
        pixels: uint8 [size, size, 3].
        policy: see `rand_augment`.
        seed: decides the operations, at most 32 bits.
    """
    transform = rand_augment(policy, len(pixels))
    with _seeded(seed):
        return np.array(transform(Image.fromarray(pixels)))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python and numpy, and restore them at the end of the block."""
    with LOCK:
        before = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
