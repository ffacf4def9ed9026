from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from shrinkserve.artifact import Card, sha256_file
from shrinkserve.errors import ArtifactError, DataError
from shrinkserve.runtimes import open_artifact
from shrinkserve.runtimes.onnx import OnnxModel


def write(path: Path, input_shape: list[object], output: str = "logits", kind: int = TensorProto.UINT8) -> Path:
    """Logits are the mean colour of each image."""
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], [output], keepdims=0),
        helper.make_node("Softmax", [output], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("images", kind, input_shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in (output, "probabilities")],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_onnx_model_predicts_any_batch(tmp_path: Path) -> None:
    model = OnnxModel(write(tmp_path / "m.onnx", ["n", 4, 4, 3]), threads=1)
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    assert (model.size, model.classes) == (4, ["0", "1", "2"])
    np.testing.assert_allclose(model.predict(images), images.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(model.infer(images[:1])["probabilities"].sum(), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 3, 4, 4), np.uint8),
        np.zeros((1, 5, 5, 3), np.uint8),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((1, 4, 4, 3), np.float32),
        [[1]],
    ],
)
def test_predict_rejects_images_of_another_type_or_shape(tmp_path: Path, images: np.ndarray) -> None:
    model = OnnxModel(write(tmp_path / "m.onnx", ["n", 4, 4, 3]))
    with pytest.raises(DataError, match=r"expected uint8 \[N, 4, 4, 3\]"):
        model.predict(images)


def test_onnx_model_takes_class_names_from_card(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", ["n", 4, 4, 3])
    Card(kind="onnx", name="colours", classes=["r", "g", "b"], files={path.name: sha256_file(path)}).write(tmp_path)
    assert open_artifact(path).classes == ["r", "g", "b"]


def test_onnx_model_rejects_file_that_differs_from_card(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", ["n", 4, 4, 3])
    Card(kind="onnx", name="colours", files={path.name: "0" * 64}).write(tmp_path)
    with pytest.raises(ArtifactError, match="sha256 does not match"):
        OnnxModel(path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"input_shape": ["n", 4, 5, 3]}, r"one input images uint8 \[N, S, S, 3 or 1\]"),
        ({"input_shape": ["n", 4, 4, 3], "kind": TensorProto.FLOAT}, r"one input images uint8 \[N, S, S, 3 or 1\]"),
        ({"input_shape": ["n", 4, 4, 3], "output": "scores"}, "outputs logits and probabilities"),
    ],
)
def test_wrong_interface_is_rejected(tmp_path: Path, arguments: dict[str, object], expected: str) -> None:
    with pytest.raises(ArtifactError, match=expected):
        OnnxModel(write(tmp_path / "m.onnx", **arguments))  # type: ignore[arg-type]


def test_open_rejects_files_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        OnnxModel(tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(ArtifactError, match="not a readable ONNX file"):
        OnnxModel(tmp_path / "text.onnx")
    (tmp_path / "model.bin").touch()
    with pytest.raises(ArtifactError, match=r"expected a run folder, .* or a \.plan file, found \.bin"):
        open_artifact(tmp_path / "model.bin")
