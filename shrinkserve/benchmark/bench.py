"""`shrinkserve bench`: accuracy along the chain, then latency under load, in one record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from shrinkserve.artifact import write_atomic
from shrinkserve.benchmark.chain import Chain, Plan, run_chain
from shrinkserve.benchmark.environment import environment
from shrinkserve.benchmark.gates import Gates, misses
from shrinkserve.benchmark.journal import Journal
from shrinkserve.benchmark.load import Timing, closed_loop
from shrinkserve.benchmark.stages import Stages, Wanted, find_stages
from shrinkserve.benchmark.target import Pixels
from shrinkserve.data import Dataset, evaluation_batches, open_dataset
from shrinkserve.errors import DataError, ShrinkServeError
from shrinkserve.preprocess import Preprocess

FORMAT = 1
"""Of the record; grows when a reader of the old one would be misled."""
RECORD, JOURNAL = "bench.json", "accuracy.jsonl"
"""Files of an output folder: the record, and what a cut-off measurement goes on from."""
BATCH = 32
"""Images a request of the accuracy measurement, at most."""
REQUESTS = 16
"""How many different requests a load test sends in turn."""


@dataclass(frozen=True)
class Options:
    """A measurement.

    Attributes:
        data: the dataset; its validation images are used.
        wanted: the stages.
        gates: what the figures must hold.
        concurrency: of the closed loops.
        timing: of every load test.
        limit: only so many images for the accuracy, spread evenly.
        out: folder of the report and of the journal that a cut-off measurement goes on from; None for none.
        json: file of the record; None for none.
    """

    data: Path
    wanted: Wanted
    gates: Gates = field(default_factory=Gates)
    concurrency: Sequence[int] = (1, 4)
    timing: Timing = field(default_factory=Timing)
    limit: int | None = None
    out: Path | None = None
    json: Path | None = None


class Progress(Protocol):
    """Where a measurement says what it is at."""

    def step(self, text: str) -> None:
        """Something begins."""

    def images(self, done: int, total: int) -> None:
        """So many images went through every stage."""


def run_bench(options: Options, progress: Progress) -> dict[str, Any]:
    """Measure, write what was asked for and return the record; its ``misses`` are the gates that do not hold.

    Raises:
        ShrinkServeError: the measurement could not be finished; what there is was written and marked as partial.
    """
    stages = find_stages(options.wanted)
    dataset = open_dataset(options.data, "validation")
    _check_classes(dataset, stages)
    record = _head(options, stages, dataset)
    try:
        _measure_accuracy(record, options, stages, dataset, progress)
        _measure_loads(record, options, stages, dataset, progress)
        record["partial"] = None
    except (ShrinkServeError, KeyboardInterrupt) as fault:
        record["partial"] = str(fault) or "interrupted"
        raise
    finally:
        record["misses"] = misses(record, options.gates)
        _write(record, options)
    return record


def _check_classes(dataset: Dataset, stages: Stages) -> None:
    if len(dataset.classes) != len(stages.classes):
        raise DataError(
            f"{dataset.root}: not the classes of model {stages.model}",
            expected=f"{len(stages.classes)} classes",
            found=len(dataset.classes),
            do="name the dataset that it was trained on",
        )


def _head(options: Options, stages: Stages, dataset: Dataset) -> dict[str, Any]:
    """What the record holds before anything was measured."""
    columns = zip(stages.targets, stages.parents, strict=True)
    return {
        "format": FORMAT,
        "model": stages.model,
        "version": stages.contract.version if stages.contract else None,
        "weights_sha256": stages.weights_sha256,
        "preprocess": {"contract": stages.preprocess.contract, **stages.preprocess.to_dict()},
        "classes": stages.classes,
        "dataset": {"root": str(dataset.root), "split": dataset.split, "images": len(dataset)},
        "stages": [
            {
                "name": target.name,
                "kind": target.kind,
                "precision": target.precision,
                "identity": target.identity,
                "exact": target.exact,
                "parent": parent,
            }
            for target, parent in columns
        ],
        "reference": stages.reference,
        "environment": environment(),
        "gates": asdict(options.gates),
        "accuracy": None,
        "loads": [],
        "partial": "not finished",
        "misses": [],
    }


def _measure_accuracy(
    record: dict[str, Any], options: Options, stages: Stages, dataset: Dataset, progress: Progress
) -> None:
    batch = min(stages.max_batch_size, BATCH)
    plan = Plan(dataset, stages.preprocess, stages.targets, stages.links, batch, options.limit)
    journal = Journal(options.out / JOURNAL, plan) if options.out else None
    chain = journal.restore() if journal else Chain.empty(plan)
    progress.step(f"accuracy: {plan.images} images through {', '.join(t.name for t in stages.targets)}")

    def on_batch(part: Chain) -> None:
        if journal:
            journal.append(part)
        progress.images(chain.done, plan.images)

    try:
        run_chain(plan, chain, on_batch)
    finally:
        record["accuracy"] = {**chain.to_dict(), "planned": plan.images, "batch": batch}


def _measure_loads(
    record: dict[str, Any], options: Options, stages: Stages, dataset: Dataset, progress: Progress
) -> None:
    requests = payload(dataset, stages.preprocess, batch=1)
    for target in stages.targets:
        for concurrency in options.concurrency if target.remote else ():
            progress.step(f"load: {target.name}, concurrency {concurrency}")
            record["loads"].append(closed_loop(target, requests, concurrency, options.timing).to_dict())


def payload(dataset: Dataset, preprocess: Preprocess, batch: int) -> list[Pixels]:
    """Requests for load tests: different real images, `batch` in each."""
    count = min(len(dataset), REQUESTS * batch)
    images = np.concatenate([b.images for b in evaluation_batches(dataset, preprocess, batch, limit=count)])
    return [
        np.ascontiguousarray(np.take(images, range(i, i + batch), axis=0, mode="wrap")) for i in range(0, count, batch)
    ]


def _write(record: dict[str, Any], options: Options) -> None:
    text = json.dumps(record, indent=1) + "\n"
    if options.json:
        write_atomic(options.json, text.encode())
    if options.out:
        write_atomic(options.out / RECORD, text.encode())
        if record["partial"] is None:
            (options.out / JOURNAL).unlink(missing_ok=True)
