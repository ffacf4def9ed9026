"""Export an ONNX classifier of another tool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx_ir as ir

from shrinkserve.artifact import Card, recorded_path, sha256_file
from shrinkserve.containers import NEWEST_OPSET
from shrinkserve.errors import ArtifactError
from shrinkserve.exporting import graph
from shrinkserve.exporting.exporter import Conversion, Exported, ExportOptions, export_checked
from shrinkserve.exporting.foreign.adapt import AdaptedOnnx
from shrinkserve.exporting.foreign.reference import LOWEST, ForeignModel, LogProbabilities, check_consistent
from shrinkserve.exporting.foreign.signature import read_signature
from shrinkserve.exporting.parity import TOLERANCES
from shrinkserve.exporting.samples import load_samples
from shrinkserve.exporting.steps import Product, StepState
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.external_data import check_external_data
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.predictor import Predictor
from shrinkserve.text import check_class_names


def export_foreign(
    path: Path, preprocess: Preprocess, classes: Sequence[str], folder: Path, options: ExportOptions
) -> Exported:
    """Give an image classifier the project's interface, and check it against the unchanged file.

    Args:
        path: an ONNX file: images [N, 3, S, S] or [N, S, S, 3] -> logits or probabilities of [N, classes] numbers.
        preprocess: its preprocessing.
        classes: class names in the order of the logits.
        folder: an existing folder that gets `model.onnx`, `card.json` and intermediate files.
        options: see `ExportOptions`.

    Raises:
        ArtifactError: the file does not fit, or contradicts itself.
        ParityError: the outputs of a step differ from those of the file; there is no `model.onnx`.
    """
    check_class_names(list(classes), ArtifactError)
    model = graph.load(path)
    signature = read_signature(model, path, preprocess, classes)
    samples = load_samples(options.data_root, preprocess, classes)
    reference = ForeignModel(path, signature, preprocess, classes, samples)
    state = StepState("onnx", graph.precision(model))
    # The ranges of dynamic quantisation depend on the other images of the batch: the tolerance of int8 would hide it.
    dynamic = "DynamicQuantizeLinear" in graph.operators(model)
    check_consistent(reference, samples, TOLERANCES["float32" if dynamic else state.precision], options.max_batch)
    _warn(model, signature.normalised, options.report)
    files = [path, *check_external_data(path)]
    card = Card(
        kind="onnx",
        name=path.stem,
        weights="as given",
        parents={recorded_path(file): sha256_file(file) for file in files},
        preprocess=preprocess.to_dict(),
        classes=list(classes),
    )

    # Both run after the step that adapts the file, which sets `lowest`.
    def first_view(model: OnnxModel) -> Predictor:
        return LogProbabilities(model, reference.lowest) if reference.meaning == "probabilities" else model

    def view(model: OnnxModel) -> Predictor:
        return model if reference.lowest == LOWEST else LogProbabilities(model, reference.lowest)

    start = Product(path, state, card.parents[recorded_path(path)])
    conversion = Conversion(start, AdaptedOnnx(reference, state), reference, first_view, view)
    return export_checked(conversion, card, samples, folder, options)


def _warn(model: ir.Model, normalised: bool, report: Callable[[str], None]) -> None:
    """Report what an export cannot repair."""
    if not normalised:
        report("the file takes uint8 pixels and normalises them itself: mean and std are not applied")
    if (opset := model.opset_imports.get("", 0)) > NEWEST_OPSET:
        report(f"converted from opset {opset} to {NEWEST_OPSET}, the newest that NVIDIA's container loads")
    if "com.microsoft.nchwc" in {node.domain for node in model.graph}:
        report("warning: the file was saved by ONNX Runtime for this kind of CPU; export the network without that")
