"""Import TensorRT's Python packages and look up what they can build for."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, Literal

from shrinkserve.errors import ConfigError

MODULES = {"tensorrt": ("tensorrt",), "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
TrtObject = Any
"""Object of TensorRT's API, whose packages have no types."""
Library = Literal["tensorrt", "tensorrt_rtx"]
Compatibility = Literal["none", "ampere+", "same_compute_capability"]
"""Other GPUs that may load an engine."""


def import_library(library: Library) -> ModuleType:
    """Return the Python module of a TensorRT library.

    Raises:
        ConfigError: it is not installed, or its libraries cannot be loaded.
    """
    reason = ""
    for name in MODULES[library]:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as exc:  # a wheel without its libraries raises either
            reason = str(exc)
    hint = {
        "tensorrt": "pip install tensorrt on the machine with the GPU, or use --builder tensorrt_rtx without a GPU",
        "tensorrt_rtx": "pip install tensorrt-rtx-cu12",
    }[library]
    raise ConfigError(f"cannot import {library} ({reason})", hint=hint)


def capability(trt: ModuleType, wanted: str) -> TrtObject:
    """Return the builder's constant for a compute capability."""
    if not hasattr(trt, "ComputeCapability"):
        what = f"{trt.__name__} builds only for the GPU of this machine"
        raise ConfigError(what, hint="leave the compute capability out, or build with tensorrt_rtx")
    known = {name: value for name, value in trt.ComputeCapability.__members__.items() if name.startswith("SM")}
    if f"SM{sm_number(wanted)}" not in known:
        expected = f"one of {', '.join(f'{name[2:-1]}.{name[-1]}' for name in known)}"
        raise ConfigError("compute capability", expected=expected, found=wanted)
    return known[f"SM{sm_number(wanted)}"]


def sm_number(capability: str) -> str:
    """Return a compute capability without its point."""
    return capability.replace(".", "")
