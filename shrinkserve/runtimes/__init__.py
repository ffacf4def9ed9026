"""Anything that answers: a checkpoint in torch, an ONNX session, an engine, behind one protocol."""

from shrinkserve.runtimes.opening import open_artifact, open_engine
from shrinkserve.runtimes.predictor import Predictor

__all__ = ["Predictor", "open_artifact", "open_engine"]
