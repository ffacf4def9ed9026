"""Parser of AutoShrink's ``.prototxt`` network files: sections of ``key=value`` lines.

```
[Convolutional]
name=conv_pre1
input=input
filters=44
```

Despite the name it is not a protobuf. This module returns layers with checked keys and values, which
`shrinkserve.arch.importer` turns into a network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from shrinkserve.arch.spec import CHANNELS, EXTENT, FRACTION, MANY, Attribute
from shrinkserve.errors import SpecError

MAX_BYTES = 1 << 20
Parsed: TypeAlias = Any
"""Value of a key: text, a number, a boolean, or a list of names or sizes, as `READERS` decides by the key."""
NAME = re.compile(r"[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)


@dataclass(frozen=True)
class Layer:
    """One section: its kind, the number of its first line, its values, and the line of each value."""

    kind: str
    line: int
    values: dict[str, Parsed]
    lines: dict[str, int]

    def __getitem__(self, key: str) -> Parsed:
        return self.values[key]


def malformed(line: int, what: str, expected: object = None, found: object = None) -> SpecError:
    """Return the error for one line; the caller adds the name of the file."""
    return SpecError(f"line {line}: {what}", expected=expected, found=None if found is None else f"{found!r:.80}")


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, at most one byte more than `MAX_BYTES`.

    Raises:
        SpecError: cannot read the file.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as exc:  # ValueError: a path with a null byte
        raise SpecError(
            f"{path}: cannot read the file ({getattr(exc, 'strerror', exc)})", hint="check the path"
        ) from None


def read_lines(content: bytes) -> list[str]:
    """Return the lines of a file, stripped.

    Raises:
        SpecError: longer than `MAX_BYTES`, or not UTF-8.
    """
    if len(content) > MAX_BYTES:
        raise malformed(content[:MAX_BYTES].count(b"\n") + 1, "the file is too large", f"at most {MAX_BYTES} bytes")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise malformed(content[: exc.start].count(b"\n") + 1, "invalid text", "UTF-8") from None
    return [line.strip() for line in text.split("\n")]


def parse(content: bytes) -> Iterator[Layer]:
    """Return the layers of a network file.

    Raises:
        SpecError: the file is invalid; names the line.
    """
    layer: Layer | None = None
    line = 0
    for line, text in enumerate(read_lines(content), start=1):
        if not text or text.startswith("#"):
            continue
        if text.startswith("["):
            if layer is not None:
                yield _complete(layer)
            layer = Layer(_kind(text, line), line, {}, {})
        elif layer is None:
            raise malformed(line, "value outside of a section", expected="[Model] or another section first", found=text)
        else:
            _add_value(layer, text, line)
    if layer is None:
        raise malformed(line, "the file has no sections", expected="[Model] and the layers")
    yield _complete(layer)


def _kind(text: str, line: int) -> str:
    kind = text[1:-1]
    if not text.endswith("]") or kind not in SECTIONS:
        known = ", ".join(f"[{known}]" for known in SECTIONS)
        raise malformed(line, "unknown section", expected=f"one of {known}", found=text)
    return kind


def _add_value(layer: Layer, text: str, line: int) -> None:
    key, sign, value = (part.strip() for part in text.partition("="))
    known = SECTIONS[layer.kind].split()
    if not sign or key not in known:
        expected = f"key=value with a key of [{layer.kind}]: {', '.join(known)}"
        raise malformed(line, "unknown key", expected=expected, found=text)
    if key in layer.values:
        raise malformed(
            line, f"duplicate key {key}", expected=f"one, it is also in line {layer.lines[key]}", found=text
        )
    reader = READERS.get(f"{layer.kind}.{key}") or READERS[key]
    read = reader.read(value)
    if read is None:
        raise malformed(line, key, expected=reader.expected, found=value)
    layer.values[key], layer.lines[key] = read, line


def _complete(layer: Layer) -> Layer:
    if missing := [key for key in SECTIONS[layer.kind].split() if key not in layer.values]:
        raise malformed(layer.line, f"[{layer.kind}] is incomplete", expected=f"also {', '.join(missing)}")
    return layer


@dataclass(frozen=True)
class Reader:
    """Parser of one value: `read` returns None for invalid text, `expected` describes valid text."""

    expected: str
    read: Callable[[str], Parsed]


def value_reader(rule: Attribute) -> Reader:
    """Return the reader of values that `rule` accepts."""

    def read(text: str) -> Parsed:
        value: Parsed = text
        try:
            if rule.kind is bool:
                value = {"True": True, "False": False}.get(text)
            elif rule.kind is not str:
                value = rule.kind(text)
        except ValueError:
            return None
        return value if rule.accepts(value) else None

    return Reader(str(rule), read)


def _only(text: str) -> Reader:
    # Other values would describe a network that a spec cannot represent.
    return Reader(f"{text}, the only supported value", lambda found: text if found == text else None)


def _list(text: str) -> list[str]:
    if text.startswith("[") and text.endswith("]"):
        return [item.strip().strip("'\"") for item in text[1:-1].split(",")]
    return [text]


def _names(text: str) -> list[str] | None:
    names = _list(text)
    return names if 2 <= len(names) <= MANY and all(map(NAME.fullmatch, names)) else None


def _sizes(text: str) -> list[int] | None:
    try:
        sizes = [int(item) for item in _list(text)]
    except ValueError:
        return None
    return sizes if len(sizes) in (1, 3) and all(map(CHANNELS.accepts, sizes)) else None


def _matching(pattern: re.Pattern[str], expected: str) -> Reader:
    return Reader(expected, lambda text: text if pattern.fullmatch(text) else None)


_LAYER = _matching(NAME, "a layer's name: letters, digits and '_' in parts joined by '/'")
_ZERO = Reader("0, the only supported value", lambda text: 0.0 if re.fullmatch(r"0(\.0*)?", text) else None)

READERS: dict[str, Reader] = {
    "name": _LAYER,
    "input": _LAYER,
    "labels": _LAYER,
    "logits": _LAYER,
    "input_shape": Reader("[height, width, channels] or [classes]", _sizes),
    "dtype": _only("float32"),
    "mean": _only("-1"),
    "std": _only("-1"),
    "filters": value_reader(CHANNELS),
    "units": value_reader(CHANNELS),
    "kernel_size": value_reader(EXTENT),
    "pool_size": value_reader(EXTENT),
    "strides": value_reader(EXTENT),
    "k": value_reader(CHANNELS),
    "padding": _only("SAME"),
    "activation": value_reader(Attribute(str, choices=("linear", "relu", "swish"))),
    "regularizer_strength": value_reader(FRACTION),
    "label_smoothing": value_reader(FRACTION),
    "dropout": _ZERO,
    "trainable": _only("True"),
    "use_bias": _only("False"),
    "batchnorm": _only("True"),
    "Model.name": _matching(re.compile(r"\w[\w.-]*", re.ASCII), "a name of letters, digits, '_', '.' and '-'"),
    "Model.pretrain": Reader("a path", lambda text: text),
    "Concat.input": Reader("layers' names, as ['a', 'b']", _names),
    "Add.input": Reader("layers' names, as ['a', 'b']", _names),
    "Add.activation": _only("linear"),
    "Dropout.dropout": value_reader(FRACTION),
    "Dense.activation": _only("linear"),
    "Dense.batchnorm": _only("False"),
    "Dense.use_bias": value_reader(Attribute(bool)),
}
"""Key -> its reader; ``Section.key`` has precedence over ``key``."""

_SHARED = "regularizer_strength trainable dropout batchnorm use_bias"
_CONVOLUTION = f"name input filters kernel_size strides padding activation {_SHARED}"
SECTIONS: dict[str, str] = {
    "Model": "name pretrain",
    "Input": "name input_shape dtype mean std",
    "Convolutional": _CONVOLUTION,
    "SeparableConv": _CONVOLUTION,
    "MaxPool": "name input pool_size strides padding",
    "Concat": "name input",
    "Add": "name input activation",
    "GlobalAvgPool": "name input",
    "Flatten": "name input",
    "Dropout": "name input dropout",
    "Dense": "name input units dropout activation batchnorm regularizer_strength use_bias",
    "SoftmaxLoss": "name input labels label_smoothing",
    "Accuracy": "name logits labels",
    "TopkAcc": "name logits labels k",
}
"""Section -> its keys, all of them required."""
