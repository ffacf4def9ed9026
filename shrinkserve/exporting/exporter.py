"""The part that all exports share: steps to one checked ONNX file with its card."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shrinkserve.artifact import MODEL, Card, recorded_path, utc_now, versions
from shrinkserve.config import ServingConfig
from shrinkserve.exporting import graph
from shrinkserve.exporting.calibrate import ScaledProbabilities, fit_temperature
from shrinkserve.exporting.check import check_file, check_probabilities, check_unoptimised
from shrinkserve.exporting.optimise import OptimisedOnnx, PassTarget
from shrinkserve.exporting.parity import TOLERANCES, predict_all
from shrinkserve.exporting.records import CheckRecord
from shrinkserve.exporting.samples import Samples
from shrinkserve.exporting.steps import Product, Step, StepState, run_steps
from shrinkserve.exporting.tune import Tuned, choose_plan, tune_passes
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.predictor import Predictor

PACKAGES = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export.

    Attributes:
        data_root: dataset whose validation images check the result; None for synthetic images.
        target: runtime of the file, which decides the graph passes.
        tuned: find the passes by timing every form of every stage on this machine.
        max_batch: the largest batch that is checked.
        report: is called with a line of progress now and then.
        calibrate: fit a temperature for the probabilities on the validation images.
    """

    data_root: Path | None = None
    target: PassTarget = "onnxruntime-cpu"
    tuned: bool = False
    max_batch: int = 32
    report: Callable[[str], None] = lambda _: None
    calibrate: bool = False


@dataclass(frozen=True)
class Exported:
    """A checked ONNX file.

    Attributes:
        card: its card, in the same folder.
        model: the file.
        graph: the same file as the result of the last step.
        plain: the same network before the graph passes; engines for other targets are made from it.
        samples: the images of the checks.
        serving: serving options of the run's recipe; None without a run.
    """

    card: Card
    model: Path
    graph: Product
    plain: Product
    samples: Samples
    serving: ServingConfig | None = None


@dataclass(frozen=True)
class Conversion:
    """The step that makes the ONNX file, and how to compare it with its source.

    Attributes:
        start: the source.
        step: makes the ONNX file.
        reference: predictor that runs the source.
        first_view: returns what to compare of the result of `step`.
        view: returns what to compare of the graphs after it.
        final: further checks of the finished file.
        measured: the shipped graph passes were measured for this network.
    """

    start: Product
    step: Step
    reference: Predictor
    first_view: Callable[[OnnxModel], Predictor] = lambda model: model
    view: Callable[[OnnxModel], Predictor] = lambda model: model
    final: Callable[[Predictor], list[CheckRecord]] = lambda _: []
    measured: bool = False


def export_checked(
    conversion: Conversion, card: Card, samples: Samples, folder: Path, options: ExportOptions
) -> Exported:
    """Convert the source, run the graph passes, check the file, and write it with its card.

    Args:
        conversion: the source and the first step.
        card: of the result, without hashes and checks.
        samples: images of the checks.
        folder: an existing folder that gets `model.onnx`, `card.json` and intermediate files.
        options: see `ExportOptions`.

    Raises:
        ParityError: the outputs of a step differ from those of its source; there is no `model.onnx`.
    """
    view, max_batch = conversion.view, options.max_batch
    plain, temperature = _convert(conversion, card, samples, folder, options)
    tuned = _choose_passes(plain.path, samples, options, measured=conversion.measured)
    passes = OptimisedOnnx(options.target, tuned.plan, plain.state)
    product = run_steps(
        [passes], plain, folder, samples, opener=lambda path, _: view(OnnxModel(path)), max_batch=max_batch
    )
    model = OnnxModel(product.path)
    checks: list[CheckRecord] = [record["parity"] for record in product.records]
    checks += [check_file(product.path), check_probabilities(model, samples, temperature or 1.0)]
    unoptimised, tolerance = OnnxModel(product.path, optimise=False), TOLERANCES[product.state.precision]
    checks += [check_unoptimised(view(unoptimised), view(model), samples, tolerance), *conversion.final(model)]
    shutil.copyfile(product.path, folder / MODEL)
    finished = replace(
        card,
        weights_sha256=product.records[0]["weights_sha256"],
        files={MODEL: product.sha256},
        metrics=_metrics(model, samples, max_batch),
        checks=[{**check} for check in checks],
        details={
            "precision": product.state.precision,
            "target": options.target,
            "max_batch": max_batch,
            **({} if temperature is None else {"temperature": temperature}),
            "steps": [{**record} for record in product.records],
            "tuning": [{**comparison} for comparison in tuned.comparisons],
            # Absolute: engines may be added from another folder, and are checked with the same images.
            "data": None if options.data_root is None else recorded_path(options.data_root.resolve()),
        },
        created=utc_now(),
        versions=versions(PACKAGES),
    )
    finished.write(folder)
    return Exported(finished, folder / MODEL, product, plain, samples)


def _convert(
    conversion: Conversion, card: Card, samples: Samples, folder: Path, options: ExportOptions
) -> tuple[Product, float | None]:
    """Return the graph before the passes, and the temperature of its probabilities."""
    start, max_batch = conversion.start, options.max_batch

    def opener(path: Path, _: StepState) -> Predictor:
        return conversion.reference if path == start.path else conversion.first_view(OnnxModel(path))

    plain = run_steps([conversion.step], start, folder, samples, opener=opener, max_batch=max_batch)
    # Without the nodes behind its logits, e.g. a cast of the probabilities to float16, a graph may be in float32.
    if start.state.format == "onnx":
        plain = replace(plain, state=StepState("onnx", graph.precision(graph.load(plain.path))))
    if not options.calibrate:
        return plain, None
    # Before the passes: engines that are made from this graph need the temperature, too.
    preprocess = Preprocess.from_dict(card.preprocess)
    temperature = fit_temperature(OnnxModel(plain.path), options.data_root, preprocess, list(card.classes))
    step = ScaledProbabilities(temperature, plain.state)
    return run_steps([step], plain, folder, samples, max_batch=max_batch), temperature


def _choose_passes(source: Path, samples: Samples, options: ExportOptions, *, measured: bool) -> Tuned:
    if options.tuned:
        return tune_passes(source, options.target, samples, options.report)
    return choose_plan(source, options.target, samples, options.max_batch, measured=measured)


def _metrics(model: Predictor, samples: Samples, batch: int) -> dict[str, float | int | str]:
    """Return top-1 of the file on the samples, if these have labels."""
    if samples.labels is None:
        return {}
    predicted = predict_all(model, samples.images, batch).argmax(axis=1)
    return {"top1": float(np.mean(predicted == samples.labels)), "images": len(samples), "source": samples.source}
