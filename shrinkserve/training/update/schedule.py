"""The learning rate over a run."""

from __future__ import annotations

import math

from shrinkserve.config import Recipe


def learning_rate(recipe: Recipe, epoch: int, fraction: float, total_batch: int) -> float:
    """Return the rate: linear warm-up from 0, then cosine to 0 at the end of the last epoch.

    Args:
        recipe: `optimizer` gives the peak for its reference batch, `schedule` the epochs.
        epoch: from 0.
        fraction: finished part of the epoch, in [0, 1).
        total_batch: images per update, over all processes and accumulated batches; the rate is proportional to it.
    """
    peak = recipe.optimizer.lr * total_batch / recipe.optimizer.reference_batch
    warmup, epochs = recipe.schedule.warmup_epochs, recipe.schedule.epochs
    if epoch < warmup:
        # A rate that changes once per epoch is the one at the epoch's end: an epoch at 0 would train nothing.
        done = epoch + (fraction if recipe.schedule.per_step else 1)
        return peak * min(1.0, done / warmup)
    done = epoch + (fraction if recipe.schedule.per_step else 0) - warmup
    return peak * 0.5 * (1 + math.cos(math.pi * done / (epochs - warmup)))
