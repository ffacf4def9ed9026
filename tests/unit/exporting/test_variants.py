from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shrinkserve.engines import Engine, keep_other_plans
from shrinkserve.errors import ConfigError, GateError
from shrinkserve.exporting.engine.build import EngineOptions
from shrinkserve.exporting.variants import VariantOptions, make_variants, parse_kinds
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.openvino import OpenVinoModel
from shrinkserve.runtimes.predictor import Images, Logits

PREPROCESS = Preprocess(size=32)
SYNTHETIC = VariantOptions(None, max_top1_drop=20)


def test_kinds_keep_their_order():
    assert parse_kinds("int8, fp32,fp16") == ["fp16", "int8"]
    assert parse_kinds("fp32") == []


def test_unknown_kind():
    with pytest.raises(ConfigError, match=r"--to: expected names out of fp32, fp16.* found fp8"):
        parse_kinds("fp16,fp8")
    with pytest.raises(ConfigError, match=r"--to: expected names out of fp32.* found ','"):
        parse_kinds(",")


def test_sixteen_bits(tiny_onnx: Path, tmp_path: Path):
    half, brain = make_variants(tiny_onnx, ["fp16", "bf16"], tmp_path, PREPROCESS, SYNTHETIC)
    assert (half.backend, half.precision, half.file) == ("onnxruntime", "float16", "float16.onnx")
    assert (tmp_path / half.file).stat().st_size < tiny_onnx.stat().st_size
    assert half.record["steps"][0]["parity"]["passed"]
    assert (brain.backend, brain.file) == ("openvino", tiny_onnx.name)
    assert brain.parameters == {"INFERENCE_PRECISION_HINT": "bf16"}
    assert brain.record["parity"]["worst"] > 0, "computed in float32"


def test_int8_that_misses_its_gate_leaves_no_file(tiny_onnx: Path, tmp_path: Path):
    with pytest.raises(GateError):
        make_variants(tiny_onnx, ["int8"], tmp_path, PREPROCESS, VariantOptions(None, max_top1_drop=-101))
    assert list(tmp_path.iterdir()) == []


def test_int8_for_openvino_is_judged_as_it_is_served(tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By OpenVINO, and in bfloat16 between the eight-bit layers."""
    asked: set[tuple[str, str]] = set()

    def spy(model: OpenVinoModel, images: Images) -> Logits:
        asked.add((model.path.name, model.precision))
        return answer(model, images)

    answer = OpenVinoModel.predict
    monkeypatch.setattr(OpenVinoModel, "answer", spy)
    monkeypatch.setattr("shrinkserve.exporting.quantise.step.timed", lambda *_: (0.002, 0.001))
    (int8,) = make_variants(tiny_onnx, ["int8"], tmp_path, PREPROCESS, replace(SYNTHETIC, runtime="openvino"))
    assert (int8.backend, int8.parameters) == ("openvino", {"INFERENCE_PRECISION_HINT": "bf16"})
    assert {(tiny_onnx.name, "f32"), (int8.file, "bf16")} <= asked
    assert int8.record["steps"][0]["parity"]["passed"]


def test_plans_for_several_gpus_live_in_one_version(tiny_onnx: Path, tmp_path: Path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="builds plans without a GPU")
    made = {}
    for gpu in ("8.6", "8.9"):
        (folder := tmp_path / gpu).mkdir()
        options = replace(SYNTHETIC, library="tensorrt_rtx", engine=EngineOptions(1, 2, 4, compute_capability=gpu))
        made[gpu] = make_variants(tiny_onnx, ["tensorrt"], folder, PREPROCESS, options)[0]
    whole = keep_other_plans(Engine(**vars(made["8.9"])), Engine(**vars(made["8.6"])))
    files = {gpu: f"tensorrt_rtx-float16-sm{gpu.replace('.', '')}.plan" for gpu in made}
    assert whole.capabilities == files
    assert {file: whole.record["built"][file]["compute_capability"] for file in files.values()} == {
        file: gpu for gpu, file in files.items()
    }


def test_tensorrt_that_is_absent_says_how_to_install_it(tiny_onnx: Path, tmp_path: Path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="tells that TensorRT itself is not what is installed here")
    with pytest.raises(ConfigError, match="pip install tensorrt"):
        make_variants(tiny_onnx, ["tensorrt"], tmp_path, PREPROCESS, SYNTHETIC)
