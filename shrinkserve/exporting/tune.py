"""The fastest plan for this machine, found stage by stage with a stopwatch."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from shrinkserve.errors import ConfigError
from shrinkserve.exporting import graph
from shrinkserve.exporting.optimise import FORMS, SHIPPED, PassPlan, PassTarget, optimise, stages
from shrinkserve.exporting.samples import Samples
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.openvino import OpenVinoModel
from shrinkserve.runtimes.predictor import Images, Predictor

ROUNDS, BURST = 10, 4
"""Turns that each candidate of a comparison gets, and answers that are timed in a turn."""
GAIN = 0.01
"""A form replaces another one only where it saves more than this part of the whole graph's time: less is noise."""


@dataclass(frozen=True)
class Tuned:
    """The plan that won, and every comparison that led to it."""

    plan: PassPlan
    comparisons: list[dict[str, Any]]


def tune_passes(
    source: Path,
    target: PassTarget,
    samples: Samples,
    *,
    batch: int = 1,
    threads: int | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Time candidate graphs on this machine and keep the fastest.

    Begins with the plan shipped for the target; then, stage by stage, tries every form of that stage while the
    others stay; then the plan that leaves everything as it is.

    Args:
        source: the ONNX file to optimise.
        target: what it will run in.
        samples: what it is asked.
        batch: images a request.
        threads: of the session; None for the runtime's choice.
        report: gets one line a comparison.

    Raises:
        ConfigError: a target that does not run on this machine.
    """
    if target == "tensorrt":
        raise ConfigError(
            "--tune", expected="a target that runs on this machine", found=target, hint="leave --tune out"
        )
    images = samples.images[:batch]
    best, comparisons = SHIPPED[target], []
    with tempfile.TemporaryDirectory(prefix="shrinkserve-tune-") as folder:

        def prepared(plan: PassPlan) -> Predictor:
            model = graph.load(source)
            optimise(model, plan)
            path = Path(folder) / "candidate.onnx"
            graph.save(model, path)
            return OnnxModel(path, threads) if target == "onnxruntime-cpu" else OpenVinoModel(path, threads)

        for what, plans in _candidates(source, target):
            names, options = zip(*plans(best).items(), strict=True)
            seconds = interleaved([prepared(plan) for plan in options], images)
            order = sorted(range(len(options)), key=seconds.__getitem__)
            current = options.index(best)
            winner = order[0] if seconds[order[0]] < seconds[current] * (1 - GAIN) else current
            best = options[winner]
            timed = {name: round(1e3 * s, 3) for name, s in zip(names, seconds, strict=True)}
            comparisons.append({"what": what, "milliseconds": timed, "kept": names[winner]})
            report(f"{what}: {names[winner]} kept; {', '.join(f'{name} {ms:g} ms' for name, ms in timed.items())}")
    return Tuned(best, comparisons)


def _candidates(source: Path, target: PassTarget) -> Iterator[tuple[str, Callable[[PassPlan], dict[str, PassPlan]]]]:
    """What is compared, and the plans to compare by name, given the best one so far."""
    for stage in stages(graph.load(source)):
        yield stage, partial(_forms_of, stage)
    yield "whole graph", lambda best: {"tuned": best, "shipped": SHIPPED[target], "as-is": PassPlan()}


def _forms_of(stage: str, best: PassPlan) -> dict[str, PassPlan]:
    """Every form of one stage; the one that `best` has is `best` itself."""
    now = best.stages.get(stage, best.form)
    return {form: best if form == now else replace(best, stages={**best.stages, stage: form}) for form in FORMS}


def interleaved(answerers: list[Predictor], images: Images, rounds: int = ROUNDS) -> list[float]:
    """Median seconds an answer takes of each, asked in turns after a warm-up, so that all see the same machine.

    The first answer of a turn is not timed: the threads of the one before may still spin.
    """
    for answerer in answerers:
        for _ in range(3):
            answerer.predict(images)
    taken: list[list[float]] = [[] for _ in answerers]
    for _ in range(rounds):
        for times, answerer in zip(taken, answerers, strict=True):
            answerer.predict(images)
            started = time.perf_counter()
            for _ in range(BURST):
                answerer.predict(images)
            times.append((time.perf_counter() - started) / BURST)
    return [statistics.median(times) for times in taken]
