from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx_ir
import pytest

from shrinkserve.artifact import Card, sha256_file
from shrinkserve.engines import keep_other_plans
from shrinkserve.errors import ConfigError, GateError
from shrinkserve.exporting import graph, variants
from shrinkserve.exporting.engine.build import EngineOptions
from shrinkserve.exporting.engine.step import EngineStep
from shrinkserve.exporting.optimise import OptimisedOnnx, PassPlan, optimise
from shrinkserve.exporting.precision import Lower
from shrinkserve.exporting.records import StepDetails
from shrinkserve.exporting.samples import synthetic
from shrinkserve.exporting.steps import ONNX, Product, Step, StepState
from shrinkserve.exporting.variants import VariantOptions, VariantSource, make_variants, parse_kinds
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.openvino import OpenVinoModel
from shrinkserve.runtimes.predictor import Images, Logits

SYNTHETIC = VariantOptions(None, max_top1_drop=20)


@pytest.fixture
def source(tiny_onnx: Path) -> VariantSource:
    product = Product(tiny_onnx, ONNX, sha256_file(tiny_onnx))
    return VariantSource(product, product, Preprocess(size=32), [str(index) for index in range(10)], synthetic(32, 64))


def test_parse_kinds_keeps_order():
    assert parse_kinds("int8, fp32,fp16") == ["fp16", "int8"]
    assert parse_kinds(["int8", "fp16"]) == ["fp16", "int8"]
    assert parse_kinds("fp32") == []


@pytest.mark.parametrize("text", ["fp16,fp8", ","])
def test_parse_kinds_rejects_unknown_name(text: str):
    with pytest.raises(ConfigError) as caught:
        parse_kinds(text)
    assert caught.value.what == "--to"
    assert "fp16" in str(caught.value.expected)


def test_make_variants_makes_sixteen_bit_engines(source: VariantSource, tmp_path: Path):
    half, brain = make_variants(source, ["fp16", "bf16"], tmp_path, SYNTHETIC)
    assert (half.backend, half.precision, half.file) == ("onnxruntime", "float16", "float16.onnx")
    assert (tmp_path / half.file).stat().st_size < source.graph.path.stat().st_size
    assert [step["step"] for step in half.record["steps"]] == ["gpu", "float16"]
    assert all(step["parity"]["passed"] for step in half.record["steps"])
    assert (brain.backend, brain.file) == ("openvino", "model.onnx")
    assert brain.parameters == {"INFERENCE_PRECISION_HINT": "bf16"}
    assert brain.record["parity"]["worst"] > 0, "computed in float32"


@pytest.mark.parametrize("kind", ["fp16", "tensorrt"])
def test_engines_for_gpus_are_built_from_the_graph_without_padded_channels(
    source: VariantSource, tmp_path: Path, kind: str
):
    """The graph for CPUs has channels in blocks of 16, which a GPU would compute for nothing."""
    if kind == "tensorrt":
        pytest.importorskip("tensorrt_rtx_bindings", reason="builds plans without a GPU")
    model = graph.load(source.plain.path)
    optimise(model, PassPlan(block=16))
    padded = tmp_path / "padded.onnx"
    onnx_ir.save(model, padded)
    (folder := tmp_path / "out").mkdir()
    options = replace(SYNTHETIC, library="tensorrt_rtx", engine=EngineOptions(1, 2, 4, compute_capability="8.9"))
    both = replace(source, graph=Product(padded, ONNX, sha256_file(padded)))
    (engine,) = make_variants(both, [kind], folder, options)
    (expected,) = make_variants(source, [kind], tmp_path, options)
    assert padded.stat().st_size > 1.1 * source.plain.path.stat().st_size
    if kind == "fp16":
        assert (folder / engine.file).read_bytes() == (tmp_path / expected.file).read_bytes()
    else:
        graphs = [one.record["steps"][-1]["graph_sha256"] for one in (engine, expected)]
        assert graphs[0] == graphs[1]


def test_make_variants_rejects_model_of_other_precision(source: VariantSource, tmp_path: Path):
    narrow = replace(source, graph=replace(source.graph, state=StepState("onnx", "float16")))
    with pytest.raises(ConfigError) as caught:
        make_variants(narrow, ["int8"], tmp_path, SYNTHETIC)
    assert caught.value.found == "float16"


def test_int8_that_misses_its_gate_leaves_no_file(source: VariantSource, tmp_path: Path):
    with pytest.raises(GateError):
        make_variants(source, ["int8"], tmp_path, VariantOptions(None, max_top1_drop=-101))
    assert list(tmp_path.iterdir()) == []


def test_int8_for_openvino_is_checked_in_bfloat16(
    source: VariantSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """OpenVINO computes bfloat16 between the eight-bit layers when it serves the graph."""
    used: set[tuple[str, str]] = set()

    def spy(model: OpenVinoModel, images: Images) -> Logits:
        used.add((model.path.name, model.precision))
        return predict(model, images)

    predict = OpenVinoModel.predict
    monkeypatch.setattr(OpenVinoModel, "predict", spy)
    monkeypatch.setattr("shrinkserve.exporting.quantise.step.timed", lambda *_: (0.002, 0.001))
    (int8,) = make_variants(source, ["int8"], tmp_path, replace(SYNTHETIC, runtime="openvino"))
    assert (int8.backend, int8.parameters) == ("openvino", {"INFERENCE_PRECISION_HINT": "bf16"})
    assert {(source.graph.path.name, "f32"), (int8.file, "bf16")} <= used
    assert int8.record["steps"][0]["parity"]["passed"]


def test_plans_for_several_gpus_share_a_version(source: VariantSource, tmp_path: Path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="builds plans without a GPU")
    made = {}
    for gpu in ("8.6", "8.9"):
        (folder := tmp_path / gpu).mkdir()
        options = replace(SYNTHETIC, library="tensorrt_rtx", engine=EngineOptions(1, 2, 4, compute_capability=gpu))
        made[gpu] = make_variants(source, ["tensorrt"], folder, options)[0]
    merged = keep_other_plans(made["8.9"], made["8.6"])
    files = {gpu: f"tensorrt_rtx-float16-sm{gpu.replace('.', '')}.plan" for gpu in made}
    assert merged.capabilities == files
    assert {file: merged.plans[file]["compute_capability"] for file in files.values()} == {
        file: gpu for gpu, file in files.items()
    }


@pytest.fixture
def graph_for_plans(source: VariantSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the float32 graph instead of plans, which are built without a GPU."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="builds plans without a GPU")

    def opener(_: VariantOptions) -> Callable[[Path, StepState], OnnxModel]:
        return lambda path, state: OnnxModel(source.graph.path if state.format == "plan" else path)

    monkeypatch.setattr(variants, "_plan_opener", opener)


@pytest.mark.usefixtures("graph_for_plans")
@pytest.mark.parametrize(("float16", "int8", "ships"), [(2e-3, 1e-3, True), (1e-3, 1e-3, False), (1e-3, 2e-3, False)])
def test_int8_plan_must_be_faster_than_the_float16_plan(
    source: VariantSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, float16: float, int8: float, ships: bool
):
    compared = []

    def measured(before: OnnxModel, after: OnnxModel, *_: object) -> tuple[float, float]:
        compared.append((before, after))
        return float16, int8

    monkeypatch.setattr(variants, "timed", measured)
    options = replace(SYNTHETIC, library="tensorrt_rtx", engine=EngineOptions(1, 2, 4, compute_capability="8.9"))
    if ships:
        (engine,) = make_variants(source, ["tensorrt-int8"], tmp_path, options)
        assert engine.record["speed"] == {"float16_ms": 2.0, "int8_ms": 1.0}
        assert engine.precision == "int8"
    else:
        with pytest.raises(GateError, match="not faster than float16"):
            make_variants(source, ["tensorrt-int8"], tmp_path, options)
    assert len(compared) == 1


def test_missing_tensorrt_names_its_package(source: VariantSource, tmp_path: Path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="shows that TensorRT is not installed here")
    with pytest.raises(ConfigError, match="pip install tensorrt"):
        make_variants(source, ["tensorrt"], tmp_path, SYNTHETIC)


def test_engine_of_card_has_typed_record(source: VariantSource, tmp_path: Path):
    (half,) = make_variants(source, ["fp16"], tmp_path, SYNTHETIC)
    card = Card("onnx", "m", details={"engines": {half.name: half.to_dict()}})
    assert card.details["engines"]["float16"]["record"]["steps"][-1]["step"] == "float16"


@pytest.mark.usefixtures("graph_for_plans")
def test_make_variants_runs_each_step_once(source: VariantSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A build takes minutes, and a second one would replace the file that the record of the first describes."""
    names: list[str] = []
    for kind in (OptimisedOnnx, Lower, EngineStep):

        def spy(step: Step, *arguments: object, run: Callable[..., StepDetails] = kind.run) -> StepDetails:
            names.append(step.name)
            return run(step, *arguments)

        monkeypatch.setattr(kind, "run", spy)
    monkeypatch.setattr(variants, "timed", lambda *_: (2e-3, 1e-3))
    options = replace(SYNTHETIC, library="tensorrt_rtx", engine=EngineOptions(1, 2, 4, compute_capability="8.9"))
    engines = make_variants(source, ["fp16", "tensorrt", "tensorrt-int8"], tmp_path, options)
    assert sorted(names) == ["float16", "gpu", "tensorrt_rtx-float16-sm89", "tensorrt_rtx-int8-sm89"]
    steps = [[step["step"] for step in engine.record["steps"]] for engine in engines]
    assert steps == [["gpu", "float16"], ["gpu", "float16", names[2]], ["gpu", "int8-tensorrt", names[3]]]
