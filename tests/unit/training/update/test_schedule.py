from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest

from shrinkserve.config import Recipe, parse_recipe
from shrinkserve.training.update.schedule import learning_rate

PUBLISHED = parse_recipe({"name": "a"})


def test_learning_rate_is_the_published_schedule() -> None:
    """0.1 at 256 images; linear over 10 epochs, then cosine to 0 at epoch 300; once an epoch."""
    rates = [learning_rate(PUBLISHED, epoch, fraction=0.7, total_batch=256) for epoch in range(300)]
    assert rates[:10] == pytest.approx([0.01 * n for n in range(1, 11)])
    assert rates[10] == pytest.approx(0.1)
    assert rates[155] == pytest.approx(0.05)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[299] == pytest.approx(0.05 * (1 + math.cos(math.pi * 289 / 290)))
    assert 0 < rates[299] < 1e-5


def test_learning_rate_scales_with_the_total_batch() -> None:
    assert learning_rate(PUBLISHED, 10, 0.0, total_batch=1024) == pytest.approx(0.4)
    assert learning_rate(PUBLISHED, 10, 0.0, total_batch=64) == pytest.approx(0.025)


def test_learning_rate_per_step_changes_within_an_epoch(tiny: Callable[..., Recipe]) -> None:
    recipe = tiny(schedule={"epochs": 10, "warmup_epochs": 2.5})
    rates = [learning_rate(recipe, step // 4, step % 4 / 4, total_batch=256) for step in range(40)]
    assert rates[0] == 0.0
    assert rates[5] == pytest.approx(0.05)
    assert max(rates) == pytest.approx(0.1)
    assert rates.index(max(rates)) in {10, 11, 12}
    assert rates[-1] < 1e-3
    assert all(abs(a - b) < 0.011 for a, b in itertools.pairwise(rates))


def test_learning_rate_without_warm_up_begins_at_the_peak(tiny: Callable[..., Recipe]) -> None:
    assert learning_rate(tiny(), 0, 0.0, total_batch=256) == pytest.approx(0.1)
