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
from shrinkserve.exporting.steps import CHECKPOINT, Product
from shrinkserve.exporting.to_onnx import OnnxFromCheckpoint
from shrinkserve.runtimes.checkpoint import Checkpoint
from shrinkserve.text import check_class_names


def export_run(checkpoint: Checkpoint, folder: Path, options: ExportOptions) -> Exported:
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
    measured = not is_code_data(checkpoint.card.spec)
    conversion = Conversion(start, OnnxFromCheckpoint(checkpoint), checkpoint, measured=measured)
    made = export_checked(conversion, card, samples, folder, options)
    recipe = checkpoint.card.recipe
    serving = parse_recipe(recipe, str(run)).serving if recipe else ServingConfig()
    return replace(made, serving=replace(serving, max_batch_size=options.max_batch))
