"""Choose graph passes by timing them on this machine."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from math import prod
from pathlib import Path

from shrinkserve.errors import ConfigError
from shrinkserve.exporting import graph
from shrinkserve.exporting.optimise import FORMS, SHIPPED, PassPlan, PassTarget, optimise, stages
from shrinkserve.exporting.records import Comparison
from shrinkserve.exporting.samples import Samples
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.openvino import OpenVinoModel
from shrinkserve.runtimes.predictor import Images, Predictor

ROUNDS, BURST = 10, 4
"""Turns of each candidate in a comparison, and timed predictions in a turn."""
QUICK_ROUNDS = 5
"""Turns when an export chooses among few plans."""
GAIN = 0.01
"""A form replaces another one only if it saves more than this part of the time of the graph; less is noise."""
MARGIN, MEASURED_MARGIN = 0.05, 0.15
"""An export replaces the plan shipped for its target only if another one is faster by more than this; the second is for
networks that the plan was measured for."""


@dataclass(frozen=True)
class Tuned:
    """The fastest plan, and the comparisons that found it."""

    plan: PassPlan
    comparisons: list[Comparison]


def choose_plan(
    source: Path, target: PassTarget, samples: Samples, max_batch: int, *, measured: bool
) -> tuple[PassPlan | None, list[Comparison]]:
    """Time the plan shipped for a target against simpler plans and the unchanged graph; return the fastest.

    The shipped plans were measured for ShrinkCNN; they can slow other networks down. Plans with equal results are
    timed once.

    Args:
        source: the ONNX file.
        target: runtime of the result.
        samples: gives the images.
        max_batch: the largest batch.
        measured: the graph is of a network that the shipped plans were measured for.

    Returns:
        The plan, None for the unchanged graph; and the timings. If the target does not run on this machine, the
        shipped plan for measured networks and no passes for others.
    """
    shipped = SHIPPED[target]
    if target == "tensorrt" or (target == "openvino" and find_spec("openvino") is None):
        return (shipped if measured else PassPlan()), []
    plans: dict[str, PassPlan | None] = {
        "shipped": shipped,
        "unpadded": replace(shipped, block=0),
        "as-is": PassPlan(),
        "source": None,
    }
    with tempfile.TemporaryDirectory(prefix="passes-", dir=source.parent) as folder:
        paths, distinct = {}, {}
        for name, plan in plans.items():
            path = Path(folder) / f"{name}.onnx"
            model = graph.load(source)
            if plan is not None:
                optimise(model, plan)
            graph.save(model, path)
            if (content := path.read_bytes()) not in distinct:
                distinct[content], paths[name] = name, path
        if len(paths) == 1:
            return shipped, []
        models = [_open(path, target, None) for path in paths.values()]
        sizes = sorted({1, min(8, max_batch, len(samples))})
        timings = [interleaved(models, samples.images[:size], QUICK_ROUNDS, 2, min) for size in sizes]
    names = list(paths)
    comparisons = [_comparison(f"passes at batch {n}", names, times) for n, times in zip(sizes, timings, strict=True)]
    scores = [prod(times[i] / times[0] for times in timings) ** (1 / len(sizes)) for i in range(len(names))]
    if names[-1] == "source":  # without the passes, int8 would round between a convolution and its batch norm
        scores[-1] *= 1 + MARGIN
    best = min(range(len(names)), key=scores.__getitem__)
    kept = names[best] if scores[best] < 1 - (MEASURED_MARGIN if measured else MARGIN) else "shipped"
    return plans[kept], [{**comparison, "kept": kept} for comparison in comparisons]


def _comparison(what: str, names: Sequence[str], seconds: Sequence[float]) -> Comparison:
    return {"what": what, "milliseconds": dict(zip(names, _milliseconds(seconds), strict=True)), "kept": names[0]}


def _milliseconds(seconds: Sequence[float]) -> list[float]:
    return [round(1e3 * second, 3) for second in seconds]


def _open(path: Path, target: PassTarget, threads: int | None) -> Predictor:
    return OnnxModel(path, threads) if target == "onnxruntime-cpu" else OpenVinoModel(path, threads)


def tune_passes(
    source: Path,
    target: PassTarget,
    samples: Samples,
    *,
    batch: int = 1,
    threads: int | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Time candidate graphs on this machine and return the fastest plan.

    Begins with the plan shipped for the target, tries every form of one stage after the other, and at the end compares
    with the graph without passes.

    Args:
        source: the ONNX file.
        target: runtime of the result.
        samples: gives the images.
        batch: images of a request.
        threads: of the session; None for the runtime's choice.
        report: is called with one line for each comparison.

    Raises:
        ConfigError: the target does not run on this machine.
    """
    if target == "tensorrt":
        expected = "a target that runs on this machine"
        raise ConfigError("--tune", expected=expected, found=target, hint="leave --tune out")
    images = samples.images[:batch]
    best: PassPlan = SHIPPED[target]
    comparisons: list[Comparison] = []
    with tempfile.TemporaryDirectory(prefix="tune-", dir=source.parent) as folder:

        def prepared(plan: PassPlan) -> Predictor:
            model = graph.load(source)
            optimise(model, plan)
            path = Path(folder) / "candidate.onnx"
            graph.save(model, path)
            return _open(path, target, threads)

        for what, plans in _candidates(source, target):
            names, options = zip(*plans(best).items(), strict=True)
            seconds = interleaved([prepared(plan) for plan in options], images)
            order = sorted(range(len(options)), key=seconds.__getitem__)
            current = options.index(best)
            winner = order[0] if seconds[order[0]] < seconds[current] * (1 - GAIN) else current
            best = options[winner]
            comparison = _comparison(what, names, seconds)
            comparisons.append({**comparison, "kept": names[winner]})
            timed = ", ".join(f"{name} {ms:g} ms" for name, ms in comparison["milliseconds"].items())
            report(f"{what}: {names[winner]} kept; {timed}")
    return Tuned(best, comparisons)


def _candidates(source: Path, target: PassTarget) -> Iterator[tuple[str, Callable[[PassPlan], dict[str, PassPlan]]]]:
    """Return each comparison's name, and a function from the best plan so far to the plans to compare, by name."""
    for stage in stages(graph.load(source)):
        yield stage, partial(_forms_of, stage)
    yield "whole graph", lambda best: {"tuned": best, "shipped": SHIPPED[target], "as-is": PassPlan()}


def _forms_of(stage: str, best: PassPlan) -> dict[str, PassPlan]:
    """Return a plan for every form of one stage; the form that `best` has is `best` itself."""
    now = best.stages.get(stage, best.form)
    return {form: best if form == now else replace(best, stages={**best.stages, stage: form}) for form in FORMS}


def interleaved(
    models: Sequence[Predictor],
    images: Images,
    rounds: int = ROUNDS,
    burst: int = BURST,
    summary: Callable[[list[float]], float] = statistics.median,
) -> list[float]:
    """Return the seconds of a prediction of each model, timed in turns after a warm-up.

    Turns show all models the same machine. The first prediction of a turn is not timed: threads of the model before may
    still spin.

    Args:
        models: any number.
        images: one batch.
        rounds: turns of each model.
        burst: timed predictions in a turn.
        summary: of the times of the turns; the minimum is the steadiest on a machine with other work.
    """
    for model in models:
        for _ in range(3):
            model.predict(images)
    taken: list[list[float]] = [[] for _ in models]
    for _ in range(rounds):
        for times, model in zip(taken, models, strict=True):
            model.predict(images)
            started = time.perf_counter()
            for _ in range(burst):
                model.predict(images)
            times.append((time.perf_counter() - started) / burst)
    return [summary(times) for times in taken]
