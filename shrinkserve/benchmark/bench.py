"""Measurement of a model: accuracy of every stage, then latency under load, in one record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shrinkserve.artifact import recorded_path
from shrinkserve.benchmark.accuracy.journal import Journal
from shrinkserve.benchmark.accuracy.run import AccuracyPlan, AccuracyResult, measure_accuracy
from shrinkserve.benchmark.checks import check_batches, check_classes
from shrinkserve.benchmark.load import perf_analyzer
from shrinkserve.benchmark.load.plan import LoadPlan, Requests, run_loads
from shrinkserve.benchmark.load.schedule import Arrivals
from shrinkserve.benchmark.load.slo import Slo, search
from shrinkserve.benchmark.report.baseline import compare_with_baseline
from shrinkserve.benchmark.report.files import JOURNAL, write_record
from shrinkserve.benchmark.report.gates import Gates, read_gates
from shrinkserve.benchmark.report.misses import misses
from shrinkserve.benchmark.report.record import BaselineRecord, BenchRecord, new_record, read_record
from shrinkserve.benchmark.targets.discover import BenchStages, Wanted, find_stages
from shrinkserve.benchmark.targets.target import parse_payloads
from shrinkserve.benchmark.timing import Timing, parse_duration
from shrinkserve.data import open_dataset
from shrinkserve.errors import ConfigError, ShrinkServeError, check_range
from shrinkserve.paths import StrPath, optional_path
from shrinkserve.runtimes.openmp import release_helpers
from shrinkserve.terminal import Progress

BATCH = 32
"""Most images in a request of the accuracy pass."""
TRITON_URLS = ("http://127.0.0.1:8000", "grpc://127.0.0.1:8001")
"""Addresses of Triton by default."""


def bench(  # noqa: PLR0913 - the options of the command
    data: StrPath,
    *,
    url: Sequence[str] | str = (),
    model: str | None = None,
    checkpoint: StrPath | None = None,
    runs: StrPath = "runs",
    repository: StrPath | None = "model_repository",
    concurrency: Sequence[int] = (1, 4),
    min_top1: float | None = None,
    max_flips: int | None = None,
    max_p99: str | None = None,
    min_throughput: float | None = None,
    gates: StrPath | None = None,
    payload: Sequence[str] | str = (),
    token: str | None = None,
    rate: Sequence[float] = (),
    arrivals: Arrivals = "poisson",
    batch: Sequence[int] = (),
    slo: str | None = None,
    everywhere: bool = False,
    baseline: StrPath | None = None,
    limit: int | None = None,
    window: float = 2.0,
    out: StrPath | None = None,
    json: StrPath | None = None,
    progress: Progress | None = None,
) -> BenchRecord:
    """Compare a server's predictions with the checkpoint's, and measure its latency.

    Args:
        data: dataset; its validation images are used.
        url: addresses of one server, ``http://HOST:PORT`` or ``grpc://HOST:PORT``. Without `url` and `checkpoint`,
            the default ports of Triton on this machine.
        model: model on the server; required if it serves several.
        checkpoint: run folder of the model; None to search `runs` by the hash of the weights.
        runs: folder of run folders.
        repository: model repository whose files of the same weights are compared too.
        concurrency: closed-loop load tests.
        min_top1: gate: least top-1 accuracy, as a fraction.
        max_flips: gate: most predictions unlike the checkpoint's; by default 0 in float32.
        max_p99: gate: longest 99th percentile, e.g. ``"20ms"``.
        min_throughput: gate: least images per second.
        gates: TOML file of gates; the arguments take precedence.
        payload: "tensor", "jpeg" or "shm"; by default tensor, and jpeg if the server takes it.
        token: the server's token, for shared memory.
        rate: open-loop load tests, in requests per second.
        arrivals: distribution of the arrivals in open loops, "poisson" or "constant".
        batch: closed-loop load tests with this many images in a request.
        slo: objective whose highest rate is searched, e.g. ``"p99=20ms"``.
        everywhere: also run load tests of the local stages.
        baseline: ``bench.json`` of an earlier release to compare with.
        limit: number of images, spread evenly; None for all.
        window: seconds of one load window; three must agree.
        out: folder of the report; an interrupted measurement in it is resumed.
        json: file of the record alone.
        progress: bars on a terminal: an open `Progress`; None for none.

    Returns:
        The record. Its `misses` has a line for each gate that failed.

    Raises:
        ConfigError: an option is invalid.
        ShrinkServeError: the measurement cannot be completed. The part that was measured is written to `out` and
            `json`, marked as partial.

    Example:
        >>> record = bench("data/digits", checkpoint="runs/digits", out="report")  # doctest: +SKIP
        >>> record.accuracy.stages[-1].top1.value  # doctest: +SKIP
        0.989
    """
    _check_ranges(concurrency=concurrency, rate=rate, batch=batch)
    check_range(0, 1, min_top1=min_top1)
    check_range(0, max_flips=max_flips, min_throughput=min_throughput)
    check_range(1, limit=limit)
    check_range(0.1, window=window)
    if arrivals not in {"poisson", "constant"}:
        raise ConfigError("--arrivals", expected="poisson or constant", found=repr(arrivals))
    urls = [url] if isinstance(url, str) else list(url)
    named = Gates(min_top1, max_flips, parse_duration(max_p99, "--max-p99") if max_p99 else None, min_throughput)
    options = BenchOptions(
        data=Path(data),
        wanted=Wanted(
            urls=urls or ([] if checkpoint else TRITON_URLS),
            model=model,
            run=optional_path(checkpoint),
            runs=Path(runs),
            repository=optional_path(repository),
            payloads=parse_payloads([payload] if isinstance(payload, str) else payload),
            token=token,
        ),
        gates=read_gates(Path(gates)).override(named) if gates else named,
        loads=LoadPlan(
            concurrency=concurrency,
            rates=rate,
            arrivals=arrivals,
            batches=batch,
            everywhere=everywhere,
            timing=Timing(warmup=min(1.0, window), window=window),
        ),
        slo=Slo.parse(slo) if slo else None,
        baseline=optional_path(baseline),
        limit=limit,
        out=optional_path(out),
        json=optional_path(json),
    )
    return run_bench(options, progress or Progress(enabled=False))


def _check_ranges(*, concurrency: Sequence[int], rate: Sequence[float], batch: Sequence[int]) -> None:
    for one in concurrency:
        check_range(1, concurrency=one)
    for each in rate:
        check_range(0.1, rate=each)
    for size in batch:
        check_range(1, batch=size)


@dataclass(frozen=True)
class BenchOptions:
    """Options of a measurement.

    Attributes:
        data: dataset; its validation images are used.
        wanted: stages that the user named.
        gates: bounds on the figures.
        loads: load tests.
        slo: objective whose highest rate is searched; None for no search.
        baseline: record of an earlier release; None for no comparison.
        limit: number of images of the accuracy pass, spread evenly; None for all.
        out: folder of the report and of the journal; None for none.
        json: file of the record; None for none.
    """

    data: Path
    wanted: Wanted
    gates: Gates = field(default_factory=Gates)
    loads: LoadPlan = field(default_factory=LoadPlan)
    slo: Slo | None = None
    baseline: Path | None = None
    limit: int | None = None
    out: Path | None = None
    json: Path | None = None


def run_bench(options: BenchOptions, progress: Progress) -> BenchRecord:
    """Measure, write the record and the reports, and return the record; see `bench`."""
    earlier = read_record(options.baseline) if options.baseline else None  # it may be in the output folder
    stages = find_stages(options.wanted)
    check_batches(options.loads, stages)
    dataset = open_dataset(options.data, "validation")
    check_classes(dataset, stages)
    batch, identity = min(stages.max_batch_size, BATCH), stages.served_identity
    plan = AccuracyPlan(dataset, stages.preprocess, stages.targets, stages.links, batch, options.limit, identity)
    journal = Journal(options.out / JOURNAL, plan) if options.out else None
    result = journal.restore() if journal else AccuracyResult.empty(plan)
    record = new_record(stages, dataset, options.gates)

    def write() -> None:
        write_record(record, options.json, options.out, dataset)

    write()  # reports a folder that cannot be written before the measurement
    try:
        _measure_accuracy(record, plan, result, journal, progress)
        if earlier is not None:
            compare_with_baseline(record, earlier)  # reports other images before the load tests, which take minutes
        write()  # the accuracy is not lost if the process is killed during the load tests
        _measure_loads(record, options, stages, Requests(dataset, stages.preprocess), progress)
        if earlier is not None and options.baseline:
            record.baseline = BaselineRecord(recorded_path(options.baseline), compare_with_baseline(record, earlier))
        record.partial = None
    except (ShrinkServeError, KeyboardInterrupt) as exc:
        record.partial = str(exc) or "interrupted"
        raise
    finally:
        record.misses = misses(record, options.gates)
        write()
    return record


def _measure_accuracy(
    record: BenchRecord, plan: AccuracyPlan, result: AccuracyResult, journal: Journal | None, progress: Progress
) -> None:
    progress.say(f"accuracy: {plan.images} images through {', '.join(target.name for target in plan.targets)}")
    if result.done:
        progress.say(f"accuracy: resuming after {result.done} of {plan.images} images")

    def on_batch(part: AccuracyResult) -> None:
        if journal:
            journal.append(part)
        progress.update("images", result.done, plan.images)

    try:
        measure_accuracy(plan, result, on_batch)
    finally:
        progress.remove("images")
        record.accuracy = result.to_record(plan)


def _measure_loads(
    record: BenchRecord, options: BenchOptions, stages: BenchStages, requests: Requests, progress: Progress
) -> None:
    plan = options.loads
    targets = plan.targets(stages.targets)
    release_helpers()  # OpenMP threads of this thread would compete with those of the workers
    for load in run_loads(plan, targets, requests, progress.say):
        record.loads.append(load.to_record())
    if options.slo:
        for target in targets:
            sent = requests.of(target)
            record.slo.append(search(target, sent, options.slo, plan.in_flight, plan.timing, progress.say))
    if stages.served and perf_analyzer.program():
        for target in targets:
            if target.remote and target.payload == "tensor":
                progress.say(f"perf_analyzer: {target.name}")
                record.perf_analyzer += perf_analyzer.measure(target.identity, stages.served.model, plan.concurrency)
