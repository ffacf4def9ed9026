"""Read and write the text of a ``config.pbtxt``."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.atomic import write_atomic
from shrinkserve.errors import ArtifactError
from shrinkserve.text import printable

OPENVINO_NOTE = "# For `shrinkserve serve` only: NVIDIA's OpenVINO backend runs batches of one size."
MAX_CONFIG_BYTES = 64 << 20
"""Largest configuration that is read."""
MAX_FIELDS = 50_000
"""Most fields of a configuration that is read. The parser takes 10 us for each."""
_STRING = re.compile(r"\"(?:[^\"\\]|\\.)*\"?|'(?:[^'\\]|\\.)*'?")


def to_text(config: pb.ModelConfig) -> str:
    """Return the text of a ``config.pbtxt``."""
    text = text_format.MessageToString(config)
    return f"{OPENVINO_NOTE}\n{text}" if config.backend == "openvino" else text


def write_config(path: Path, config: pb.ModelConfig) -> None:
    """Write a ``config.pbtxt`` atomically.

    Raises:
        ArtifactError: the file cannot be written.
    """
    write_atomic(path, to_text(config).encode())


def parse_config_text(text: str, where: str = "config.pbtxt") -> pb.ModelConfig:
    """Parse the text of a ``config.pbtxt``.

    Raises:
        ArtifactError: not a model configuration; names the line.
    """
    # Outside strings, each field or list entry has at least one of these characters.
    fields = sum(map(_STRING.sub('""', text).count, ":{<,"))
    if fields > MAX_FIELDS:
        hint = "publish the model again"
        raise ArtifactError(f"{where}: too many fields", expected=f"at most {MAX_FIELDS}", found=fields, hint=hint)
    try:
        return text_format.Parse(text, pb.ModelConfig())
    except (text_format.ParseError, ValueError, RecursionError) as exc:
        reason = printable(" ".join(str(exc).split()))[:300]
        what = f"{where}: not a Triton model configuration ({reason})"
        raise ArtifactError(what, hint="correct that line, or publish the model again") from exc


def read_config(path: Path) -> pb.ModelConfig:
    """Read a ``config.pbtxt``.

    Raises:
        ArtifactError: no such file, or not a model configuration.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise OSError(errno.EFBIG, f"more than {MAX_CONFIG_BYTES} bytes")
        return parse_config_text(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as exc:
        raise ArtifactError(f"{path}: not a readable configuration ({exc})", hint="publish the model again") from exc
