"""What must hold of every ONNX file that is shipped, whatever its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from shrinkserve.errors import ParityError
from shrinkserve.exporting.samples import Samples
from shrinkserve.runtimes.onnx import OnnxModel

PROBABILITY = 1e-5
"""How far a probability may be from the softmax of its logits, which differs by the order of a sum."""


def check_file(path: Path, step: str) -> dict[str, Any]:
    """The ONNX checker and strict shape inference.

    Raises:
        ParityError: names the step and what the checker found.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    external = [tensor.name for tensor in model.graph.initializer if tensor.external_data]
    if external:
        raise ParityError(f"step {step}: weights outside the file", expected="none", found=external[0])
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise ParityError(f"step {step}: not a valid graph ({exc})", hint="report the network that led to it") from exc
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    return {"check": "onnx", "opset": opsets, "ir_version": model.ir_version, "passed": True}


def check_probabilities(model: OnnxModel, samples: Samples, step: str) -> dict[str, Any]:
    """That `probabilities` is the softmax of `logits`.

    Raises:
        ParityError: names the step and by how much they differ.
    """
    outputs = model.infer(samples.images[:8])
    logits = outputs["logits"].astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    worst = float(np.abs(outputs["probabilities"] - expected).max())
    if not worst <= PROBABILITY:
        what = f"step {step}: probabilities are not the softmax of the logits"
        raise ParityError(what, expected=f"within {PROBABILITY}", found=f"{worst:.3g}")
    return {"check": "probabilities", "worst_difference": worst, "tolerance": PROBABILITY, "passed": True}
