"""Compare the configurations with what the backends of NVIDIA's container read.

The table was made from these sources:

* onnxruntime: triton-inference-server/onnxruntime_backend, ``src/onnxruntime.cc`` (commit 02ffb9e), ``ModelState`` and
  ``LoadModel``. Boolean parameters take true/false/1/0; ``cudnn_conv_algo_search`` takes 0 (exhaustive), 1 (heuristic)
  and 2 (default); an unknown accelerator or a parameter that is no CUDA provider option is an error.
* openvino: triton-inference-server/openvino_backend, ``src/openvino.cc`` r24.10 to main. It takes instances of
  ``KIND_CPU`` only. The configurations are for our own server, whose backend reads the two parameters.
* tensorrt: triton-inference-server/tensorrt_backend, ``src/model_state.cc``: a ``max_batch_size`` above the profile's
  maximum is an error. It reads none of our parameters. ``src/instance_state.cc`` (commit 001c9a8), ``BuildCudaGraph``:
  a graph for each ``graph_spec`` with its batch size and its shapes without the batch; a capture that fails is logged.
* dali: triton-inference-server/dali_backend, ``src/parameters.h`` (commit 240d862) and ``src/dali_model.h``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import Card
from shrinkserve.config import ServingConfig
from shrinkserve.engines import Engine
from shrinkserve.preprocess import Preprocess
from shrinkserve.serving import config_text, model_config
from shrinkserve.serving.names import model_names
from shrinkserve.serving.repository import ensemble, serving_options
from shrinkserve.serving.repository.derived_configs import derived_config
from shrinkserve.serving.repository.engine_config import engine_config, limit_batches
from shrinkserve.serving.repository.transaction import changing

CARD = Card("onnx", "m_classifier", preprocess=Preprocess(size=32).to_dict(), classes=["a", "b"])
READ = {
    "onnxruntime": {
        "intra_op_thread_count": str.isdecimal,
        "enable_mem_pattern": {"0", "1", "true", "false"}.__contains__,
        "cudnn_conv_algo_search": {"0", "1", "2"}.__contains__,
    },
    "openvino": {"INFERENCE_NUM_THREADS": str.isdecimal, "INFERENCE_PRECISION_HINT": {"bf16", "f32"}.__contains__},
    "tensorrt": {},
    "dali": {"num_threads": str.isdecimal},
    "ensemble": {},
}
CUDA_OPTIONS = {"use_tf32": {"0", "1"}}
"""Options of ONNX Runtime's CUDA provider (``cuda_provider_options.h``) -> values."""
KINDS = {
    "onnxruntime": {pb.ModelInstanceGroup.KIND_AUTO, pb.ModelInstanceGroup.KIND_CPU},
    "openvino": {pb.ModelInstanceGroup.KIND_CPU},
    "tensorrt": {pb.ModelInstanceGroup.KIND_AUTO, pb.ModelInstanceGroup.KIND_GPU},
    "dali": {pb.ModelInstanceGroup.KIND_CPU},
    "ensemble": set(),
}
BUILT = {"model.plan": {"batches": [1, 8, 16]}}
ENGINES = [
    Engine("float16", "onnxruntime", "float16.onnx", "float16"),
    Engine("int8", "onnxruntime", "int8.onnx", "int8"),
    Engine("bf16", "openvino", "model.onnx", "bfloat16", parameters={"INFERENCE_PRECISION_HINT": "bf16"}),
    Engine("trt", "tensorrt", "model.plan", "float16", {"9.0": "model.plan"}, record={"built": BUILT}),
]


@pytest.fixture(scope="module")
def base() -> pb.ModelConfig:
    return serving_options.build_config(
        CARD.name, CARD, ServingConfig(max_batch_size=32, preferred_batch_sizes=(4, 24))
    )


@pytest.fixture(scope="module")
def configs(base: pb.ModelConfig) -> dict[str, pb.ModelConfig]:
    engines = {engine.name: engine_config(engine, base) for engine in ENGINES}
    parts = {part.removeprefix("m_"): derived_config(base, part) for part in model_names("m").derived}
    return {"default": base, **engines, **parts}


def parsed(config: pb.ModelConfig) -> pb.ModelConfig:
    return text_format.Parse(config_text.to_text(config), pb.ModelConfig())


def test_backends_read_every_parameter(configs: dict[str, pb.ModelConfig]) -> None:
    for name, written in configs.items():
        config = parsed(written)
        assert config == written, name
        accepted = READ[config.backend or config.platform]
        for key, value in config.parameters.items():
            if not key.startswith(model_config.PREFIX):
                assert accepted[key](value.string_value), (name, key)
        for accelerator in config.optimization.execution_accelerators.gpu_execution_accelerator:
            assert (config.backend, accelerator.name) == ("onnxruntime", "cuda")
            assert all(value in CUDA_OPTIONS[key] for key, value in accelerator.parameters.items())


def test_backends_accept_instance_kinds(configs: dict[str, pb.ModelConfig]) -> None:
    for name, config in configs.items():
        kinds = {group.kind for group in config.instance_group}
        assert kinds <= KINDS[config.backend or config.platform], name
        assert kinds or config.platform == "ensemble"


def test_int8_graph_runs_on_the_cpu_and_others_where_the_server_chooses(configs: dict[str, pb.ModelConfig]) -> None:
    kinds = {name: config.instance_group[0].kind for name, config in configs.items() if config.instance_group}
    assert kinds["int8"] == pb.ModelInstanceGroup.KIND_CPU
    assert "cudnn_conv_algo_search" not in configs["int8"].parameters
    for name in ("default", "float16", "trt"):
        assert kinds[name] == pb.ModelInstanceGroup.KIND_AUTO


def test_plan_gets_batches_of_its_profile_only(configs: dict[str, pb.ModelConfig]) -> None:
    config = configs["trt"]
    assert config.max_batch_size == 16
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert [sample.batch_size for sample in config.model_warmup] == [1, 4, 8, 16]


def test_plan_is_captured_at_the_sizes_that_are_warmed_up(configs: dict[str, pb.ModelConfig]) -> None:
    cuda = parsed(configs["trt"]).optimization.cuda
    assert cuda.graphs
    assert [spec.batch_size for spec in cuda.graph_spec] == [1, 4, 8, 16]
    assert {sample.batch_size for sample in configs["trt"].model_warmup} == {1, 4, 8, 16}
    assert all(
        {name: list(shape.dim) for name, shape in spec.input.items()} == {"images": [32, 32, 3]}
        for spec in cuda.graph_spec
    )
    assert not any(configs[name].optimization.HasField("cuda") for name in configs if name != "trt")


def test_graphs_follow_new_options(base: pb.ModelConfig) -> None:
    (engine,) = (one for one in ENGINES if one.backend == "tensorrt")
    config = engine_config(engine, base)
    serving_options.set_options(config, ServingConfig(max_batch_size=6, preferred_batch_sizes=(2,)))
    assert [spec.batch_size for spec in config.optimization.cuda.graph_spec] == [1, 2, 6]
    assert config.optimization.cuda.graphs


def test_graphs_follow_a_new_plan_and_edits_stay(base: pb.ModelConfig) -> None:
    (engine,) = (one for one in ENGINES if one.backend == "tensorrt")
    known = engine_config(engine, base)
    del known.optimization.cuda.graph_spec[1]
    smaller = replace(engine, record={"built": {"model.plan": {"batches": [1, 4, 8]}}})
    larger = pb.ModelConfig()
    larger.CopyFrom(base)
    larger.input[0].dims[:] = [64, 64, 3]
    config = engine_config(smaller, larger, known)
    assert [list(spec.input["images"].dim) for spec in config.optimization.cuda.graph_spec] == [[64, 64, 3]] * 3
    limit_batches(config, smaller)
    assert [spec.batch_size for spec in config.optimization.cuda.graph_spec] == [1, 8]
    known.optimization.ClearField("cuda")
    assert not engine_config(engine, base, known).optimization.HasField("cuda")


def test_every_warm_up_batch_is_allowed(configs: dict[str, pb.ModelConfig]) -> None:
    for config in configs.values():
        assert all(1 <= sample.batch_size <= config.max_batch_size for sample in config.model_warmup)
        assert all(size <= config.max_batch_size for size in config.dynamic_batching.preferred_batch_size)


def test_decoder_makes_no_batch_of_several_requests(configs: dict[str, pb.ModelConfig]) -> None:
    config = configs["preprocess"]
    assert list(config.dynamic_batching.preferred_batch_size) == [1]
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert config.instance_group[0].count >= 1


def test_openvino_config_says_which_server_it_is_for(configs: dict[str, pb.ModelConfig]) -> None:
    assert config_text.to_text(configs["bf16"]).startswith("# For `shrinkserve serve` only")
    assert not config_text.to_text(configs["default"]).startswith("#")


def test_edited_decoder_still_fits(tmp_path: Path) -> None:
    """Instances and batching of a decoder may be tuned; a configuration of an older version had other ones."""
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    base = serving_options.build_config(CARD.name, CARD)
    folder = tmp_path / CARD.name
    folder.mkdir()
    (folder / "config.pbtxt").write_text(config_text.to_text(base))
    (folder / "labels.txt").write_text("a\nb\n")
    with changing(tmp_path) as change:
        change.commit(hidden=ensemble.stage(change, folder))
    assert ensemble.misfit(tmp_path, folder) is None
    path = tmp_path / "m_preprocess" / "config.pbtxt"
    older = config_text.read_config(path)
    older.ClearField("dynamic_batching")
    older.dynamic_batching.SetInParent()
    older.instance_group[0].count = 7
    del older.parameters["num_threads"]
    path.write_text(config_text.to_text(older))
    assert ensemble.misfit(tmp_path, folder) is None
    older.max_batch_size += 1
    path.write_text(config_text.to_text(older))
    assert ensemble.misfit(tmp_path, folder) is not None
