"""The one ONNX Runtime session that every peer uses, so that only the servers differ."""

from __future__ import annotations

import os

import onnxruntime as ort


def session() -> ort.InferenceSession:
    """Open the file MODEL with THREADS threads that do not spin while they wait."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(os.environ["THREADS"])
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
