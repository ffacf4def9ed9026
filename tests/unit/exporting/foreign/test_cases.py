"""Small graphs of kinds that public reports name, each exported and compared with the unchanged file."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from shrinkserve.api import exporting
from shrinkserve.containers import NEWEST_OPSET
from shrinkserve.errors import ArtifactError, ConfigError, ShrinkServeError
from shrinkserve.exporting import graph
from shrinkserve.runtimes.onnx import OnnxModel

CASES = Path(__file__).parents[3] / "cases" / "export"
IMAGES = np.random.default_rng(3).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])

LOGITS = [
    "add_broadcast_pool_chain",
    "attention_mask_inf",
    "captured_conv_before_relu",
    "cast_float_inside",
    "computed_weight",
    "concat_pooled_input_novi",
    "constantofshape_inside",
    "depthwise_multiplier",
    "domain_ai_onnx",
    "dot_spatial_attention_add",
    "external/a",
    "function_named_conv",
    "gemm_bias_row",
    "gemm_bias_scalar",
    "grouped_conv",
    "if_subgraph_captures_padded",
    "in_no_shape",
    "init_named_logits",
    "init_named_probabilities",
    "ir3_initializers_as_inputs",
    "logsoftmax",
    "maxpool_indices",
    "ms_fusedconv",
    "nhwc_in",
    "ok",
    "onehot_where_inside",
    "opset11",
    "opset17_ir14",
    "opset7",
    "opset_too_new",
    "opt_ext",
    "out_4d",
    "out_no_shape",
    "prelu_clip_pad",
    "two_outputs_logits_probs",
    "uint8_nhwc_in",
]
PROBABILITIES = [
    "inner_named_logits",
    "softmax_4d_flatten",
    "softmax_4d_reshape",
    "softmax_cast",
    "softmax_clip",
    "softmax_decomposed",
    "softmax_identity",
    "softmax_novi",
    "softmax_opset11",
]
INT8 = [
    "attention_mask_inf",
    "gemm_bias_row",
    "gemm_bias_scalar",
    "ir3_initializers_as_inputs",
    "opset11",
    "opset7",
]
NOT_FLOAT32 = {"all_half": "float16", "fp16_inside_fp32_io": "float16", "qdq": "int8", "qop": "int8"}
REJECTED = {
    "batch1": "batch is fixed at 1",
    "bn_training": "contradicts itself",
    "dyn": "contradicts itself",
    "one_channel": "input has 1 channels",
    "random_node": "two runs on the same images",
    "reshape_const_batch": "cannot run a batch",
    "sigmoid_multi": "sigmoids",
    "external/extup": "outside its folder",
    "external/missing": "gone.bin",
}


def export(name: str, folder: Path, **options: object) -> exporting.ExportResult:
    files = {"onnx": CASES / f"{name}.onnx", "preprocess": CASES / "pre.toml", "labels": CASES / "labels5.txt"}
    return exporting.export(**files, repository=folder / "models", max_batch=8, **options)  # type: ignore[arg-type]


def run_original(path: Path) -> dict[str, np.ndarray]:
    """Outputs of the file for each image alone, by ONNX Runtime without optimisations, normalised in numpy."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    image = session.get_inputs()[0]
    dtype = np.float16 if "float16" in image.type else np.float32
    pixels = IMAGES if "uint8" in image.type else ((IMAGES / 255 - MEAN) / STD).astype(dtype)
    if "nhwc" not in path.name:
        pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    names = [value.name for value in session.get_outputs()]
    rows = [session.run(names, {image.name: pixels[i : i + 1]}) for i in range(len(pixels))]
    return {name: np.concatenate([row[i] for row in rows]) for i, name in enumerate(names)}


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def check_outputs(name: str, result: exporting.ExportResult) -> None:
    original = next(iter(run_original(CASES / f"{name}.onnx").values()))
    for size in (1, 3, 8):
        model = OnnxModel(result.folder / "model.onnx")
        found = [model.infer(IMAGES[i : i + size]) for i in range(0, len(IMAGES), size)]
        logits, probabilities = (np.concatenate([one[key] for one in found]) for key in ("logits", "probabilities"))
        if name in PROBABILITIES:
            atol = 2e-4 if name == "softmax_cast" else 1e-5  # it rounds to float16
            np.testing.assert_allclose(probabilities, original.reshape(probabilities.shape), atol=atol)
        else:
            np.testing.assert_allclose(
                logits, original.reshape(logits.shape), atol=1e-4 * max(1, np.abs(original).max())
            )
        np.testing.assert_allclose(probabilities, softmax(logits), atol=1e-5)


@pytest.mark.parametrize("name", [*LOGITS, *PROBABILITIES])
def test_export_keeps_outputs(tmp_path: Path, name: str) -> None:
    result = export(name, tmp_path)
    check_outputs(name, result)
    written = onnx.load(result.folder / "model.onnx")
    assert written.ir_version <= 10 or name == "opset_too_new"
    assert written.ir_version <= 13  # ONNX Runtime 1.24 rejects newer ones
    assert max(entry.version for entry in written.opset_import if not entry.domain) <= NEWEST_OPSET


@pytest.mark.parametrize(("name", "precision"), NOT_FLOAT32.items())
def test_export_keeps_precision_of_file(tmp_path: Path, name: str, precision: str) -> None:
    result = export(name, tmp_path)
    assert result.card.details["precision"] == precision
    original = run_original(CASES / f"{name}.onnx")["output"]
    found = OnnxModel(result.folder / "model.onnx").predict(IMAGES)
    original = original.astype(np.float32)
    np.testing.assert_allclose(found, original, atol=0.01 * np.abs(original).max())
    with pytest.raises(ConfigError, match=precision):
        export(name, tmp_path, to="fp16")


@pytest.mark.parametrize(("name", "part"), REJECTED.items())
def test_export_rejects_unsuitable_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, part: str
) -> None:
    with pytest.raises(ArtifactError, match=part) as caught:
        export(name, tmp_path)
    assert str(CASES / f"{name}.onnx") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "models").exists()
    assert capfd.readouterr().err == "", "a library printed"


@pytest.mark.parametrize("name", [name for name in LOGITS if name != "ms_fusedconv"] + PROBABILITIES)
def test_float16_predicts_like_float32(tmp_path: Path, name: str) -> None:
    result = export(name, tmp_path, to="fp16")
    check = result.engines[0].record["steps"][-1]["parity"]
    assert check["passed"]


@pytest.mark.parametrize(
    "name",
    ["opset7", "opset11", "ir3_initializers_as_inputs", "attention_mask_inf", "gemm_bias_row", "gemm_bias_scalar"],
)
def test_int8_ends_without_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("shrinkserve.exporting.quantise.step.timed", lambda *_: (0.002, 0.001))
    assert export(name, tmp_path, to="int8", max_top1_drop=20).engines[0].precision == "int8"
    assert capfd.readouterr().err == ""


def test_unknown_types_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="FusedConv"):
        export("ms_fusedconv", tmp_path, to="fp16")


def test_weights_hash_covers_external_weights(tmp_path: Path) -> None:
    """Two trainings of a network whose .onnx files are equal, with weights in a second file."""
    results = []
    for number, factor in enumerate((1.0, 1.05)):
        folder = shutil.copytree(CASES / "external", tmp_path / str(number))
        weights = np.fromfile(folder / "ext.onnx.data", np.float32) * np.float32(factor)
        (folder / "ext.onnx.data").write_bytes(weights.tobytes())
        described = {"preprocess": CASES / "pre.toml", "labels": CASES / "labels5.txt"}
        results.append(exporting.export(onnx=folder / "a.onnx", repository=folder / "models", **described))
    assert (tmp_path / "0" / "a.onnx").read_bytes() == (tmp_path / "1" / "a.onnx").read_bytes()
    first, second = (result.card for result in results)
    assert first.weights_sha256 != second.weights_sha256
    assert len(first.parents) == 2


def test_grouped_convolutions_are_not_padded() -> None:
    from shrinkserve.exporting.passes import PadChannels
    from shrinkserve.exporting.passes.nodes import attribute, conv_weight

    model = graph.load(CASES / "depthwise_multiplier.onnx")
    before = Counter(conv_weight(node).shape for node in model.graph if attribute(node, "group", 1) > 1)
    PadChannels(16)(model)
    after = Counter(conv_weight(node).shape for node in model.graph if attribute(node, "group", 1) > 1)
    assert before
    assert before == after


@pytest.mark.parametrize("stem", ["my model", "ñandú", ".hidden"])
def test_export_checks_name_before_work(tmp_path: Path, stem: str) -> None:
    path = shutil.copy(CASES / "ok.onnx", tmp_path / f"{stem}.onnx")
    with pytest.raises(ConfigError, match="name"):
        exporting.export(onnx=path, repository=tmp_path / "models")


def test_operator_of_a_newer_opset_is_rejected() -> None:
    nodes = [onnx.helper.make_node("CumProd", ["x", "axis"], ["y"])]  # since opset 26
    given, made = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in ("x", "y"))
    axis = onnx.helper.make_tensor("axis", onnx.TensorProto.INT64, [], [1])
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", [given], [made], [axis]), opset_imports=[onnx.helper.make_opsetid("", 26)]
    )
    with pytest.raises(ArtifactError, match="from opset 26 to 25") as caught:
        graph.lower_opset(ir.serde.deserialize_model(proto))
    assert "opset 25" in str(caught.value.hint)


def test_messages_name_the_given_file(tmp_path: Path) -> None:
    with pytest.raises(ShrinkServeError) as caught:
        export("opt_all", tmp_path, to="bf16")  # OpenVINO lacks the operators of ONNX Runtime's CPU layout
    assert "opt_all.onnx" in str(caught.value)
    assert "/tmp/" not in str(caught.value).replace(str(tmp_path), "")


@pytest.mark.parametrize("last", ["Relu", "Sigmoid"])
def test_small_values_of_a_relu_are_logits_and_of_a_sigmoid_are_none(tmp_path: Path, last: str) -> None:
    weights = np.random.default_rng(0).uniform(0, 0.1, (5, 3, 1, 1)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        onnx.helper.make_node(last, ["c"], ["r"]),
        onnx.helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        onnx.helper.make_node("Flatten", ["g"], ["y"]),
    ]
    ends = [("x", ["batch", 3, 32, 32]), ("y", ["batch", 5])]
    given, made = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in ends)
    constants = {"w": weights, "b": np.full(5, 0.3, np.float32)}
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", [given], [made], tensors),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(proto, tmp_path / "net.onnx")
    files = {"onnx": tmp_path / "net.onnx", "preprocess": CASES / "pre.toml", "labels": CASES / "labels5.txt"}
    if last == "Sigmoid":
        with pytest.raises(ArtifactError, match="sigmoids"):
            exporting.export(**files, repository=tmp_path / "models")  # type: ignore[arg-type]
        return
    result = exporting.export(**files, repository=tmp_path / "models", max_batch=8)  # type: ignore[arg-type]
    pixels = ((IMAGES / 255 - MEAN) / STD).mean(axis=(1, 2), dtype=np.float64)  # for a ReLU that cuts nothing off
    logits = OnnxModel(result.folder / "model.onnx").predict(IMAGES)
    assert (logits > 0).all()
    assert (logits < 1).all()
    np.testing.assert_allclose(logits, pixels @ weights[:, :, 0, 0].T + 0.3, atol=1e-2)


def test_sigmoid_of_one_class_is_rejected(tmp_path: Path) -> None:
    files = {"onnx": CASES / "sigmoid_binary.onnx", "preprocess": CASES / "pre.toml", "labels": CASES / "labels1.txt"}
    with pytest.raises(ArtifactError, match="sigmoids"):
        exporting.export(**files, repository=tmp_path / "models")  # type: ignore[arg-type]
