"""Export a run, or a classifier of another tool, to one checked ONNX file with its card."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from shrinkserve.arch.code import is_code_data
from shrinkserve.artifact import (
    CARD,
    MODEL,
    Card,
    open_recorded,
    read_card,
    recorded_path,
    sha256_file,
    utc_now,
    versions,
)
from shrinkserve.config import ServingConfig, parse_recipe
from shrinkserve.containers import NEWEST_OPSET
from shrinkserve.errors import ArtifactError
from shrinkserve.exporting import graph
from shrinkserve.exporting.calibrate import ScaledProbabilities, fit_temperature, scale_probabilities
from shrinkserve.exporting.check import check_file, check_probabilities, check_unoptimised
from shrinkserve.exporting.foreign.adapt import AdaptedOnnx
from shrinkserve.exporting.foreign.reference import LOWEST, ForeignModel, LogProbabilities, check_consistent
from shrinkserve.exporting.foreign.signature import read_signature
from shrinkserve.exporting.optimise import OptimisedOnnx, PassPlan, PassTarget
from shrinkserve.exporting.parity import TOLERANCES, predict_all
from shrinkserve.exporting.records import CheckRecord, Comparison
from shrinkserve.exporting.samples import Samples, load_samples, synthetic
from shrinkserve.exporting.steps import CHECKPOINT, ONNX, Opener, Product, Step, StepState, run_steps
from shrinkserve.exporting.to_onnx import OnnxFromCheckpoint
from shrinkserve.exporting.tune import choose_plan, tune_passes
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.checkpoint import Checkpoint
from shrinkserve.runtimes.external_data import check_external_data
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.predictor import Predictor
from shrinkserve.text import check_class_names

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
        graph: the same file in the scratch folder.
        plain: the same network before the graph passes, which engines for other targets are made from.
        samples: the images of the checks.
    """

    card: Card
    model: Path
    graph: Product
    plain: Product
    samples: Samples


def export_onnx(
    checkpoint: Checkpoint, folder: Path, scratch: Path, options: ExportOptions = ExportOptions()
) -> Exported:
    """Export a run's network and check it against the checkpoint.

    Args:
        checkpoint: the run.
        folder: an existing folder that gets `model.onnx` and `card.json`.
        scratch: an existing folder for intermediate files.
        options: see `ExportOptions`.

    Raises:
        ParityError: the outputs of a step differ from those of its source; nothing is written.
    """
    card = Card(
        kind="onnx",
        name=checkpoint.name,
        weights=checkpoint.weights,
        parents={recorded_path(checkpoint.path): checkpoint.file_sha256},
        preprocess=checkpoint.card.preprocess,
        classes=checkpoint.classes,
    )
    check_class_names(card.classes, ArtifactError)
    samples = load_samples(options.data_root, checkpoint.preprocess, card.classes)
    run = checkpoint.path.parent
    start = Product(run, CHECKPOINT, sha256_file(run / CARD))

    def opener(path: Path, state: StepState) -> Predictor:
        return checkpoint if state.format == "checkpoint" else OnnxModel(path)

    measured = not is_code_data(checkpoint.card.spec)
    step = OnnxFromCheckpoint(checkpoint)
    return export_checked(start, step, opener, card, samples, folder, scratch, options, measured=measured)


def export_foreign(
    path: Path,
    preprocess: Preprocess,
    classes: Sequence[str],
    folder: Path,
    scratch: Path,
    options: ExportOptions,
    *,
    name: str,
) -> Exported:
    """Give an image classifier the project's interface, and check it against the unchanged file.

    Args:
        path: an ONNX file: images [N, 3, S, S] or [N, S, S, 3] -> logits or probabilities of [N, classes] numbers.
        preprocess: its preprocessing.
        classes: class names in the order of the logits.
        folder: an existing folder that gets `model.onnx` and `card.json`.
        scratch: an existing folder for intermediate files.
        options: see `ExportOptions`.
        name: the model's name.

    Raises:
        ArtifactError: the file does not fit, or contradicts itself.
        ParityError: the outputs of a step differ from those of the file; nothing is written.
    """
    check_class_names(list(classes), ArtifactError)
    model = graph.load(path)
    signature = read_signature(model, path, preprocess, classes)
    samples = load_samples(options.data_root, preprocess, classes)
    reference = ForeignModel(path, signature, preprocess, classes, samples)
    state = StepState("onnx", graph.precision(model))
    dynamic = "DynamicQuantizeLinear" in graph.operators(model)  # its ranges depend on the other images of the batch
    tolerance = TOLERANCES["float32" if dynamic else state.precision]
    check_consistent(reference, samples, tolerance, options.max_batch)
    _warn(model, signature.normalised, options.report)
    files = [path, *check_external_data(path)]
    card = Card(
        kind="onnx",
        name=name,
        weights="as given",
        parents={recorded_path(file): sha256_file(file) for file in files},
        preprocess=preprocess.to_dict(),
        classes=list(classes),
    )

    def opener(path: Path, state: StepState) -> Predictor:  # noqa: ARG001
        if path == start.path:
            return reference
        found = OnnxModel(path)
        return LogProbabilities(found, reference.lowest) if reference.meaning == "probabilities" else found

    def view(model: OnnxModel) -> Predictor:
        return model if reference.lowest == LOWEST else LogProbabilities(model, reference.lowest)

    start, first = Product(path, state, card.parents[recorded_path(path)]), AdaptedOnnx(reference, state)
    return export_checked(start, first, opener, card, samples, folder, scratch, options, view=view)


def export_checked(  # noqa: PLR0913, PLR0917 - what all exports share
    start: Product,
    first: Step,
    opener: Opener,
    card: Card,
    samples: Samples,
    folder: Path,
    scratch: Path,
    options: ExportOptions,
    final: Callable[[Predictor], list[CheckRecord]] = lambda _: [],
    *,
    view: Callable[[OnnxModel], Predictor] = lambda model: model,
    measured: bool = False,
) -> Exported:
    """Run `first` and the graph passes, check the file, and write it with its card.

    Args:
        start: the source.
        first: step that makes the ONNX file.
        opener: opens the source and the result of `first`.
        card: of the result, without hashes and checks.
        samples: images of the checks.
        folder: an existing folder that gets `model.onnx` and `card.json`.
        scratch: an existing folder for intermediate files.
        options: see `ExportOptions`.
        final: further checks of the file.
        view: gives what to compare of a graph after `first`.
        measured: the shipped graph passes were measured for this network.

    Raises:
        ParityError: the outputs of a step differ from those of its source; nothing is written.
    """
    plain = run_steps([first], start, scratch, samples, opener=opener, max_batch=options.max_batch)
    if start.state.format == "onnx":  # e.g. without the rounded probabilities behind the logits
        plain = replace(plain, state=StepState("onnx", graph.precision(graph.load(plain.path))))
    temperature = None
    if options.calibrate:
        preprocess = Preprocess.from_dict(card.preprocess)
        temperature = fit_temperature(OnnxModel(plain.path), options.data_root, preprocess, list(card.classes))
        step = ScaledProbabilities(temperature, plain.state)
        plain = run_steps([step], plain, scratch, samples, opener=_open_onnx, max_batch=options.max_batch)
    product, comparisons = _optimised(plain, scratch, samples, options, view, measured=measured)
    model = OnnxModel(product.path)
    tolerance = TOLERANCES[product.state.precision]
    checks: list[CheckRecord] = [record["parity"] for record in product.records]
    checks += [check_file(product.path, "passes"), check_probabilities(model, samples, "passes", temperature or 1.0)]
    unoptimised = OnnxModel(product.path, optimise=False)
    checks += [check_unoptimised(view(unoptimised), view(model), samples, tolerance), *final(model)]
    shutil.copyfile(product.path, folder / MODEL)
    finished = replace(
        card,
        weights_sha256=product.records[0]["weights_sha256"],
        files={MODEL: product.sha256},
        metrics=_metrics(model, samples, options.max_batch),
        checks=[{**check} for check in checks],
        details={
            "precision": product.state.precision,
            "target": options.target,
            "max_batch": options.max_batch,
            **({} if temperature is None else {"temperature": temperature}),
            "steps": [{**record} for record in product.records],
            "tuning": [{**comparison} for comparison in comparisons],
            # Absolute: engines may be added from another folder, and are checked with the same images.
            "data": None if options.data_root is None else recorded_path(options.data_root.resolve()),
        },
        created=utc_now(),
        versions=versions(PACKAGES),
    )
    finished.write(folder)
    return Exported(finished, folder / MODEL, product, plain, samples)


def _optimised(
    plain: Product,
    scratch: Path,
    samples: Samples,
    options: ExportOptions,
    view: Callable[[OnnxModel], Predictor],
    *,
    measured: bool,
) -> tuple[Product, list[Comparison]]:
    """Return the result of the fastest plan of graph passes, and the timings that chose it."""
    plan: PassPlan | None
    if options.tuned:
        tuned = tune_passes(plain.path, options.target, samples, report=options.report)
        plan, comparisons = tuned.plan, tuned.comparisons
    else:
        plan, comparisons = choose_plan(plain.path, options.target, samples, options.max_batch, measured=measured)
    step = OptimisedOnnx(options.target, plan, plain.state)
    product = run_steps(
        [step], plain, scratch, samples, opener=lambda path, _: view(OnnxModel(path)), max_batch=options.max_batch
    )
    return product, comparisons


def _open_onnx(path: Path, state: StepState) -> Predictor:  # noqa: ARG001
    return OnnxModel(path)


def serving_options(checkpoint: Checkpoint, max_batch: int) -> ServingConfig:
    """Return the serving options of the run's recipe, with batches up to `max_batch`."""
    recipe = checkpoint.card.recipe
    serving = parse_recipe(recipe, str(checkpoint.path.parent)).serving if recipe else ServingConfig()
    return replace(serving, max_batch_size=max_batch)


def export_plain(card: Card, folder: Path) -> Product | None:
    """Export the run of a version again, without graph passes.

    The result is None if the run is no longer there, or if its network is Python code: a card must not run code.

    Args:
        card: of the version.
        folder: gets the file.
    """
    source = next((open_recorded(path) for path in card.parents), None)
    if source is None or source.suffix != ".safetensors" or not source.is_file():
        return None
    run = source.parent
    if not (run / CARD).is_file() or is_code_data(read_card(run, verify=False).spec):  # or weights without a run
        return None
    checkpoint = Checkpoint(run, source.stem)
    step, target = OnnxFromCheckpoint(checkpoint), folder / "plain.onnx"
    if step.run(source, target, synthetic(checkpoint.size, 1))["weights_sha256"] != card.weights_sha256:
        return None
    if temperature := card.details.get("temperature"):
        model = graph.load(target)
        scale_probabilities(model, temperature)
        graph.save(model, target)
    return Product(target, ONNX, sha256_file(target))


def _metrics(model: Predictor, samples: Samples, batch: int) -> dict[str, float | int | str]:
    """Return top-1 of the file on the samples, if these have labels."""
    if samples.labels is None:
        return {}
    predicted = predict_all(model, samples.images, batch).argmax(axis=1)
    return {"top1": float(np.mean(predicted == samples.labels)), "images": len(samples), "source": samples.source}


def _warn(model: ir.Model, normalised: bool, report: Callable[[str], None]) -> None:
    """Report what an export cannot repair."""
    if not normalised:
        report("the file takes uint8 pixels and normalises them itself: mean and std are not applied")
    if (opset := model.opset_imports.get("", 0)) > NEWEST_OPSET:
        report(f"converted from opset {opset} to {NEWEST_OPSET}, the newest that NVIDIA's container loads")
    if "com.microsoft.nchwc" in {node.domain for node in model.graph}:
        report("warning: the file was saved by ONNX Runtime for this kind of CPU; export the network without that")
