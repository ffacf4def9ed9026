"""Benchmark targets: checkpoints, ONNX sessions, engines and servers."""
