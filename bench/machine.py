"""Measure the peak performance of this machine: matrix products in the libraries that convolutions use.

Reference for profiles: float32 in ONNX Runtime, and float32, bfloat16 and int8 in OpenVINO.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 1024


def peaks(threads: int, rounds: int = 30) -> dict[str, float]:
    """Return 1e9 operations per second, the best of `rounds`; a multiplication and an addition are two operations."""
    float32, int8 = _product(), _quantised_product()
    runs = {
        "ONNX Runtime float32": _onnxruntime(float32, threads),
        "ONNX Runtime int8": _onnxruntime(int8, threads),
        "OpenVINO float32": _openvino(float32, threads, "f32"),
        "OpenVINO bfloat16": _openvino(float32, threads, "bf16"),
        "OpenVINO int8": _openvino(int8, threads, "f32"),
    }
    return {name: 2 * SIZE**3 / _fastest(run, rounds) / 1e9 for name, run in runs.items()}


def _fastest(run: Callable[[], Any], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return min(taken)


def _product() -> onnx.ModelProto:
    weight = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype(np.float32)
    return _model([helper.make_node("MatMul", ["a", "w"], ["y"])], [numpy_helper.from_array(weight, "w")])


def _quantised_product() -> onnx.ModelProto:
    """Return a product with int8 inputs and outputs, as inside a quantised network, without conversions."""
    weight = np.random.default_rng(0).integers(-127, 128, (SIZE, SIZE), dtype=np.int8)
    constants = {
        "w": weight,
        "wide": np.array(8.0, np.float32),
        "scale": np.array(0.05, np.float32),
        "zero8": np.array(0, np.uint8),
        "zero": np.array(0, np.int8),
    }
    pairs = [("QuantizeLinear", "a", "qa"), ("DequantizeLinear", "qa", "da")]
    nodes = [helper.make_node(op, [x, "scale", "zero8"], [y]) for op, x, y in pairs]
    nodes += [
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["dw"]),
        helper.make_node("MatMul", ["da", "dw"], ["p"]),
        helper.make_node("QuantizeLinear", ["p", "wide", "zero8"], ["qp"]),
        helper.make_node("DequantizeLinear", ["qp", "wide", "zero8"], ["y"]),
    ]
    return _model(nodes, [numpy_helper.from_array(value, name) for name, value in constants.items()])


def _model(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> onnx.ModelProto:
    a, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIZE, SIZE]) for name in "ay")
    graph = helper.make_graph(nodes, "product", [a], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _input() -> np.ndarray[Any, Any]:
    return np.abs(np.random.default_rng(1).normal(size=(SIZE, SIZE))).astype(np.float32)


def _onnxruntime(model: onnx.ModelProto, threads: int) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"a": _input()}
    return lambda: session.run(None, feed)


def _openvino(model: onnx.ModelProto, threads: int, precision: str) -> Callable[[], Any]:
    import io

    from shrinkserve.runtimes.openvino import shared_core

    properties = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
    core = shared_core()
    request = core.compile_model(core.read_model(io.BytesIO(model.SerializeToString())), "CPU", properties)
    created, feed = request.create_infer_request(), {"a": _input()}
    return lambda: created.infer(feed)
