"""Open artifacts by path and engines by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from shrinkserve.artifact import Card, sha256_file
from shrinkserve.errors import ArtifactError
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes import open_artifact
from shrinkserve.runtimes import tensorrt as runtime

BUILT = {
    "library": "tensorrt_rtx",
    "version": "0.1",
    "gpu": None,
    "hardware_compatibility": "none",
    "batches": [1, 8, 32],
}
PREPROCESS = Preprocess(size=4)


def version(folder: Path) -> Path:
    """Write a version whose logits are the mean of the pixels, with engines of every backend."""
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["logits"], keepdims=0),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 4, 4, 3])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in ("logits", "probabilities")]
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])
    graph = helper.make_graph(nodes, "mean", [images], outputs, [axes])
    folder.mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "model.onnx"
    )
    for name in ("a-sm86.plan", "a-sm89.plan"):
        (folder / name).write_bytes(b"plan")
    built = {f"a-sm{gpu.replace('.', '')}.plan": {**BUILT, "compute_capability": gpu} for gpu in ("8.6", "8.9")}
    engines = {
        "bfloat16": engine("openvino", "model.onnx", parameters={"INFERENCE_PRECISION_HINT": "bf16"}),
        "float16": engine("onnxruntime", "model.onnx"),
        "plan": engine(
            "tensorrt",
            "a-sm86.plan",
            capabilities={"8.6": "a-sm86.plan", "8.9": "a-sm89.plan"},
            record={"built": built},
        ),
    }
    files = {path.name: sha256_file(path) for path in folder.iterdir()}
    described = {"classes": ["r", "g", "b"], "preprocess": PREPROCESS.to_dict()}
    Card("onnx", "mean", files=files, details={"engines": engines}, **described).write(folder)
    return folder


def engine(backend: str, file: str, **more: Any) -> dict[str, Any]:
    return {
        "backend": backend, "file": file, "precision": "float16", "parameters": {}, "capabilities": {}, "record": {},
        **more,
    }  # fmt: skip


@pytest.mark.parametrize(("name", "runtime"), [("bfloat16", "OpenVINO bf16"), ("float16", "ONNX Runtime")])
def test_engine_of_version_predicts_and_has_preprocessing(tmp_path: Path, name: str, runtime: str) -> None:
    if "OpenVINO" in runtime:
        pytest.importorskip("openvino")
    model = open_artifact(Path(f"{version(tmp_path / '1')}@{name}"))
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    np.testing.assert_allclose(model.predict(images), images.mean((1, 2)), rtol=0.01)
    assert runtime in model.name
    assert model.classes == ["r", "g", "b"]
    assert model.preprocess == PREPROCESS  # type: ignore[attr-defined]


@pytest.mark.parametrize(("here", "file"), [("8.6", "a-sm86.plan"), ("8.9", "a-sm89.plan"), (None, "a-sm86.plan")])
def test_open_chooses_plan_for_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str | None, file: str
) -> None:
    monkeypatch.setattr(runtime, "gpu", lambda: {"gpu": None, "compute_capability": here})
    with pytest.raises(ArtifactError, match=f"{file}: the plan does not fit this machine"):  # of another TensorRT
        open_artifact(Path(f"{version(tmp_path / '1')}@plan"))


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent", "expected bfloat16, float16, plan, found absent; ")],
)
def test_open_rejects_unknown_engine(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        open_artifact(Path(f"{version(tmp_path / '1')}@{name}"))
    assert message in str(caught.value)
