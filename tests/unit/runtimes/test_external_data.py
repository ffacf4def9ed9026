from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from shrinkserve.errors import ArtifactError
from shrinkserve.exporting import graph
from shrinkserve.runtimes.external_data import check_external_data
from shrinkserve.runtimes.onnx import open_session
from shrinkserve.runtimes.openvino import OpenVinoModel


def external(location: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return tensor


def write(path: Path, tensor: TensorProto, where: str = "initializer") -> Path:
    """Write ``y = x + w``, with the tensor as a weight, in a Constant, or in a branch of an If."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y"))
    weights, nodes = [], [helper.make_node("Add", ["x", "w"], ["y"])]
    if where == "initializer":
        weights = [tensor]
    elif where == "constant":
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    else:
        branch = helper.make_graph([helper.make_node("Identity", ["w"], ["b"])], "b", [], [y], [tensor])
        branch.output[0].name = "b"
        condition = numpy_helper.from_array(np.array(True), "c")
        nodes = [helper.make_node("If", ["c"], ["v"], then_branch=branch, else_branch=branch)]
        nodes.append(helper.make_node("Add", ["x", "v"], ["y"]))
        weights = [condition]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], weights), ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("where", ["initializer", "constant", "branch"])
def test_weights_in_the_folder_are_listed(tmp_path: Path, where: str) -> None:
    (tmp_path / "w.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    path = write(tmp_path / "net.onnx", external("w.bin"), where)
    assert check_external_data(path) == [tmp_path / "w.bin"]


@pytest.mark.parametrize("where", ["initializer", "constant", "branch"])
@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "a/../../secret", "link", "", "a\0b", "C:\\secret"])
@pytest.mark.parametrize("read", [check_external_data, graph.load, open_session, OpenVinoModel])
def test_weights_outside_the_folder_are_rejected(tmp_path: Path, where: str, location: str, read: object) -> None:
    (tmp_path / "secret").write_bytes(b"TOPSECRET-KEY-!!")
    (folder := tmp_path / "models").mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    path = write(folder / "net.onnx", external(location), where)
    with pytest.raises(ArtifactError, match="outside its folder") as caught:
        read(path)  # type: ignore[operator]
    assert "TOPSECRET" not in str(caught.value)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"net\.onnx: its weights are missing, no file 'gone\.bin'"):
        check_external_data(write(tmp_path / "net.onnx", external("gone.bin")))


@pytest.mark.parametrize("content", [b"", b"text", b"\x08\x07"])
def test_other_files_are_rejected(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match="not a"):
        check_external_data(tmp_path / "net.onnx")


def test_plain_model_has_no_external_data(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    path = write(tmp_path / "net.onnx", weight)
    onnx.checker.check_model(onnx.load(path))
    assert check_external_data(path) == []


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("offset", "-5", "offset and length"),
        ("offset", "abc", "offset and length"),
        ("length", "9" * 30, "offset and length"),
        ("length", "17", "incomplete"),
        ("offset", "1000", "incomplete"),
    ],
)
def test_position_of_weights_is_checked(tmp_path: Path, key: str, value: str, part: str) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(16))
    tensor = external("w.bin")
    tensor.external_data.add(key=key, value=value)
    with pytest.raises(ArtifactError, match=part) as caught:
        check_external_data(write(tmp_path / "net.onnx", tensor))
    assert "w" in caught.value.what


def test_links_in_a_circle_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "w.bin").symlink_to("w.bin")
    with pytest.raises(ArtifactError, match=r"w\.bin"):
        check_external_data(write(tmp_path / "net.onnx", external("w.bin")))
