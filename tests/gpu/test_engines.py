"""Engines on a real GPU, with whichever TensorRT is installed: predictions, and time compared with float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from shrinkserve.arch import load_network
from shrinkserve.arch.module import compile_spec
from shrinkserve.arch.serialise import to_dict
from shrinkserve.artifact import Card, sha256_file
from shrinkserve.errors import ConfigError, GateError
from shrinkserve.exporting import graph
from shrinkserve.exporting.engine.build import EngineOptions
from shrinkserve.exporting.engine.library import import_library
from shrinkserve.exporting.engine.step import PLAN_TOLERANCES, EngineStep
from shrinkserve.exporting.parity import compare_outputs
from shrinkserve.exporting.precision import Lower
from shrinkserve.exporting.quantise.calibration import clip, observe
from shrinkserve.exporting.quantise.static import quantise
from shrinkserve.exporting.samples import synthetic
from shrinkserve.exporting.steps import ONNX, Product
from shrinkserve.exporting.to_onnx import OnnxFromCheckpoint
from shrinkserve.exporting.variants import VariantOptions, VariantSource, make_variants
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.checkpoint import Checkpoint, weights
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.tensorrt import TensorRtModel, gpu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(gpu()["gpu"] is None, reason="no NVIDIA GPU that torch can see"),
]
SIZE = 64


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt_rtx"])
def library(request: pytest.FixtureRequest) -> str:
    try:
        import_library(request.param)
    except ConfigError as exc:
        pytest.skip(str(exc))
    return request.param


@pytest.fixture(scope="module")
def float32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("run")
    spec = load_network("shrinkcnn-a", classes=10, input_size=SIZE, width=0.5)
    torch.manual_seed(0)
    module = compile_spec(spec)
    save_file(weights(module), folder / "ema.safetensors")
    preprocess = Preprocess(size=SIZE).to_dict()
    classes = [str(index) for index in range(10)]
    files = {"ema.safetensors": sha256_file(folder / "ema.safetensors")}
    card = Card("checkpoint", "net", files=files, preprocess=preprocess, classes=classes, spec=to_dict(spec))
    card.write(folder)
    path = folder / "model.onnx"
    OnnxFromCheckpoint(Checkpoint(folder)).run(folder, path, synthetic(SIZE, 4))
    return path


def lowered(source: Path, precision: str, target: Path) -> Path:
    images = synthetic(SIZE, 16).images
    if precision == "float32":
        return source
    if precision == "int8":
        model = graph.load(source)
        onnx.save(quantise(model, clip(observe(model, images), "percentile"), "tensorrt"), target)
    else:
        Lower(precision, images).run(source, target, synthetic(SIZE, 4))
    return target


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "int8"])
def test_plan_predicts_like_graph(library: str, float32: Path, tmp_path: Path, precision: str):
    source = lowered(float32, precision, tmp_path / "low.onnx")
    plan = tmp_path / "model.plan"
    record = EngineStep(precision, EngineOptions(opt_batch=4, max_batch=8), library=library).run(
        source, plan, synthetic(SIZE, 4)
    )
    model = TensorRtModel(plan, record["built"])
    outcome = compare_outputs(OnnxModel(float32), model, synthetic(SIZE, 32), PLAN_TOLERANCES[precision], max_batch=8)
    assert outcome.violations == []
    more = synthetic(SIZE, 19).images  # beyond the profile's largest batch: cut
    np.testing.assert_allclose(model.predict(more)[:8], model.predict(more[:8]), atol=outcome.limit)


def test_exported_plan_is_checked_on_its_gpu(library: str, float32: Path, tmp_path: Path):
    options = VariantOptions(None, library=library, engine=EngineOptions(opt_batch=4, max_batch=8))
    graph = Product(float32, ONNX, sha256_file(float32))
    source = VariantSource(graph, graph, Preprocess(size=SIZE), [str(i) for i in range(10)], synthetic(SIZE, 32))
    variant = make_variants(source, ["tensorrt"], tmp_path, options)[0]
    assert variant.record["steps"][-1]["parity"]["passed"] is True
    assert variant.capabilities == {gpu()["compute_capability"]: variant.file}


def test_int8_plan_is_faster_than_float16_or_rejected(library: str, float32: Path, tmp_path: Path):
    options = VariantOptions(None, library=library, max_top1_drop=50, engine=EngineOptions(opt_batch=4, max_batch=8))
    graph = Product(float32, ONNX, sha256_file(float32))
    source = VariantSource(graph, graph, Preprocess(size=SIZE), [str(i) for i in range(10)], synthetic(SIZE, 32))
    try:
        (engine,) = make_variants(source, ["tensorrt-int8"], tmp_path, options)
    except GateError as exc:
        assert "not faster" in str(exc)  # noqa: PT017 - either outcome is right
    else:
        assert engine.record["speed"]["int8_ms"] < engine.record["speed"]["float16_ms"]
