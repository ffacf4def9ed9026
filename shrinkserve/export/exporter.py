"""From a run folder to a model file that answers as the run does, with its card."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shrinkserve.artifact import Card, read_card, sha256_file, utc_now, versions
from shrinkserve.errors import ArtifactError
from shrinkserve.export.check import check_file, check_probabilities
from shrinkserve.export.parity import answer_all
from shrinkserve.export.samples import Samples, load_samples
from shrinkserve.export.steps import CHECKPOINT, Product, State, Step, run_steps
from shrinkserve.export.to_onnx import OnnxFromCheckpoint
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.answerer import Answerer
from shrinkserve.runtimes.checkpoint import Checkpoint, Weights
from shrinkserve.runtimes.onnx import OnnxModel

MODEL = "model.onnx"
PACKAGES = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")


def export_onnx(
    run: Path, folder: Path, data_root: Path | None = None, *, weights: Weights = "ema", max_batch: int = 32
) -> Card:
    """Export a run's network and check it against the checkpoint.

    Args:
        run: what `train` wrote.
        folder: an existing folder that gets `model.onnx` and `card.json`.
        data_root: where the validation images are; None for the synthetic ones.
        weights: which of the run's weights.
        max_batch: the largest batch that is checked.

    Returns:
        The card, kind ``"onnx"``.

    Raises:
        ArtifactError: no run there, or a damaged one.
        ParityError: a step whose artifact does not answer as the checkpoint does; nothing is written.
    """
    source = read_card(run, "checkpoint")
    preprocess = Preprocess.from_dict(source.preprocess)
    samples = load_samples(data_root, preprocess)
    steps: Sequence[Step] = [OnnxFromCheckpoint(weights)]
    with tempfile.TemporaryDirectory(prefix="shrinkserve-export-") as scratch:
        start = Product(run, CHECKPOINT)
        product = run_steps(steps, start, Path(scratch), samples, opener=_Opener(weights), max_batch=max_batch)
        checks = [record["parity"] for record in product.records]
        checks += [check_file(product.path, steps[-1].name)]
        model = OnnxModel(product.path)
        checks += [check_probabilities(model, samples, steps[-1].name)]
        shutil.copyfile(product.path, folder / MODEL)
    card = Card(
        kind="onnx",
        name=source.name,
        weights=weights,
        weights_sha256=product.records[0]["weights_sha256"],
        files={MODEL: sha256_file(folder / MODEL)},
        parents={str(run / f"{weights}.safetensors"): sha256_file(run / f"{weights}.safetensors")},
        preprocess=source.preprocess,
        classes=source.classes,
        metrics=_metrics(model, samples, max_batch),
        checks=checks,
        details={"precision": product.state.precision, "max_batch": max_batch, "steps": list(product.records)},
        created=utc_now(),
        versions=versions(PACKAGES),
    )
    card.write(folder)
    return card


class _Opener:
    """Loads what the steps of one export make."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def __call__(self, path: Path, state: State) -> Answerer | None:
        if state.format == "checkpoint":
            return Checkpoint(path, self.weights)
        if state.format == "onnx":
            return OnnxModel(path)
        raise ArtifactError(f"{path}: nothing opens it here", found=str(state))


def _metrics(model: Answerer, samples: Samples, batch: int) -> dict[str, Any]:
    """Top-1 of the shipped file on the images that it was checked with, where these have labels."""
    if samples.labels is None:
        return {}
    answers = answer_all(model, samples.images, batch).argmax(axis=1)
    return {"top1": float(np.mean(answers == samples.labels)), "images": len(samples), "source": samples.source}
