"""From a run folder, or any classifier in ONNX, to a model file that answers as its source does, with its card."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shrinkserve.artifact import Card, CardDetails, read_card, recorded_path, sha256_file, utc_now, versions
from shrinkserve.config import ServingConfig, parse_recipe
from shrinkserve.errors import ArtifactError
from shrinkserve.exporting.check import check_file, check_probabilities
from shrinkserve.exporting.foreign import AdaptedOnnx, ForeignModel, check_interface
from shrinkserve.exporting.optimise import SHIPPED, OptimisedOnnx, PassPlan, PassTarget
from shrinkserve.exporting.parity import answer_all
from shrinkserve.exporting.samples import Samples, load_samples
from shrinkserve.exporting.steps import CHECKPOINT, ONNX, Product, Step, StepState, run_steps
from shrinkserve.exporting.to_onnx import OnnxFromCheckpoint
from shrinkserve.exporting.tune import tune_passes
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.checkpoint import Checkpoint, Weights
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.predictor import Predictor
from shrinkserve.text import check_class_names

MODEL = "model.onnx"
PACKAGES = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True)
class ExportOptions:
    """What an export is asked for.

    Attributes:
        data_root: where the validation images are; None for the synthetic ones.
        target: what the file will run in, which decides its graph passes.
        tuned: find the passes by timing on this machine, and not the ones shipped for the target.
        max_batch: the largest batch that is checked.
        report: gets a line now and then.
    """

    data_root: Path | None = None
    target: PassTarget = "onnxruntime-cpu"
    tuned: bool = False
    max_batch: int = 32
    report: Callable[[str], None] = lambda _: None


def export_onnx(run: Path, folder: Path, options: ExportOptions = ExportOptions(), *, weights: Weights = "ema") -> Card:
    """Export a run's network and check it against the checkpoint.

    Args:
        run: what `train` wrote.
        folder: an existing folder that gets `model.onnx` and `card.json`.
        options: see `Options`.
        weights: which of the run's weights.

    Returns:
        The card, kind ``"onnx"``.

    Raises:
        ArtifactError: no run there, or a damaged one.
        ParityError: a step whose artifact does not answer as the checkpoint does; nothing is written.
    """
    source = read_card(run, "checkpoint")
    tensors = run / f"{weights}.safetensors"
    checkpoint = Checkpoint(run, weights)
    card = Card(
        kind="onnx",
        name=source.name,
        weights=weights,
        parents={recorded_path(tensors): sha256_file(tensors)},
        preprocess=source.preprocess,
        classes=source.classes,
    )
    start = Product(run, CHECKPOINT)
    return _export(start, checkpoint, OnnxFromCheckpoint(weights), card, folder, options)


def export_foreign(
    path: Path, preprocess: Preprocess, classes: Sequence[str], folder: Path, options: ExportOptions, *, name: str
) -> Card:
    """Give any image classifier the project's interface, and check it against itself as it came.

    Args:
        path: an ONNX file: float32 [N, 3, S, S], normalised -> logits or probabilities float32 [N, classes].
        preprocess: what happens to an image before it.
        classes: names in the order of the logits.
        folder: an existing folder that gets `model.onnx` and `card.json`.
        options: see `Options`.
        name: the model's name.

    Returns:
        The card, kind ``"onnx"``.

    Raises:
        ArtifactError: not such a file.
        ParityError: a step whose artifact answers otherwise; nothing is written.
    """
    check_interface(path, preprocess, classes)
    card = Card(
        kind="onnx",
        name=name,
        weights="as given",
        parents={recorded_path(path): sha256_file(path)},
        preprocess=preprocess.to_dict(),
        classes=list(classes),
    )
    reference = ForeignModel(path, preprocess, classes)
    return _export(Product(path, ONNX), reference, AdaptedOnnx(preprocess), card, folder, options)


def serving_options(run: Path, max_batch: int) -> ServingConfig:
    """How the run's recipe wants to be served, with batches up to `max_batch`."""
    recipe = read_card(run, "checkpoint", verify=False).recipe
    serving = parse_recipe(recipe, str(run)).serving if recipe else ServingConfig()
    return replace(serving, max_batch_size=max_batch)


def _export(
    start: Product, reference: Predictor, first: Step, card: Card, folder: Path, options: ExportOptions
) -> Card:
    """Take `start` through `first` and the graph passes, check the file, write it and the completed card."""
    check_class_names(card.classes, ArtifactError)
    samples = load_samples(options.data_root, Preprocess.from_dict(card.preprocess), card.classes)

    def opener(path: Path, state: StepState) -> Predictor:  # noqa: ARG001
        return reference if path == start.path else OnnxModel(path)

    with tempfile.TemporaryDirectory(prefix="shrinkserve-export-") as name:
        scratch = Path(name)
        plain = run_steps([first], start, scratch, samples, opener=opener, max_batch=options.max_batch)
        plan, comparisons = _plan(plain.path, samples, options)
        passes = [OptimisedOnnx(options.target, plan)]
        product = run_steps(passes, plain, scratch, samples, opener=opener, max_batch=options.max_batch)
        model = OnnxModel(product.path)
        checks = [record["parity"] for record in product.records]
        checks += [check_file(product.path, "passes"), check_probabilities(model, samples, "passes")]
        shutil.copyfile(product.path, folder / MODEL)
    details: CardDetails = {
        "precision": product.state.precision,
        "target": options.target,
        "max_batch": options.max_batch,
        "steps": list(product.records),
        "tuning": comparisons,
        # Resolved: engines may be added from another folder, and are judged by the same images.
        "data": None if options.data_root is None else recorded_path(options.data_root.resolve()),
    }
    finished = replace(
        card,
        weights_sha256=product.records[0].get("weights_sha256") or next(iter(card.parents.values())),
        files={MODEL: sha256_file(folder / MODEL)},
        metrics=_metrics(model, samples, options.max_batch),
        checks=checks,
        details=details,
        created=utc_now(),
        versions=versions(PACKAGES),
    )
    finished.write(folder)
    return finished


def _plan(path: Path, samples: Samples, options: ExportOptions) -> tuple[PassPlan, list[dict[str, Any]]]:
    if not options.tuned:
        return SHIPPED[options.target], []
    found = tune_passes(path, options.target, samples, report=options.report)
    return found.plan, found.comparisons


def _metrics(model: Predictor, samples: Samples, batch: int) -> dict[str, Any]:
    """Top-1 of the shipped file on the images that it was checked with, where these have labels."""
    if samples.labels is None:
        return {}
    answers = answer_all(model, samples.images, batch).argmax(axis=1)
    return {"top1": float(np.mean(answers == samples.labels)), "images": len(samples), "source": samples.source}
