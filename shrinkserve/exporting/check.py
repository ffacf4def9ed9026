"""Checks of every exported ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shrinkserve.errors import ParityError
from shrinkserve.exporting import parity
from shrinkserve.exporting.records import DifferenceRecord, FileRecord
from shrinkserve.exporting.samples import Samples
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.predictor import Predictor

PROBABILITY = 1e-5
"""Largest difference between a probability and the softmax of the logits; sums in another order differ by less."""
FEW = 8
"""Images of these checks."""


def check_file(path: Path) -> FileRecord:
    """Run the ONNX checker and strict shape inference.

    Raises:
        ParityError: names the problem.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    external = [tensor.name for tensor in model.graph.initializer if tensor.external_data]
    if external:
        raise ParityError(f"{path}: weights outside the file", expected="none", found=external[0])
    if (reason := why_invalid(path)) is not None:
        raise ParityError(f"{path}: not a valid graph ({reason})", hint="report this network")
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    return {"check": "onnx", "opset": opsets, "ir_version": model.ir_version, "passed": True}


def why_invalid(path: Path) -> str | None:
    """Return why the ONNX checker or strict shape inference rejects a file; None for a valid one."""
    import onnx

    try:
        onnx.checker.check_model(path, full_check=True)
        model = onnx.load(path, load_external_data=False)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as exc:
        return " ".join(str(exc).replace(str(path), path.name).split())[:300]
    return None


def check_probabilities(model: OnnxModel, samples: Samples, temperature: float = 1.0) -> DifferenceRecord:
    """Check that `probabilities` is the softmax of `logits`, divided by the temperature.

    Raises:
        ParityError: names the difference.
    """
    outputs = model.infer(samples.images[:FEW])
    logits = outputs["logits"].astype(np.float64) / temperature
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    worst = float(np.abs(outputs["probabilities"] - expected).max())
    if not worst <= PROBABILITY:
        what = f"{model.path}: probabilities are not the softmax of the logits"
        raise ParityError(what, expected=f"within {PROBABILITY}", found=f"{worst:.3g}")
    return {"check": "probabilities", "worst_difference": worst, "tolerance": PROBABILITY, "passed": True}


def check_unoptimised(
    plain: Predictor, model: Predictor, samples: Samples, tolerance: parity.Tolerance
) -> DifferenceRecord:
    """Check that a file predicts the same without ONNX Runtime's graph optimisations.

    These may hide an invalid graph: a convolution in a blocked layout does not check its number of channels.

    Args:
        plain: the file without optimisations.
        model: the file with optimisations.
        samples: images.
        tolerance: of the logits.

    Raises:
        ParityError: the predictions differ.
        ArtifactError: the file does not run without optimisations.
    """
    right = plain.predict(samples.images[:FEW])
    worst = parity.difference(right, model.predict(samples.images[:FEW]))
    limit = tolerance.absolute * max(1.0, float(np.abs(right).max()))
    if not worst <= limit:
        what = "the graph predicts otherwise without ONNX Runtime's optimisations"
        raise ParityError(what, expected=f"within {limit:.3g}", found=f"{worst:.3g}", hint="report this network")
    return {"check": "unoptimised", "worst_difference": worst, "tolerance": limit, "passed": True}
