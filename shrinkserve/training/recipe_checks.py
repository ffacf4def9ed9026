"""Keys of a recipe that depend on the length of a run: decays that are ``auto``, and warnings about the others."""

from __future__ import annotations

from dataclasses import replace

from shrinkserve.arch.sources import is_code
from shrinkserve.config import Recipe

SETTLED = 2.0
"""Updates after which an average has settled, in multiples of 1 / (1 - decay): 13 % of its start is left then."""


def warnings_of(recipe: Recipe, steps: int, *, gpu: bool = True) -> list[str]:
    """Return why a run cannot work well, one text per reason, with the keys to change.

    The averaged weights need no warning: their decay warms up (see `Ema`). That of the running statistics does not. A
    network that is code has its own batch norms.

    Args:
        recipe: the run.
        steps: updates of the run.
        gpu: True for a run on a GPU.
    """
    decay, epochs, found = recipe.model.batch_norm_decay, recipe.schedule.epochs, []
    if recipe.train.precision == "float16" and not gpu:
        found.append(
            "warning: train.precision is float16, which is many times slower than float32 on a CPU; "
            "set train.precision=float32 or bfloat16"
        )
    if recipe.train.head_epochs >= epochs:
        found.append(
            f"warning: train.head_epochs is {recipe.train.head_epochs} and the run has {epochs} epochs: "
            "only the classifier is trained; lower train.head_epochs, or train longer"
        )
    if is_code(recipe.model.network) or decay == "auto" or steps >= (needed := SETTLED / (1 - decay)):
        return found
    return [
        *found,
        f"warning: the running statistics of batch norm need about {needed:,.0f} updates to settle, the run has "
        f"{steps:,}: its predictions may be no better than chance; "
        f"set model.batch_norm_decay={settled_decay(steps):g}, or train longer",
    ]


def settled_decay(steps: int) -> float:
    """Return a decay that settles several times within a run of `steps` updates, at most 0.999."""
    return min(0.999, max(0.5, round(1 - 8 * SETTLED / max(1, steps), 3)))


def resolve_auto_decays(recipe: Recipe, steps: int) -> Recipe:
    """Replace "auto" for the decays of averages by values for a run of `steps` updates."""
    model, train, suits = recipe.model, recipe.train, settled_decay(steps)
    if model.batch_norm_decay == "auto":
        model = replace(model, batch_norm_decay=suits)
    if train.ema_decay == "auto":
        train = replace(train, ema_decay=suits)
    return replace(recipe, model=model, train=train)
