"""Runtimes behind one protocol, `Predictor`: torch, ONNX Runtime, OpenVINO and TensorRT."""

from shrinkserve.runtimes.opening import open_artifact, open_engine
from shrinkserve.runtimes.predictor import Predictor

__all__ = ["Predictor", "open_artifact", "open_engine"]
