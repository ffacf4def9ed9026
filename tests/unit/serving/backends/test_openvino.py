"""Our OpenVINO backend in a real tritonserver, against ONNX Runtime on the same file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from shrinkserve.errors import ServerError
from shrinkserve.serving.backends.arguments import ModelArguments
from shrinkserve.serving.server.server import ServerOptions, TritonServer

Together = Callable[[Sequence[Callable[[], Any]]], list[Any]]
openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")

CONFIG = """
backend: "openvino"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_UINT8 dims: [12] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [700] }, { name: "z" data_type: TYPE_FP32 dims: [700] }]
"""
WAITS = "dynamic_batching { max_queue_delay_microseconds: 500000 preferred_batch_size: [4] }"


def write(folder: Path, config: str, file: str) -> Path:
    """A linear layer and its softmax, in OpenVINO's format or in ONNX by the file's name; the ONNX file."""
    rng = np.random.default_rng(7)
    weight = onnx.numpy_helper.from_array(rng.normal(size=(12, 700)).astype(np.float32) / 100, "w")
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),  # OpenVINO removes it, and keeps both names
        helper.make_node("Cast", ["same"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["f", "w"], ["product"]),
        helper.make_node("Identity", ["product"], ["y"]),
        helper.make_node("Softmax", ["y"], ["z"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 12])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 700]) for name in "yz"]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, [weight]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=9,
    )
    (folder / "1").mkdir(parents=True)
    path = folder / "1/model.onnx"
    onnx.save(model, path)
    if file.endswith(".xml"):
        openvino.save_model(openvino.convert_model(path), folder / "1" / file, compress_to_fp16=False)
    (folder / "config.pbtxt").write_text(f'name: "{folder.name}"\n{config}')
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[triton.InferenceServerClient, Any]]:
    """A client, and ONNX Runtime's session of the file that is served."""
    root = tmp_path_factory.mktemp("openvino") / "models"
    write(root / "ir", f"{CONFIG} dynamic_batching {{ }}", "model.xml")
    path = write(root / "waits", f'{CONFIG} {WAITS} default_model_filename: "model.onnx"', "model.onnx")
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with (
        TritonServer(root, ServerOptions(log_file=log)) as server,
        triton.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client,
    ):
        yield client, ort.InferenceSession(str(path))


def tensor(array: np.ndarray[Any, Any]) -> list[triton.InferInput]:
    given = triton.InferInput("x", array.shape, "UINT8")
    given.set_data_from_numpy(array)
    return [given]


@pytest.mark.parametrize("model", ["ir", "waits"])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_predictions_are_those_of_onnx_runtime(
    served: tuple[triton.InferenceServerClient, Any], model: str, batch: int
) -> None:
    client, session = served
    array = np.random.default_rng(batch).integers(0, 256, (batch, 12), dtype=np.uint8)
    result = client.infer(model, tensor(array))
    for name, wanted in zip("yz", session.run(["y", "z"], {"x": array}), strict=True):
        np.testing.assert_allclose(result.as_numpy(name), wanted, rtol=1e-4, atol=1e-5)


def test_requests_of_one_batch_get_their_own_rows(
    served: tuple[triton.InferenceServerClient, Any], together: Together
) -> None:
    client, session = served
    arrays = [np.random.default_rng(seed).integers(0, 256, (1, 12), dtype=np.uint8) for seed in range(4)]
    replies = together([lambda array=array: client.infer("waits", tensor(array)).as_numpy("y") for array in arrays])
    for array, reply in zip(arrays, replies, strict=True):
        np.testing.assert_allclose(reply, session.run(["y"], {"x": array})[0], rtol=1e-4, atol=1e-5)
    assert 4 in [int(batch.batch_size) for batch in client.get_inference_statistics("waits").model_stats[0].batch_stats]


def test_bad_request_leaves_the_model_serving(served: tuple[triton.InferenceServerClient, Any]) -> None:
    client, _ = served
    with pytest.raises(InferenceServerException, match="unexpected shape"):
        client.infer("ir", tensor(np.zeros((1, 13), np.uint8)))
    assert client.infer("ir", tensor(np.zeros((1, 12), np.uint8))).as_numpy("y").tolist() == [[0.0] * 700]


def test_backend_rejects_config_that_does_not_fit_the_file(tmp_path: Path) -> None:
    write(tmp_path / "models/bad", CONFIG.replace("dims: [700]", "dims: [701]"), "model.xml")
    with (
        pytest.raises(ServerError, match=r"output 'y': config says TYPE_FP32 \[-1, 701\], the file .*\[-1, 700\]"),
        TritonServer(tmp_path / "models", ServerOptions(log_file=tmp_path / "triton.log")),
    ):
        pass


def test_properties_are_read_from_the_config() -> None:
    from shrinkserve.runtimes.openvino import shared_core
    from shrinkserve.serving.backends.openvino import properties

    def of(**parameters: str) -> dict[str, str]:
        config = {
            "instance_group": [{"count": 100_000}],
            "parameters": {key: {"string_value": value} for key, value in parameters.items()},
        }
        return properties(ModelArguments(config, Path("model.xml")))

    assert of() == {
        "INFERENCE_NUM_THREADS": "1",
        "NUM_STREAMS": "1",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": "NO",
    }
    assert of(ENABLE_CPU_PINNING="YES")["ENABLE_CPU_PINNING"] == "YES"
    assert of(HINT_BF16="YES")["INFERENCE_PRECISION_HINT"] == "bf16"
    assert of(INFERENCE_NUM_THREADS="3", NUM_STREAMS="2")["INFERENCE_NUM_THREADS"] == "3"
    compiled = shared_core().compile_model(_identity(), "CPU", of(HINT_BF16="YES"))
    assert compiled.get_property("INFERENCE_PRECISION_HINT") in (openvino.Type.bf16, openvino.Type.f32)


def test_threads_are_not_bound_to_cores() -> None:
    """Instances are processes: each would bind its thread to the first core, and two would share one."""
    from shrinkserve.runtimes.openvino import shared_core
    from shrinkserve.serving.backends.openvino import properties

    before = affinities()  # of other libraries' threads too
    config = {"instance_group": [{"count": 1}], "parameters": {"INFERENCE_NUM_THREADS": {"string_value": "1"}}}
    compiled = shared_core().compile_model(_products(), "CPU", properties(ModelArguments(config, Path("model.xml"))))
    request, looks, whole = compiled.create_infer_request(), 0, os.sched_getaffinity(0)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(request.infer, {0: np.zeros((1000, 1000), np.float32)})
        while not running.done():
            looks += 1
            assert {thread: cores for thread, cores in affinities().items() if cores != before.get(thread, whole)} == {}
    assert looks


def affinities() -> dict[int, set[int]]:
    """The cores that each thread of this process may use."""
    found = {}
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):
            found[int(thread.name)] = os.sched_getaffinity(int(thread.name))
    return found


def _products() -> Any:
    """Matrix products, some tenths of a second of them."""
    parameter = openvino.opset13.parameter([1000, 1000], np.float32, name="x")
    factor = openvino.opset13.constant(np.ones((1000, 1000), np.float32))
    result = parameter
    for _ in range(8):
        result = openvino.opset13.matmul(result, factor, False, False)
    return openvino.Model([result], [parameter], "products")


def _identity() -> Any:
    parameter = openvino.opset13.parameter([-1, 4], np.float32, name="x")
    return openvino.Model([openvino.opset13.relu(parameter)], [parameter], "identity")
