"""Choose graph passes by timing them on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import prod
from pathlib import Path

from shrinkserve.errors import ConfigError
from shrinkserve.exporting import graph
from shrinkserve.exporting.optimise import FORMS, SHIPPED, OptimisedOnnx, PassPlan, PassTarget, stages
from shrinkserve.exporting.records import Comparison
from shrinkserve.exporting.samples import Samples
from shrinkserve.exporting.timing import interleaved
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.openvino import OpenVinoModel
from shrinkserve.runtimes.predictor import Predictor

ROUNDS, BURST = 10, 4
"""Turns of each candidate in a comparison, and timed predictions in a turn."""
QUICK_ROUNDS, QUICK_BURST = 5, 2
"""The same when an export chooses among few plans."""
GAIN = 0.01
"""A form replaces another one only if it saves more than this part of the time of the graph; less is noise."""
MARGIN, MEASURED_MARGIN = 0.05, 0.15
"""An export replaces the plan shipped for its target only if another one is faster by more than this; the second is for
networks that the plan was measured for."""


@dataclass(frozen=True)
class Tuned:
    """The fastest plan, None for the unchanged graph, and the comparisons that found it."""

    plan: PassPlan | None
    comparisons: list[Comparison]


def choose_plan(source: Path, target: PassTarget, samples: Samples, max_batch: int, *, measured: bool) -> Tuned:
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
        The fastest plan. If the target does not run on this machine, the shipped plan for measured networks and no
        passes for others, without comparisons.
    """
    shipped = SHIPPED[target]
    if target == "tensorrt" or (target == "openvino" and find_spec("openvino") is None):
        return Tuned(shipped if measured else PassPlan(), [])
    plans: dict[str, PassPlan | None] = {
        "shipped": shipped,
        "unpadded": replace(shipped, block=0),
        "as-is": PassPlan(),
        "source": None,
    }
    with tempfile.TemporaryDirectory(prefix="passes-", dir=source.parent) as folder:
        models: dict[str, Predictor] = {}
        contents: set[bytes] = set()
        for name, plan in plans.items():
            path = Path(folder) / f"{name}.onnx"
            OptimisedOnnx(target, plan).run(source, path, samples)
            if (content := path.read_bytes()) not in contents:
                contents.add(content)
                models[name] = _open(path, target)
        if len(models) == 1:
            return Tuned(shipped, [])
        sizes = sorted({1, min(8, max_batch, len(samples))})
        batches = [samples.images[:size] for size in sizes]
        timings = [interleaved(models, images, QUICK_ROUNDS, QUICK_BURST, min) for images in batches]
    # The geometric mean of the times over the batch sizes, relative to the shipped plan.
    scores = {name: prod(times[name] / times["shipped"] for times in timings) ** (1 / len(sizes)) for name in models}
    if "source" in scores:  # without the passes, int8 would round between a convolution and its batch norm
        scores["source"] *= 1 + MARGIN
    best = min(scores, key=scores.__getitem__)
    kept = best if scores[best] < 1 - (MEASURED_MARGIN if measured else MARGIN) else "shipped"
    whats = [f"passes at batch {size}" for size in sizes]
    return Tuned(plans[kept], [_comparison(what, times, kept) for what, times in zip(whats, timings, strict=True)])


def _comparison(what: str, seconds: Mapping[str, float], kept: str) -> Comparison:
    return {"what": what, "milliseconds": {name: round(1e3 * each, 3) for name, each in seconds.items()}, "kept": kept}


def _open(path: Path, target: PassTarget) -> Predictor:
    return OnnxModel(path) if target == "onnxruntime-cpu" else OpenVinoModel(path)


def tune_passes(source: Path, target: PassTarget, samples: Samples, report: Callable[[str], None]) -> Tuned:
    """Time candidate graphs on this machine, with one image, and return the fastest plan.

    Begins with the plan shipped for the target, tries every form of one stage after the other, and at the end compares
    with the graph without passes.

    Args:
        source: the ONNX file.
        target: runtime of the result.
        samples: gives the image.
        report: is called with one line for each comparison.

    Raises:
        ConfigError: the target does not run on this machine.
    """
    if target == "tensorrt":
        expected = "a target that runs on this machine"
        raise ConfigError("--tune", expected=expected, found=target, hint="leave --tune out")
    comparisons: list[Comparison] = []

    def opened(plan: PassPlan) -> Predictor:
        with tempfile.TemporaryDirectory(prefix="tune-", dir=source.parent) as folder:
            path = Path(folder) / "candidate.onnx"
            OptimisedOnnx(target, plan).run(source, path, samples)
            return _open(path, target)

    def fastest(what: str, plans: Mapping[str, PassPlan], best: PassPlan) -> PassPlan:
        """Return the fastest plan; `best`, which is one of them, unless another one is clearly faster."""
        models = {name: opened(plan) for name, plan in plans.items()}
        seconds = interleaved(models, samples.images[:1], ROUNDS, BURST)
        kept = next(name for name, plan in plans.items() if plan == best)
        winner = min(seconds, key=seconds.__getitem__)
        if seconds[winner] < seconds[kept] * (1 - GAIN):
            kept = winner
        comparison = _comparison(what, seconds, kept)
        comparisons.append(comparison)
        timed = ", ".join(f"{name} {ms:g} ms" for name, ms in comparison["milliseconds"].items())
        report(f"{what}: {kept} kept; {timed}")
        return plans[kept]

    best = SHIPPED[target]
    for stage in stages(graph.load(source)):
        best = fastest(stage, _forms_of(stage, best), best)
    best = fastest("whole graph", {"tuned": best, "shipped": SHIPPED[target], "as-is": PassPlan()}, best)
    return Tuned(best, comparisons)


def _forms_of(stage: str, best: PassPlan) -> dict[str, PassPlan]:
    """Return a plan for every form of one stage; the form that `best` has is `best` itself."""
    now = best.stages.get(stage, best.form)
    return {form: best if form == now else replace(best, stages={**best.stages, stage: form}) for form in FORMS}
