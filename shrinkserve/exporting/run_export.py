"""Export a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from shrinkserve.arch.code import is_code_data
from shrinkserve.artifact import CARD, Card, recorded_path, sha256_file
from shrinkserve.config import ServingConfig, parse_recipe
from shrinkserve.errors import ArtifactError
from shrinkserve.exporting.exporter import Conversion, Exported, ExportOptions, export_checked
from shrinkserve.exporting.samples import load_samples
from shrinkserve.exporting.steps import CHECKPOINT, Product, StepState
from shrinkserve.exporting.to_onnx import OnnxFromCheckpoint
from shrinkserve.runtimes.checkpoint import Checkpoint
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.predictor import Predictor
from shrinkserve.text import check_class_names


def export_onnx(checkpoint: Checkpoint, folder: Path, options: ExportOptions) -> Exported:
    """Export a run's network and check it against the checkpoint.

    Args:
        checkpoint: the run.
        folder: an existing folder that gets `model.onnx`, `card.json` and intermediate files.
        options: see `ExportOptions`.

    Raises:
        ParityError: the outputs of a step differ from those of its source; there is no `model.onnx`.
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
    conversion = Conversion(start, OnnxFromCheckpoint(checkpoint), opener, measured=measured)
    return export_checked(conversion, card, samples, folder, options)


def serving_options(checkpoint: Checkpoint, max_batch: int) -> ServingConfig:
    """Return the serving options of the run's recipe, with batches up to `max_batch`."""
    recipe = checkpoint.card.recipe
    serving = parse_recipe(recipe, str(checkpoint.path.parent)).serving if recipe else ServingConfig()
    return replace(serving, max_batch_size=max_batch)
