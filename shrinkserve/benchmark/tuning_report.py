"""Result of a tuning as a table and text."""

from __future__ import annotations

from collections.abc import Iterator

from shrinkserve.benchmark.tuning import WORTHWHILE, Tuning, batched

HEADINGS = (
    "engine",
    "instances x threads",
    "batch",
    "delay us",
    "images/s",
    "requests",
    "p50 ms",
    "p99 ms",
    "batched",
    "note",
)
"""Columns of `trial_table`: `requests` in flight, images `batched` in an execution by the statistics of the server."""


def trial_table(tuning: Tuning) -> Iterator[tuple[object, ...]]:
    """Return a row for each trial at its best load; a star marks the chosen one. A failed trial has its outcome."""
    for trial in tuning.trials:
        choice, options = trial.choice, trial.choice.options
        star = "*" if choice == tuning.chosen else ""
        shape = f"{options.instances} x {options.threads or 'all'}"
        row = (f"{star}{choice.engine or 'default'}", shape, options.max_batch_size, options.queue_delay_us)
        load = trial.best(tuning.limit)
        if load is None:
            yield (*row, *[""] * 5, trial.outcome(tuning.limit))
        else:
            p50, p99 = (f"{load.latency.percentile(percent) * 1e3:.1f}" for percent in (50, 99))
            yield (*row, f"{load.throughput:.0f}", load.workers, p50, p99, f"{batched(load):.2f}")


def explain_batching(tuning: Tuning) -> str:
    """Return the time of an image alone and in a batch, by the server's statistics in trials of the best engine."""
    spent: dict[int, tuple[int, float]] = {}
    best = tuning.best.choice
    for trial in tuning.trials:
        if (trial.choice.engine, trial.choice.options.instances) != (best.engine, best.options.instances):
            continue
        for load in trial.loads:
            for size, entry in (load.server.batches if load.server else {}).items():
                count, total = spent.get(int(size), (0, 0.0))
                spent[int(size)] = (count + entry.executions, total + entry.executions * entry.mean_ms)
    enough = {size: total / count / size for size, (count, total) in sorted(spent.items()) if count >= 20}
    if 1 not in enough or len(enough) < 2:
        return "batching: too few executions with several images to compare"
    cheapest = min((size for size in enough if size > 1), key=lambda size: enough[size])
    alone, batched = enough[1], enough[cheapest]
    verdict = "helps" if alone > batched * WORTHWHILE else "does not help"
    change = f"{abs(1 - batched / alone):.0%} {'less' if batched < alone else 'more'}"
    return (
        f"batching {verdict}: an image takes {alone:.2f} ms alone, {batched:.2f} ms in a batch of {cheapest} ({change})"
    )
