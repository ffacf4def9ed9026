"""Names that all stages share: files, tensors and models."""

from __future__ import annotations

import re

from shrinkserve.errors import ConfigError

MODEL = "model.onnx"
"""The graph in a version's folder."""
INPUT, LOGITS, PROBABILITIES = "images", "logits", "probabilities"
"""Tensors of every exported graph."""
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_name(name: str) -> None:
    """Check that a model or engine name is a plain folder name.

    Raises:
        ConfigError: it is not.
    """
    if not MODEL_NAME.fullmatch(name):
        expected = "a letter or digit, then up to 127 letters, digits, '-', '_' or '.'"
        raise ConfigError("model name", expected=expected, found=ascii(name)[:140])
