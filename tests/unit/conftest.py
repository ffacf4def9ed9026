"""A small ONNX classifier with its card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from shrinkserve.artifact import Card, sha256_file, tensors_sha256
from shrinkserve.preprocess import Preprocess

MakeModel = Callable[..., tuple[Path, Card]]


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """Make an ONNX classifier of random weights, mean colour in, and its card."""

    def make(seed: int = 0, size: int = 8, classes: int = 4) -> tuple[Path, Card]:
        rng = np.random.default_rng(seed)
        weights = {
            "weight": rng.normal(size=(3, classes)).astype(np.float32),
            "bias": rng.normal(size=classes).astype(np.float32),
        }
        nodes = [
            helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
            helper.make_node("Div", ["mean", "scale"], ["scaled"]),
            helper.make_node("Gemm", ["scaled", "weight", "bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"]),
        ]
        constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
        constants.append(numpy_helper.from_array(np.array([1, 2], np.int64), "axes"))
        constants.append(numpy_helper.from_array(np.array(51.0, np.float32), "scale"))
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", size, size, 3])],
            [
                helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", classes])
                for n in ("logits", "probabilities")
            ],
            constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        path = tmp_path_factory.mktemp("made") / "model.onnx"
        onnx.save(model, path)
        card = Card(
            "onnx",
            "tiny",
            weights_sha256=tensors_sha256(weights),
            files={"model.onnx": sha256_file(path)},
            preprocess=Preprocess(size=size).to_dict(),
            classes=[f"class {index}: a name" for index in range(classes)],
        )
        return path, card

    return make
