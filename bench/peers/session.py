"""The one ONNX Runtime session that every peer uses, so that only the servers differ."""

from __future__ import annotations

import os

import onnxruntime as ort


def session() -> ort.InferenceSession:
    """Open the file MODEL with THREADS threads that wait as ours do, which needs ONNX Runtime 1.26.

    Earlier versions spin during a run, for any time, and not between runs.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(os.environ["THREADS"])
    options.add_session_config_entry("session.intra_op.spin_duration_us", "30")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])


def shapes() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of one image and of its logits."""
    opened = session()
    logits = next(output for output in opened.get_outputs() if output.name == "logits")
    return tuple(opened.get_inputs()[0].shape[1:]), tuple(logits.shape[1:])
