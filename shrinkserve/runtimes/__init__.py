"""Anything that answers: a checkpoint in torch, an ONNX session, an engine, behind one protocol."""
