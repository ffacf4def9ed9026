from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from shrinkserve.errors import ArtifactError
from shrinkserve.exporting import graph
from shrinkserve.exporting.quantise.calibration import clip, observe
from shrinkserve.exporting.quantise.static import SCHEMES, quantise
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.openvino import FixedBatches, OpenVinoModel

SIZE = 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A convolution, the mean of what it found, and its softmax."""
    weight = np.random.default_rng(0).normal(size=(8, 3, 5, 5)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weight"], ["found"], name="conv"),
        helper.make_node("GlobalAveragePool", ["found"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", SIZE, SIZE, 3])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8]) for name in ("logits", "probabilities")]
    graph = helper.make_graph(nodes, "found", [images], outputs, [numpy_helper.from_array(weight, "weight")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_signal_after_models_were_closed_is_handled(path: Path) -> None:
    """Runs in a separate process, because the error would end it."""
    program = """
import os, pathlib, signal, sys
from shrinkserve.runtimes.openvino import OpenVinoModel
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
first = OpenVinoModel(pathlib.Path(sys.argv[1]))
second = OpenVinoModel(pathlib.Path(sys.argv[1]))
del first
del second
os.kill(os.getpid(), signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_openvino_model_predicts_like_onnxruntime(path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (11, SIZE, SIZE, 3), dtype=np.uint8)
    model, session = OpenVinoModel(path, threads=1), OnnxModel(path, threads=1)
    assert (model.size, len(model.classes)) == (SIZE, 8)
    assert model.batches.sizes == (2, 1)
    for size in (1, 3, 4, 11):
        np.testing.assert_allclose(model.predict(images[:size]), session.predict(images[:size]), rtol=1e-4, atol=1e-2)
    kept = model.predict(images[:4])
    before = kept.copy()
    model.predict(images[4:8])
    np.testing.assert_array_equal(kept, before, err_msg="an answer is not the next one's memory")


def test_batches_grow_with_smaller_types(path: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(3).integers(0, 256, (13, SIZE, SIZE, 3), dtype=np.uint8)
    assert OpenVinoModel(path, precision="bf16").batches.sizes == (4, 1)
    model = graph.load(path)
    ranges = clip(observe(model, images), "minmax", SCHEMES["openvino"].levels)
    onnx.save(quantise(model, ranges, "openvino"), tmp_path / "int8.onnx")
    eight, right = OpenVinoModel(tmp_path / "int8.onnx", threads=1), OnnxModel(path, threads=1)
    assert eight.batches.sizes == (8, 4, 1)
    expected = right.predict(images)
    for size in (1, 4, 7, 8, 13):
        near = 0.02 * np.abs(expected).max()
        np.testing.assert_allclose(eight.predict(images[:size]), expected[:size], rtol=0, atol=near)


@pytest.mark.parametrize("cast", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_outputs_behind_nodes_that_change_nothing_keep_their_names(path: Path, tmp_path: Path, cast: int) -> None:
    """OpenVINO removes a Reshape and casts at the end of a graph."""
    proto = onnx.load(path)
    flatten = proto.graph.node[4]
    flatten.output[0] = "flat"
    shape = numpy_helper.from_array(np.array([0, 8], np.int64), "shape")
    proto.graph.initializer.append(shape)
    for node in (
        helper.make_node("Cast", ["flat"], ["wide"], to=cast),
        helper.make_node("Reshape", ["wide", "shape"], ["shaped"]),
        helper.make_node("Cast", ["shaped"], ["logits"], to=TensorProto.FLOAT),
    ):
        proto.graph.node.insert(len(proto.graph.node) - 1, node)
    onnx.save(proto, tmp_path / "net.onnx")
    images = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    found = OpenVinoModel(tmp_path / "net.onnx", threads=1).predict(images)
    np.testing.assert_allclose(found, OnnxModel(path, threads=1).predict(images), rtol=1e-4, atol=1e-2)


def test_fixed_batches_runs_dynamic_shapes(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "m"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "m"])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "relu.onnx"
    )
    model = FixedBatches(tmp_path / "relu.onnx", {})
    for shape in ((2, 3), (5, 1)):
        array = np.random.default_rng(2).normal(size=shape).astype(np.float32)
        np.testing.assert_array_equal(model.infer({"x": array})["y"], np.maximum(array, 0))


def test_openvino_model_rejects_file_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        OpenVinoModel(tmp_path / "absent.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    with pytest.raises(ArtifactError, match="not a readable ONNX file") as caught:
        OpenVinoModel(tmp_path / "broken.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's list of cores of a thread")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="with one core there is nothing to share")
def test_two_models_of_one_thread_do_not_share_a_core(path: Path) -> None:
    """Threads may use every core while they predict: pinned threads were all on the first core."""
    images = np.zeros((8, SIZE, SIZE, 3), np.uint8)
    ended, thread = threading.Event(), []

    def work() -> None:
        model = OpenVinoModel(path, threads=1)
        thread.append(threading.get_native_id())
        while not ended.is_set():
            model.predict(images)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        while not thread:
            time.sleep(0.01)
        status = Path(f"/proc/self/task/{thread[0]}/status")
        allowed = set()
        for _ in range(50):
            time.sleep(0.003)
            allowed.update(re.findall(r"Cpus_allowed_list:\s*(\S+)", status.read_text()))
    finally:
        ended.set()
        worker.join()
    assert len(allowed) == 1, "pinned during a prediction, free otherwise"
