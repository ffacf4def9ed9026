"""ONNX graph that turns probabilities into text: one line of JSON for each of the best classes.

The text is uint8, since Triton writes a length of four bytes before a string, most of which are 0, and curl refuses to
print those on a terminal. The constant parts of the lines are in a table with a row for each class. The graph takes the
rows of the best classes and adds the digits of their probabilities. ONNX Runtime has all these operators for a CPU.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shrinkserve.artifact import PROBABILITIES
from shrinkserve.errors import ArtifactError
from shrinkserve.text import printable

LINES = 5
"""Most lines of a text."""
TEXT = "text"
"""Output of the graph."""
MAX_NAME = 200
"""Longest class name in a line, in characters; the rest is cut off."""
START, ZERO, DECIMALS = '\n{"probability": ', "0.0000", 4
OPSET, IR_VERSION = 18, 9
TABLE = "table"


def line_table(classes: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Return the line of each class with probability 0, padded with spaces: uint8 [classes, width]."""
    lines = [
        f'{START}{ZERO}, "index": {index}, "name": {printable(json.dumps(_cut(name), ensure_ascii=False))}}}'.encode()
        for index, name in enumerate(classes)
    ]
    width = max(map(len, lines))
    return np.frombuffer(b"".join(line.ljust(width) for line in lines), np.uint8).reshape(len(lines), width)


def _cut(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}\u2026"


def text_length(table: npt.NDArray[np.uint8]) -> int:
    """Return the length of a text: it starts and ends with a line feed."""
    return min(LINES, len(table)) * int(table.shape[1]) + 1


def table_hash(table: npt.NDArray[np.uint8]) -> str:
    """Return 16 hexadecimal digits that identify a table."""
    return hashlib.sha256(str(table.shape).encode() + table.tobytes()).hexdigest()[:16]


def hash_in_file(path: Path) -> str:
    """Return the hash of the table in a graph that `lines_model` made.

    Raises:
        ArtifactError: not such a graph.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(path).graph
        (table,) = (onnx.numpy_helper.to_array(one) for one in graph.initializer if one.name == TABLE)
    except (OSError, ValueError, DecodeError) as exc:
        raise ArtifactError(f"{path}: cannot be read as the graph of a reply's lines ({exc})") from exc
    return table_hash(table)


def lines_model(classes: Sequence[str]) -> bytes:
    """Return the graph as the content of a ``model.onnx``: float32 [N, classes] -> uint8 [N, `text_length`].

    Args:
        classes: names in the order of the probabilities.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    table = line_table(classes)
    places = np.zeros((1 + DECIMALS, table.shape[1]), np.int32)  # digit -> its column
    columns = [len(START) + place for place, character in enumerate(ZERO) if character == "0"]
    places[range(len(columns)), columns] = 1
    constants = {
        TABLE: table,
        "places": places,
        "lines": np.array([min(LINES, len(classes))], np.int64),
        "scale": np.float32(10**DECIMALS),
        "powers": 10 ** np.arange(DECIMALS, -1, -1, dtype=np.int32),
        "ten": np.array(10, np.int32),
        "last": np.array([-1], np.int64),
        "flat": np.array([0, -1], np.int64),
        "first": np.array([0], np.int64),
        "second": np.array([1], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("TopK", [PROBABILITIES, "lines"], ["best", "indices"]),
        node("Gather", [TABLE, "indices"], ["rows"]),
        node("Cast", ["rows"], ["characters"], to=TensorProto.INT32),
        node("Mul", ["best", "scale"], ["scaled"]),
        node("Round", ["scaled"], ["rounded"]),
        node("Cast", ["rounded"], ["whole"], to=TensorProto.INT32),
        node("Unsqueeze", ["whole", "last"], ["column"]),
        node("Div", ["column", "powers"], ["leading"]),
        node("Mod", ["leading", "ten"], ["digits"]),
        node("MatMul", ["digits", "places"], ["placed"]),
        node("Add", ["characters", "placed"], ["filled"]),
        node("Cast", ["filled"], ["bytes"], to=TensorProto.UINT8),
        node("Reshape", ["bytes", "flat"], ["joined"]),
        node("Slice", ["joined", "first", "second", "second"], ["line_feed"]),
        node("Concat", ["joined", "line_feed"], [TEXT], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "lines",
        [helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["batch", len(classes)])],
        [helper.make_tensor_value_info(TEXT, TensorProto.UINT8, ["batch", text_length(table)])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
