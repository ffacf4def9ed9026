"""`shrinkserve bench`: accuracy along the chain, then latency under load, in one record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from shrinkserve.benchmark.accuracy.resume_log import Journal
from shrinkserve.benchmark.accuracy.run import AccuracyPlan, ChainResult, measure_accuracy
from shrinkserve.benchmark.load import perf_analyzer
from shrinkserve.benchmark.load.plan import LoadPlan, Requests, run_loads
from shrinkserve.benchmark.load.slo import Slo, search
from shrinkserve.benchmark.report import record
from shrinkserve.benchmark.report.baseline import compare_with_baseline
from shrinkserve.benchmark.report.gates import Gates, misses
from shrinkserve.benchmark.report.record import read_record
from shrinkserve.benchmark.targets.discover import BenchStages, Wanted, find_stages
from shrinkserve.data import Dataset, open_dataset
from shrinkserve.data.records import BACKGROUND
from shrinkserve.errors import ConfigError, DataError, ShrinkServeError
from shrinkserve.runtimes.openmp import release_helpers

BATCH = 32
"""Images a request of the accuracy measurement, at most."""


@dataclass(frozen=True)
class BenchOptions:
    """A measurement.

    Attributes:
        data: the dataset; its validation images are used.
        wanted: the stages.
        gates: what the figures must hold.
        loads: the load tests.
        slo: a promise whose highest rate is searched; None for no search.
        baseline: record of an earlier release; None for no comparison.
        limit: only so many images for the accuracy, spread evenly.
        out: folder of the report and of the journal that a cut-off measurement goes on from; None for none.
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


class Progress(Protocol):
    """Where a measurement says what it is at."""

    def step(self, text: str) -> None:
        """Something begins."""

    def images(self, done: int, total: int) -> None:
        """So many images went through every stage."""


def run_bench(options: BenchOptions, progress: Progress) -> dict[str, Any]:
    """Measure, write what was asked for and return the record; its ``misses`` are what does not hold.

    Raises:
        ShrinkServeError: the measurement could not be finished; what there is was written and marked as partial.
    """
    earlier = read_record(options.baseline) if options.baseline else None  # which may be in the folder of this one
    stages = find_stages(options.wanted)
    _check_batches(options.loads, stages)
    dataset = open_dataset(options.data, "validation")
    _check_classes(dataset, stages)
    batch = min(stages.max_batch_size, BATCH)
    plan = AccuracyPlan(dataset, stages.preprocess, stages.targets, stages.links, batch, options.limit, stages.served)
    journal = Journal(options.out / record.JOURNAL, plan) if options.out else None
    chain = journal.restore() if journal else ChainResult.empty(plan)
    found = record.begin(stages, dataset, options.gates)
    record.write(found, options.json, options.out, dataset)  # a place that cannot be written is said now
    try:
        _measure_accuracy(found, plan, chain, journal, progress)
        if earlier is not None:
            compare_with_baseline(found, earlier)  # other images are said before the minutes that the load tests take
        record.write(found, options.json, options.out, dataset)  # a kill in these minutes leaves the accuracy
        _measure_loads(found, options, stages, Requests(dataset, stages.preprocess), progress.step)
        if earlier is not None:
            found["baseline"] = {"file": str(options.baseline), "figures": compare_with_baseline(found, earlier)}
        found["partial"] = None
    except (ShrinkServeError, KeyboardInterrupt) as exc:
        found["partial"] = str(exc) or "interrupted"
        raise
    finally:
        found["misses"] = misses(found, options.gates)
        record.write(found, options.json, options.out, dataset)
    return found


def _check_batches(loads: LoadPlan, stages: BenchStages) -> None:
    """A batch that the server refuses is said before the minutes until it would be sent."""
    largest, most = max(loads.batches, default=1), stages.max_batch_size
    if stages.contract is not None and largest > most:
        hint = "export it with a larger --max-batch, or ask for less"
        raise ConfigError("--batch", expected=f"at most {most} images, the server's largest", found=largest, hint=hint)


def _check_classes(dataset: Dataset, stages: BenchStages) -> None:
    """Labels that mean classes in another order would judge every answer wrongly.

    Names of another kind, synsets beside words, say nothing about the order: then the number has to do.
    """
    theirs, ours = list(dataset.classes), list(stages.classes)
    expected, found = f"{len(ours)} classes", f"{len(theirs)}"
    if len(theirs) == len(ours):
        known = set(theirs)
        pairs = enumerate(zip(ours, theirs, strict=True))
        number = next((n for n, (one, other) in pairs if one != other and one in known), None)
        if number is None:
            return
        expected, found = f"class {number} to be {ours[number]!r}", f"{theirs[number]!r}"
    what, hint = f"{dataset.root}: not the classes of model {stages.model}", "name the dataset that it was trained on"
    if ours[0] == BACKGROUND and len(ours) == len(theirs) + 1:
        hint = (
            f"a folder has no class of background: `shrinkserve data pack {dataset.root} DIR` makes records, which do"
        )
    raise DataError(what, expected=expected, found=found, hint=hint)


def _measure_accuracy(
    found: dict[str, Any], plan: AccuracyPlan, chain: ChainResult, journal: Journal | None, at: Progress
) -> None:
    at.step(f"accuracy: {plan.images} images through {', '.join(target.name for target in plan.targets)}")
    if chain.done:
        at.step(f"accuracy: going on after {chain.done} of {plan.images} images")

    def on_batch(part: ChainResult) -> None:
        if journal:
            journal.append(part)
        at.images(chain.done, plan.images)

    try:
        measure_accuracy(plan, chain, on_batch)
    finally:
        found["accuracy"] = {**chain.to_dict(), "planned": plan.images, "batch": plan.batch_size}


def _measure_loads(
    found: dict[str, Any],
    options: BenchOptions,
    stages: BenchStages,
    requests: Requests,
    say: Callable[[str], None],
) -> None:
    plan = options.loads
    targets = plan.targets(stages.targets)
    release_helpers()  # of this thread, which went through all images: the workers' own would sleep beside them
    for load in run_loads(plan, targets, requests, say):
        found["loads"].append(load.to_dict())
    for target in targets if options.slo else ():
        assert options.slo is not None
        found["slo"].append(search(target, requests.of(target), options.slo, plan.in_flight, plan.timing, say))
    for target in targets if stages.contract and perf_analyzer.path() else ():
        if target.remote and target.payload == "tensor":
            assert stages.contract is not None
            say(f"perf_analyzer: {target.name}")
            found["perf_analyzer"] += perf_analyzer.measure(target.identity, stages.contract.model, plan.concurrency)
