"""Time predictions of several models on a machine with other work."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

from shrinkserve.runtimes.predictor import Images, Predictor


def interleaved(
    models: Mapping[str, Predictor],
    images: Images,
    rounds: int,
    burst: int,
    summary: Callable[[list[float]], float] = statistics.median,
) -> dict[str, float]:
    """Return the seconds of a prediction of each model by its name, timed in turns after a warm-up.

    Turns show all models the same machine. The first prediction of a turn is not timed: threads of the model before may
    still spin.

    Args:
        models: any number, by name.
        images: one batch.
        rounds: turns of each model.
        burst: timed predictions in a turn.
        summary: of the times of the turns; the minimum is the steadiest on a machine with other work.
    """
    for model in models.values():
        for _ in range(3):
            model.predict(images)
    taken: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            model.predict(images)
            started = time.perf_counter()
            for _ in range(burst):
                model.predict(images)
            taken[name].append((time.perf_counter() - started) / burst)
    return {name: summary(times) for name, times in taken.items()}
