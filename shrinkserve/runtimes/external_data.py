"""Check where an ONNX file reads its weights from, before any library opens them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from shrinkserve.errors import ArtifactError

if TYPE_CHECKING:
    import onnx

LARGEST = 2**31 - 1
"""Bytes that one protobuf message can have."""
DIGITS = 19
"""A position in a file has fewer digits."""


def check_external_data(path: Path) -> list[Path]:
    """Return the files with the weights of an ONNX file, after checking that they lie in its folder.

    ONNX Runtime 1.23 and onnx-ir 0.1.8 read weights from anywhere, so a model file could copy any file of the user
    into the model that is published.

    Args:
        path: an .onnx file.

    Raises:
        ArtifactError: not an ONNX file, weights outside its folder, or a missing or incomplete file of weights.
    """
    ends: dict[str, int] = {}
    for tensor in _tensors(_parse(path)):
        if (name := _location(tensor)) is not None:
            ends[name] = max(ends.get(name, 0), _end(path, tensor))
    files = []
    for name, end in sorted(ends.items()):
        file = _inside(path, name)
        if (size := file.stat().st_size) < end:
            what = f"{path}: its weights {ascii(name)[:100]} are incomplete"
            raise ArtifactError(what, expected=f"{end} bytes", found=str(size), hint="copy the file again")
        files.append(file)
    return files


def _parse(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        if path.exists() and not path.is_file():  # a pipe or a device would not end
            raise ArtifactError(f"{path}: not a file", expected="an .onnx file")
        if (size := path.stat().st_size) > LARGEST:
            raise ArtifactError(f"{path}: the file is too large", expected="below 2 GB", found=f"{size / 1e9:.1f} GB")
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file", hint="check the path") from None
    except (OSError, DecodeError, ValueError) as exc:
        raise ArtifactError(f"{path}: not a readable ONNX file ({exc})", hint="export it again") from exc
    if not model.graph.node:
        raise ArtifactError(f"{path}: not an ONNX model (no nodes)", hint="export it again")
    return model


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Return every tensor of a model: weights and attributes, of the graph, its subgraphs and functions."""
    yield from _tensors_of_graph(model.graph)
    for function in model.functions:
        yield from _tensors_of_nodes(function.node)


def _tensors_of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (attribute.g, *attribute.graphs):
                yield from _tensors_of_graph(graph)


def _location(tensor: onnx.TensorProto) -> str | None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return entries.get("location", "") if tensor.data_location == tensor.EXTERNAL or entries else None


def _end(path: Path, tensor: onnx.TensorProto) -> int:
    """Return the position behind a tensor in its file."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    numbers = [entries.get(key, "0") for key in ("offset", "length")]
    if not all(number.isascii() and number.isdigit() and len(number) < DIGITS for number in numbers):
        found = ascii(", ".join(numbers))[:100]
        what = f"{path}: position of the weight {ascii(tensor.name)[:100]}"
        raise ArtifactError(what, expected="offset and length in bytes", found=found, hint="export it again")
    return sum(map(int, numbers))


def _inside(path: Path, name: str) -> Path:
    """Return the file of weights `name` of the ONNX file `path`."""
    folder, shown = path.parent.resolve(), ascii(name)[:100]
    outside = ArtifactError(
        f"{path}: its weights are outside its folder", expected=f"a file in {path.parent}", found=shown
    )
    if not name or "\0" in name or PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute():
        raise outside
    file = path.parent / name
    try:
        if not file.resolve().is_relative_to(folder):
            raise outside
        if not file.is_file():
            hint = f"put {shown} into {path.parent}: torch writes the weights into a second file"
            raise ArtifactError(f"{path}: its weights are missing, no file {shown}", hint=hint)
    except (OSError, RuntimeError) as exc:  # RuntimeError: links in a circle, before Python 3.13
        reason = getattr(exc, "strerror", None) or "links in a circle"
        raise ArtifactError(f"{path}: cannot read its weights {shown} ({reason})") from exc
    return file
