"""Types and defaults of arguments that several functions and commands have. Imports no library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

Say = Callable[[str], None]
"""Function that receives each line of progress."""
Weights = Literal["ema", "raw"]
ExportTarget = Literal["onnxruntime-cpu", "openvino", "tensorrt"]

REPOSITORY = Path("model_repository")
"""The default model repository."""
WAIT_SECONDS = 600.0
"""Longest wait for another publisher."""


def silent(_: str) -> None:
    """Discard a line."""
