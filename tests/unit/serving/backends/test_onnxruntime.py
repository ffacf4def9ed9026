"""Our backend in a real tritonserver, on small graphs that each show one thing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import psutil
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from shrinkserve.errors import ServerError
from shrinkserve.serving.backends import onnxruntime as backend
from shrinkserve.serving.backends.arguments import ModelArguments
from shrinkserve.serving.server.server import ServerOptions, TritonServer

Together = Callable[[Sequence[Callable[[], Any]]], list[Any]]
TABLE = np.arange(15, dtype=np.float32).reshape(5, 3)
TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "INT8": TensorProto.INT8,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
}


def write(folder: Path, config: str, nodes: list[Any], inputs: list[Any], outputs: list[Any], **more: Any) -> None:
    """Write a model: its file and its configuration."""
    file = folder / "1" / more.pop("file", "model.onnx")
    file.parent.mkdir(parents=True)
    graph = helper.make_graph(nodes, "graph", inputs, outputs, more.pop("constants", []))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, file)
    (folder / "config.pbtxt").write_text(f'name: "{folder.name}"\n{config}')


def lookup(folder: Path, config: str, file: str = "model.onnx") -> None:
    """Rows of `TABLE` by index: an index beyond it makes ONNX Runtime fail."""
    nodes = [
        helper.make_node("Gather", ["table", "flat"], ["row"]),
        helper.make_node("Squeeze", ["index", "last"], ["flat"]),
        helper.make_node("ReduceSum", ["row", "last"], ["total"]),
    ]
    write(
        folder,
        config,
        [nodes[1], nodes[0], nodes[2]],
        [helper.make_tensor_value_info("index", TensorProto.INT64, ["n", 1])],
        [
            helper.make_tensor_value_info("row", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("total", TensorProto.FLOAT, ["n", 1]),
        ],
        constants=[
            onnx.numpy_helper.from_array(TABLE, "table"),
            onnx.numpy_helper.from_array(np.array([1], np.int64), "last"),
        ],
        file=file,
    )


LOOKUP = """
input [{ name: "index" data_type: TYPE_INT64 dims: [1] }]
output [{ name: "row" data_type: TYPE_FP32 dims: [3] }, { name: "total" data_type: TYPE_FP32 dims: [1] }]
"""
WAITS = "dynamic_batching { max_queue_delay_microseconds: 500000 preferred_batch_size: [4] }"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[triton.InferenceServerClient]:
    """A server of all the models."""
    root = tmp_path_factory.mktemp("backend") / "models"
    lookup(root / "lookup", f'backend: "onnxruntime" max_batch_size: 8 {LOOKUP} {WAITS}')
    two = "instance_group [{ kind: KIND_CPU count: 2 }]"
    named = 'platform: "onnxruntime_onnx" default_model_filename: "net.onnx"'
    lookup(root / "named", f"{named} max_batch_size: 8 {LOOKUP} {two} dynamic_batching {{ }}", file="net.onnx")
    for name, kind in TYPES.items():
        shape = ["n", "m"]
        write(
            root / f"same_{name}",
            f'backend: "onnxruntime" input [{{ name: "x" data_type: TYPE_{name} dims: [-1, -1] }}] '
            f'output [{{ name: "y" data_type: TYPE_{name} dims: [-1, -1] }}]',
            [helper.make_node("Identity", ["x"], ["y"])],
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info("y", kind, shape)],
        )
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with (
        TritonServer(root, ServerOptions(log_file=log)) as server,
        triton.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client,
    ):
        yield client


def tensor(name: str, array: np.ndarray[Any, Any]) -> triton.InferInput:
    given = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    given.set_data_from_numpy(array)
    return given


def rows(client: triton.InferenceServerClient, model: str, *index: int) -> np.ndarray[Any, Any]:
    array = client.infer(model, [tensor("index", np.array(index, np.int64)[:, None])]).as_numpy("row")
    assert array is not None
    return array


def executions(client: triton.InferenceServerClient, model: str) -> dict[int, int]:
    """Executions by their batch size."""
    statistics = client.get_inference_statistics(model).model_stats[0]
    return {int(batch.batch_size): int(batch.compute_infer.count) for batch in statistics.batch_stats}


def executes(client: triton.InferenceServerClient, model: str, batch: int, count: int) -> bool:
    """Return True if Triton has counted the batches of a size, which it does after it has responded."""
    for _ in range(100):
        if executions(client, model).get(batch, 0) == count:
            return True
        time.sleep(0.02)
    return False


def test_requests_are_run_as_one_batch_and_each_gets_its_rows(
    client: triton.InferenceServerClient, together: Together
) -> None:
    before = executions(client, "lookup").get(4, 0)
    wanted = [(0,), (4, 1), (3,)]
    found = together([lambda index=index: rows(client, "lookup", *index) for index in wanted])
    for index, array in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(array, TABLE[list(index)])
    assert executes(client, "lookup", 4, before + 1)


def test_only_the_bad_request_of_a_batch_fails(client: triton.InferenceServerClient, together: Together) -> None:
    before = executions(client, "lookup").get(4, 0)
    found = together([lambda index=index: rows(client, "lookup", index) for index in (2, 99, 0, 1)])
    assert executes(client, "lookup", 4, before + 1)
    assert "out of" in str(found[1])
    for index, answer in ((2, found[0]), (0, found[2]), (1, found[3])):
        np.testing.assert_array_equal(answer, TABLE[[index]])
    np.testing.assert_array_equal(rows(client, "lookup", 3), TABLE[[3]])


def test_only_requested_outputs_are_returned(client: triton.InferenceServerClient) -> None:
    wanted = [triton.InferRequestedOutput("total")]
    result = client.infer("lookup", [tensor("index", np.array([[2]]))], outputs=wanted)
    assert [output.name for output in result.get_response().outputs] == ["total"]
    np.testing.assert_array_equal(result.as_numpy("total"), TABLE[[2]].sum(axis=1, keepdims=True))


def test_requests_of_one_batch_may_want_different_outputs(
    client: triton.InferenceServerClient, together: Together
) -> None:
    def ask(output: str) -> Callable[[], Any]:
        wanted = [triton.InferRequestedOutput(output)]
        return lambda: client.infer("lookup", [tensor("index", np.array([[2]]))], outputs=wanted).as_numpy(output)

    found = together([ask("row"), ask("total"), ask("row"), ask("total")])
    for answer in found[::2]:
        np.testing.assert_array_equal(answer, TABLE[[2]])
    for answer in found[1::2]:
        np.testing.assert_array_equal(answer, [[21]])


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("index", np.array([[1, 2]]), "unexpected shape for input 'index'"),
        ("index", np.array([1]), "unexpected shape for input 'index'"),
        ("index", np.zeros((9, 1), np.int64), "batch-size must be <= 8"),
        ("index", np.zeros((1, 1), np.float32), "data-type is 'FP32'"),
        ("other", np.array([[1]]), "unexpected inference input 'other'"),
    ],
)
def test_bad_requests_get_tritons_error_and_the_model_goes_on(
    client: triton.InferenceServerClient, name: str, array: np.ndarray[Any, Any], reason: str
) -> None:
    with pytest.raises(InferenceServerException, match=reason):
        client.infer("named", [tensor(name, array)])
    np.testing.assert_array_equal(rows(client, "named", 1), TABLE[[1]])


def test_backend_accepts_platform_file_name_and_two_instances(
    client: triton.InferenceServerClient, together: Together
) -> None:
    found = together([lambda index=index: rows(client, "named", index) for index in (0, 1, 2, 3, 4) * 4])
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate([TABLE] * 4))
    assert client.get_model_metadata("named").platform == "onnxruntime_onnx"
    stubs = [one.cmdline()[-2] for one in psutil.Process().children(recursive=True) if "stub" in one.name()]
    assert sorted(name for name in stubs if name.startswith("named")) == ["named_0_0", "named_0_1"]


@pytest.mark.parametrize("name", TYPES)
def test_every_data_type_is_returned_unchanged(client: triton.InferenceServerClient, name: str) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(TYPES[name])
    array = np.random.default_rng(1).integers(0, 2 if name == "BOOL" else 100, (3, 5)).astype(dtype)
    result = client.infer(f"same_{name}", [tensor("x", array)]).as_numpy("y")
    assert result is not None
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("TYPE_INT64", "TYPE_INT32"), r"input 'index': config says TYPE_INT32 .*, the file TYPE_INT64"),
        (("TYPE_INT64", "TYPE_BF16"), "config says TYPE_BF16"),
        (("dims: [3]", "dims: [4]"), r"output 'row': .*\[-1, 4\], the file .*\[-1, 3\]"),
        (("max_batch_size: 8", ""), r"input 'index': .*\[1\], the file .*\[-1, 1\]"),
        (('"total"', '"sum"'), "config has output 'sum', the file row, total"),
    ],
)
def test_config_that_does_not_fit_the_file(tmp_path: Path, change: tuple[str, str], reason: str) -> None:
    config = f'backend: "onnxruntime" max_batch_size: 8 {LOOKUP}'.replace(*change)
    lookup(tmp_path / "models/lookup", config)
    server = TritonServer(tmp_path / "models", ServerOptions(log_file=tmp_path / "triton.log"))
    with pytest.raises(ServerError, match=f"model 'lookup' cannot be loaded: .*{reason}"), server:
        pass


def arguments(parameters: dict[str, str], instances: int = 1, **config: Any) -> ModelArguments:
    given = {
        "max_batch_size": 8,
        "instance_group": [{"count": instances}],
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
        **config,
    }
    raw = {"model_config": json.dumps(given), "model_repository": "/models/net", "model_version": "3"}
    return ModelArguments.parse(raw, "model.onnx")


def test_arguments_name_the_file_of_the_version() -> None:
    assert arguments({}).file == Path("/models/net/3/model.onnx")
    assert arguments({}, default_model_filename="other.onnx").file == Path("/models/net/3/other.onnx")


def test_instances_on_several_gpus_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton starts `count` Python instances for each GPU, though all compute on the CPU."""
    monkeypatch.setattr("shrinkserve.machine.usable_cores", lambda: 16)
    config = {"instance_group": [{"count": 2, "kind": "KIND_GPU", "gpus": [0, 1]}], "parameters": {}}
    assert ModelArguments(config, Path("model.onnx")).threads("intra_op_thread_count") == 4  # type: ignore[arg-type]


def test_session_options_are_read_from_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shrinkserve.machine.usable_cores", lambda: 6)
    plain = backend.session_options(arguments({}, instances=2))
    assert (plain.intra_op_num_threads, plain.execution_mode) == (3, ort.ExecutionMode.ORT_SEQUENTIAL)
    brief = backend.BRIEF_SPINS if _version() >= backend.SPINS_BRIEFLY_SINCE else backend.NO_SPINS
    assert {key: plain.get_session_config_entry(key) for key in brief} == brief
    chosen = backend.session_options(
        arguments(
            {
                "intra_op_thread_count": "5",
                "inter_op_thread_count": "4",
                "execution_mode": "1",
                "enable_mem_arena": "0",
                "enable_mem_pattern": "1",
                "session.intra_op.allow_spinning": "0",
                "session.set_denormal_as_zero": "1",
            },
            optimization={"graph": {"level": -1}},
        )
    )
    assert (chosen.intra_op_num_threads, chosen.inter_op_num_threads) == (5, 4)
    assert chosen.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert not chosen.enable_cpu_mem_arena
    assert chosen.enable_mem_pattern
    assert not plain.enable_mem_pattern, "memory planned for each size of a batch is never given back"
    assert chosen.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert chosen.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert chosen.get_session_config_entry("session.set_denormal_as_zero") == "1"


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in ort.__version__.split(".")[:2])


def test_an_older_runtime_does_not_spin_for_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "__version__", "1.23.2")
    options = backend.session_options(arguments({}))
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_session_options_reject_parameters_that_are_no_numbers() -> None:
    with pytest.raises(ValueError, match="intra_op_thread_count: expected a whole number, found 'many'"):
        backend.session_options(arguments({"intra_op_thread_count": "many"}))
    with pytest.raises(ValueError, match=r"optimization\.graph\.level: expected -1, 1 or 2, found 7"):
        backend.session_options(arguments({}, optimization={"graph": {"level": 7}}))
