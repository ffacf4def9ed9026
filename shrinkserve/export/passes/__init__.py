"""Rewrites of ONNX graphs, one a file, each exact in real arithmetic: (model) -> (model, modified)."""
