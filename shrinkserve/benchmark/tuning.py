"""How to run a model on this machine: instances, threads, batching and engine, measured in scratch servers.

The choices are tried one axis after the other, each from the best so far: engines with instances and threads first,
as they decide what a batch costs, then the largest batch, then the queue delay. A choice is worth its best load: the
most images a second among the concurrencies at which the 99th percentile holds the limit. The best then has to win
against what was configured, measured in turns.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from shrinkserve.atomic import linked_copy
from shrinkserve.benchmark.load.run import Load, closed_loop
from shrinkserve.benchmark.targets.target import server as server_target
from shrinkserve.benchmark.timing import Timing
from shrinkserve.config import ServingConfig
from shrinkserve.errors import GateError, ServerError
from shrinkserve.machine import usable_cores
from shrinkserve.serving import model_config
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.names import public_name
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import ServerOptions, TritonServer

CONCURRENCIES = (1, 2, 4, 8, 16)
BATCHES = (1, 4, 32)
DELAYS_US = (500, 2000)
DUELS = 3
"""Times that the best and what was configured are measured in turns before the best is written."""
TIMING = Timing(warmup=0.5, window=1.0, agree=2, most=4)
WORTHWHILE = 1.03
"""What a later choice must gain over the best so far: less is noise, and an earlier one is the simpler."""


@dataclass(frozen=True)
class Choice:
    """One way to run the model; `engine` None is ``config.pbtxt``."""

    options: ServingConfig
    engine: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {"engine": self.engine, **asdict(self.options)}

    def __str__(self) -> str:
        chosen = self.options
        threads = chosen.threads or "all"
        return (
            f"{self.engine or 'default'}: {chosen.instances} x {threads} threads, batch {chosen.max_batch_size}, "
            f"delay {chosen.queue_delay_us} us"
        )


@dataclass(frozen=True)
class Trial:
    """What one choice did, a load a concurrency; or why it could not be served."""

    choice: Choice
    loads: list[Load] = field(default_factory=list)
    error: str | None = None

    def best(self, limit: float) -> Load | None:
        """The load of most images a second whose 99th percentile is within `limit` seconds."""
        holding = [load for load in self.loads if load.latency.percentile(99) <= limit]
        return max(holding, key=lambda load: load.throughput, default=None)

    def worth(self, limit: float) -> float:
        """Images a second of `best`; 0 where nothing holds the limit."""
        load = self.best(limit)
        return load.throughput if load else 0.0


@dataclass(frozen=True)
class Tuning:
    """All trials in the order in which they were made, and which is best.

    Attributes:
        limit: seconds that the 99th percentile may take.
        trials: the first is of what was configured.
        duel: images a second of what was configured and of the best, measured in turns; empty when they are one.
    """

    limit: float
    trials: list[Trial]
    duel: list[tuple[float, float]] = field(default_factory=list)

    @property
    def chosen(self) -> Choice:
        """The best, if it also won the duel by what is worthwhile; else what was configured."""
        before, after = (median(values) for values in zip(*self.duel, strict=True)) if self.duel else (0.0, 1.0)
        return self.best.choice if after > before * WORTHWHILE else self.trials[0].choice

    @property
    def best(self) -> Trial:
        """The first trial that no later one beats by what is worthwhile."""
        best = self.trials[0]
        for trial in self.trials[1:]:
            if trial.worth(self.limit) > best.worth(self.limit) * WORTHWHILE:
                best = trial
        return best

    def to_dict(self) -> dict[str, Any]:
        """As plain data; the unit is in the name."""
        return {
            "limit_p99_ms": self.limit * 1e3,
            "best": self.best.choice.to_dict(),
            "chosen": self.chosen.to_dict(),
            "duel_images_per_second": [list(turn) for turn in self.duel],
            "trials": [
                {"choice": t.choice.to_dict(), "fault": t.error, "loads": [load.to_dict() for load in t.loads]}
                for t in self.trials
            ],
        }


def tune_serving(
    repository: Repository,
    name: str,
    limit: float,
    *,
    timing: Timing = TIMING,
    concurrencies: Sequence[int] = CONCURRENCIES,
    say: Callable[[str], None] = lambda _: None,
) -> Tuning:
    """Measure ways to run a model and write the best into its configuration.

    Args:
        repository: holds the model; its version that answers is measured.
        name: the model's name.
        limit: seconds that the 99th percentile may take, as a client on this machine sees it.
        timing: of one load.
        concurrencies: requests of one image under way at a time.
        say: is told each trial.

    Raises:
        ConfigError: no such model.
        GateError: no way holds the limit; nothing is written.
    """
    name = repository.classifier(name)
    tuning = Tuning(limit, [])
    present = model_config.options_of(repository.config(name))

    def measure(choices: Iterable[Choice]) -> Choice:
        for choice in choices:
            if choice not in [trial.choice for trial in tuning.trials]:
                tuning.trials.append(_try(repository, name, choice, timing, concurrencies))
                say(describe(tuning.trials[-1], limit))
        return tuning.best.choice

    measure([Choice(present)])
    best_instances = measure(_engines_and_instances(present, repository.engines(name)))
    best_batch = measure(_batches(best_instances, present.max_batch_size))
    measure(_delays(best_batch))
    if not tuning.best.worth(limit):
        fastest = min((load.latency.percentile(99) for trial in tuning.trials for load in trial.loads), default=None)
        found = "nothing could be served" if fastest is None else f"{fastest * 1e3:.1f} ms at best"
        raise GateError(f"no way to run {public_name(name)} here holds a p99 of {limit * 1e3:g} ms: {found}")
    _duel(repository, name, tuning, timing)
    repository.configure(name, tuning.chosen.options, tuning.chosen.engine)
    return tuning


def _duel(repository: Repository, name: str, tuning: Tuning, timing: Timing) -> None:
    """Measure what was configured and the best in turns: what changed between their trials does not decide."""
    first, best = tuning.trials[0], tuning.best
    if best is first:
        return
    loads = [trial.best(tuning.limit) for trial in (first, best)]
    for _ in range(DUELS):
        before, after = (
            _try(repository, name, trial.choice, timing, [load.workers]).worth(tuning.limit) if load else 0.0
            for trial, load in zip((first, best), loads, strict=True)
        )
        tuning.duel.append((before, after))


def _engines_and_instances(present: ServingConfig, engines: Sequence[str]) -> Iterator[Choice]:
    cores = usable_cores()
    for engine in (None, *engines):
        for instances in sorted({1, max(1, cores // 2), cores}):
            yield Choice(replace(present, instances=instances, threads=cores // instances, queue_delay_us=0), engine)


def _batches(best: Choice, largest: int) -> Iterator[Choice]:
    for batch in BATCHES:
        if batch < largest and batch != best.options.max_batch_size:
            options = replace(best.options, max_batch_size=batch, preferred_batch_sizes=())
            yield replace(best, options=options)


def _delays(best: Choice) -> Iterator[Choice]:
    for delay in DELAYS_US:
        if best.options.max_batch_size > 1:
            yield replace(best, options=replace(best.options, queue_delay_us=delay))


def _try(repository: Repository, name: str, choice: Choice, timing: Timing, concurrencies: Sequence[int]) -> Trial:
    with tempfile.TemporaryDirectory(prefix="shrinkserve-tune-") as folder:
        scratch = Repository(Path(folder) / "models")
        scratch.root.mkdir()
        linked_copy(repository.root / name, scratch.root / name)
        scratch.configure(name, choice.options, choice.engine)
        arguments = () if choice.engine is None else (f"--model-config-name={choice.engine}",)
        log, token = Path(folder) / "triton.log", secrets.token_urlsafe()
        options = ServerOptions(fixed=True, token=token, log_file=log, arguments=arguments)
        try:
            with TritonServer(scratch.root, options) as server:
                return Trial(choice, [_load(server.grpc_url, name, count, timing) for count in concurrencies])
        except ServerError as exc:  # an engine of another processor, for one
            return Trial(choice, error=exc.what)


def _load(url: str, name: str, concurrency: int, timing: Timing) -> Load:
    with Client(url) as client:
        contract = client.model_info(name)
    size = contract.preprocess.size
    images = np.random.default_rng(0).integers(0, 256, (8, 1, size, size, 3), np.uint8)
    return closed_loop(server_target(url, name, contract.precision), list(images), concurrency, timing)


def describe(trial: Trial, limit: float) -> str:
    """One line of what a choice did."""
    if trial.error is not None:
        return f"{trial.choice}: cannot be served ({trial.error})"
    load = trial.best(limit)
    if load is None:
        lowest = min(load.latency.percentile(99) for load in trial.loads)
        return f"{trial.choice}: p99 {lowest * 1e3:.1f} ms at best, beyond the limit"
    server = load.server or {}
    return (
        f"{trial.choice}: {load.throughput:.0f} images/s at concurrency {load.workers}, "
        f"p50 {load.latency.percentile(50) * 1e3:.1f} ms, p99 {load.latency.percentile(99) * 1e3:.1f} ms, "
        f"{server.get('images_per_execution') or 1:.2f} images an execution"
        f"{'' if load.valid else f' (not to be quoted: {load.reasons[0]})'}"
    )


COLUMNS = ("engine", "instances x threads", "batch", "delay us", "images/s", "requests", "p50 ms", "p99 ms", "batched")
"""Of `table`: `requests` under way at a time, images `batched` in an execution by the server's own account."""


def table(tuning: Tuning) -> str:
    """What was tried, a line each at its best load, the chosen one with a star."""
    rows: list[tuple[str, ...]] = [COLUMNS]
    for trial in tuning.trials:
        choice, chosen = trial.choice, trial.choice.options
        star = "*" if choice == tuning.chosen else ""
        shape = f"{chosen.instances} x {chosen.threads or 'all'}"
        row = (f"{star}{choice.engine or 'default'}", shape, str(chosen.max_batch_size), str(chosen.queue_delay_us))
        load = trial.best(tuning.limit)
        rows.append((*row, *(_figures(load) if load else [describe(trial, tuning.limit).partition(": ")[2]])))
    widths = [max(len(row[column]) for row in rows if len(row) == len(COLUMNS)) for column in range(len(COLUMNS))]
    return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=False)) for row in rows)


def _figures(load: Load) -> list[str]:
    p50, p99 = (f"{load.latency.percentile(part) * 1e3:.1f}" for part in (50, 99))
    batched = (load.server or {}).get("images_per_execution") or 1
    return [f"{load.throughput:.0f}", str(load.workers), p50, p99, f"{batched:.2f}"]


def explain_batching(tuning: Tuning) -> str:
    """What an image costs alone and in company, from Triton's own account over all trials of the best engine."""
    spent: dict[int, tuple[int, float]] = {}
    engine, instances = tuning.best.choice.engine, tuning.best.choice.options.instances
    for trial in tuning.trials:
        if (trial.choice.engine, trial.choice.options.instances) != (engine, instances):
            continue
        for load in trial.loads:
            for size, entry in (load.server or {}).get("batches", {}).items():
                count, total = spent.get(int(size), (0, 0.0))
                spent[int(size)] = (count + entry["executions"], total + entry["executions"] * entry["mean_ms"])
    enough = {size: total / count / size for size, (count, total) in sorted(spent.items()) if count >= 20}
    if 1 not in enough or len(enough) < 2:
        return "batching: executions of several images were too few to tell what company saves"
    cheapest = min((size for size in enough if size > 1), key=lambda size: enough[size])
    alone, company = enough[1], enough[cheapest]
    verdict = "helps" if alone > company * WORTHWHILE else "does not help"
    change = f"{abs(1 - company / alone):.0%} {'less' if company < alone else 'more'}"
    return (
        f"batching {verdict}: an image takes {alone:.2f} ms alone, {company:.2f} ms in a batch of {cheapest} ({change})"
    )
