"""Anything that answers: a checkpoint in torch, an ONNX session, an engine, behind one protocol."""

from shrinkserve.runtimes.opening import open_artifact, open_engine
from shrinkserve.runtimes.predictor import Answerer

__all__ = ["Answerer", "open_artifact", "open_engine"]
