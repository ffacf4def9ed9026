"""Tuning of a model's serving options (instances, threads, batching, engine) by measurement in scratch servers.

Options are tried one after the other, each from the best so far: engines with instances and threads, then the largest
batch, then the queue delay. The score of a choice is its highest throughput at any concurrency whose 99th percentile
is within the limit. The best choice must then beat the configured one, measured in turns.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy as np

from shrinkserve.atomic import linked_copy
from shrinkserve.benchmark.load.run import Load, closed_loop
from shrinkserve.benchmark.plain import plain
from shrinkserve.benchmark.targets.target import server_target
from shrinkserve.benchmark.timing import Timing
from shrinkserve.config import ServingConfig
from shrinkserve.errors import GateError, ServerError
from shrinkserve.machine import usable_cores
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.names import public_name
from shrinkserve.serving.repository import serving_options
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import ServerOptions, TritonServer

CONCURRENCIES = (1, 2, 4, 8, 16)
BATCHES = (1, 4, 32)
DELAYS_US = (500, 2000)
DUELS = 3
"""Rounds in which the configured and the best choice are measured in turns."""
TIMING = Timing(warmup=0.5, window=1.0, agree=2, most=4)
WORTHWHILE = 1.03
"""Least gain of a later choice over the best so far. A smaller gain is noise, and earlier choices are simpler."""


@dataclass(frozen=True)
class Choice:
    """Serving options and engine of a model; `engine` None is ``config.pbtxt``."""

    options: ServingConfig
    engine: str | None = None

    def __str__(self) -> str:
        chosen = self.options
        threads = chosen.threads or "all"
        return (
            f"{self.engine or 'default'}: {chosen.instances} x {threads} threads, batch {chosen.max_batch_size}, "
            f"delay {chosen.queue_delay_us} us"
        )


@dataclass(frozen=True)
class Trial:
    """Load tests of one choice at each concurrency, or the error if it could not be served."""

    choice: Choice
    loads: list[Load] = field(default_factory=list)
    error: str | None = None

    def best(self, limit: float) -> Load | None:
        """Return the load test with the highest throughput whose 99th percentile is within `limit` seconds."""
        fit = [load for load in self.loads if load.latency.percentile(99) <= limit]
        return max(fit, key=lambda load: load.throughput, default=None)

    def score(self, limit: float) -> float:
        """Return the throughput of `best`; 0 if no load test is within the limit."""
        load = self.best(limit)
        return load.throughput if load else 0.0

    def outcome(self, limit: float) -> str:
        """Return the result in one line."""
        if self.error is not None:
            return f"cannot be served ({self.error})"
        load = self.best(limit)
        if load is None:
            lowest = min(load.latency.percentile(99) for load in self.loads)
            return f"p99 {lowest * 1e3:.1f} ms at best, longer than the limit"
        return (
            f"{load.throughput:.0f} images/s at concurrency {load.workers}, "
            f"p50 {load.latency.percentile(50) * 1e3:.1f} ms, p99 {load.latency.percentile(99) * 1e3:.1f} ms, "
            f"{batched(load):.2f} images in an execution"
            f"{'' if load.valid else f' (not valid: {load.reasons[0]})'}"
        )


def batched(load: Load) -> float:
    """Return the mean images in an execution, by the statistics of the server; 1 if unknown."""
    return (load.server.images_per_execution if load.server else None) or 1.0


@dataclass(frozen=True)
class Tuning:
    """Result of a tuning.

    Attributes:
        limit: longest 99th percentile in seconds.
        trials: all trials in their order; the first is of the configured choice.
        duel: throughput of the configured and of the best choice, measured in turns; empty if they are the same.
    """

    limit: float
    trials: list[Trial]
    duel: list[tuple[float, float]] = field(default_factory=list)

    @property
    def chosen(self) -> Choice:
        """The best choice if it won the duel by `WORTHWHILE`, else the configured one."""
        before, after = (median(values) for values in zip(*self.duel, strict=True)) if self.duel else (0.0, 1.0)
        return self.best.choice if after > before * WORTHWHILE else self.trials[0].choice

    @property
    def best(self) -> Trial:
        """The first trial that no later one beats by `WORTHWHILE`."""
        best = self.trials[0]
        for trial in self.trials[1:]:
            if trial.score(self.limit) > best.score(self.limit) * WORTHWHILE:
                best = trial
        return best

    def to_dict(self) -> dict[str, object]:
        """Return JSON data."""
        return {
            "limit_p99_ms": self.limit * 1e3,
            "best": _plain_choice(self.best.choice),
            "chosen": _plain_choice(self.chosen),
            "duel_images_per_second": [list(turn) for turn in self.duel],
            "trials": [
                {
                    "choice": _plain_choice(trial.choice),
                    "fault": trial.error,
                    "loads": [plain(load.to_record()) for load in trial.loads],
                }
                for trial in self.trials
            ],
        }


def _plain_choice(choice: Choice) -> dict[str, object]:
    return {"engine": choice.engine, **asdict(choice.options)}


def tune_serving(
    repository: Repository,
    name: str,
    limit: float,
    *,
    timing: Timing = TIMING,
    concurrencies: Sequence[int] = CONCURRENCIES,
    say: Callable[[str], None] = lambda _: None,
) -> Tuning:
    """Measure serving options of a model and write the best into its configuration.

    Args:
        repository: repository of the model; its served version is measured.
        name: name of the model.
        limit: longest 99th percentile in seconds, seen by a client on this machine.
        timing: duration of one load test.
        concurrencies: numbers of requests in flight.
        say: receives a line for each trial.

    Raises:
        ConfigError: no such model.
        GateError: no choice is within the limit; nothing is written.
    """
    name = repository.classifier(name)
    tuning = Tuning(limit, [])
    present = serving_options.options_of(repository.config(name))

    def measure(choices: Iterable[Choice]) -> Choice:
        for choice in choices:
            if choice not in [trial.choice for trial in tuning.trials]:
                tuning.trials.append(_try(repository, name, choice, timing, concurrencies))
                say(f"{choice}: {tuning.trials[-1].outcome(limit)}")
        return tuning.best.choice

    measure([Choice(present)])
    best_instances = measure(_engines_and_instances(present, repository.engines(name)))
    best_batch = measure(_batches(best_instances, present.max_batch_size))
    measure(_delays(best_batch))
    if not tuning.best.score(limit):
        fastest = min((load.latency.percentile(99) for trial in tuning.trials for load in trial.loads), default=None)
        found = "no choice could be served" if fastest is None else f"{fastest * 1e3:.1f} ms at best"
        raise GateError(f"{public_name(name)}: no choice has a p99 within {limit * 1e3:g} ms on this machine: {found}")
    _duel(repository, name, tuning, timing)
    repository.configure(name, tuning.chosen.options, tuning.chosen.engine)
    return tuning


def _duel(repository: Repository, name: str, tuning: Tuning, timing: Timing) -> None:
    """Measure the configured and the best choice in turns, so that changes of the machine over time do not matter."""
    first, best = tuning.trials[0], tuning.best
    if best is first:
        return
    loads = [trial.best(tuning.limit) for trial in (first, best)]
    for _ in range(DUELS):
        before, after = (
            _try(repository, name, trial.choice, timing, [load.workers]).score(tuning.limit) if load else 0.0
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
        except ServerError as exc:  # e.g. an engine for another processor
            return Trial(choice, error=exc.what)


def _load(url: str, name: str, concurrency: int, timing: Timing) -> Load:
    with Client(url) as client:
        served = client.model_info(name)
    images = np.random.default_rng(0).integers(0, 256, (8, 1, *served.preprocess.shape), np.uint8)
    return closed_loop(server_target(url, name, served.precision), list(images), concurrency, timing)
