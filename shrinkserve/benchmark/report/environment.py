"""Where a figure was measured: without it, it says nothing."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import psutil

from shrinkserve.artifact import recorded_command, utc_now, versions
from shrinkserve.machine import usable_cores

LIBRARIES = ("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tritonclient", "numpy", "pillow")


def environment(*libraries: str) -> dict[str, Any]:
    """The machine, the software and the command; the unit is in the name.

    Args:
        libraries: packages besides `LIBRARIES` whose versions matter; those that are not installed are left out.
    """
    frequency = psutil.cpu_freq()
    return {
        "date": utc_now(),
        "command": command(),
        "cpu": _cpu_name(),
        "cores_usable": usable_cores(),
        "cores_physical": psutil.cpu_count(logical=False),
        "cpu_mhz_max": frequency.max or frequency.current if frequency else None,
        "memory_gib": psutil.virtual_memory().total / 2**30,
        "load_average_at_start": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "gpus": _gpu_names(),
        "threads": {name: value for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if (value := os.environ.get(name))},
        "versions": versions((*LIBRARIES, *libraries)),
    }


def command() -> str:
    """What was typed: ``shrinkserve bench ...`` or ``python bench/loader.py ...``; without secrets."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":  # python -m shrinkserve
        words = [program.parent.name]
    elif program.suffix == ".py":
        words = ["python", sys.argv[0]]
    else:
        words = [program.name]
    return shlex.join(recorded_command([*words, *sys.argv[1:]]))


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpu_names() -> list[str]:
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(pynvml.nvmlDeviceGetCount())]
        return [f"{pynvml.nvmlDeviceGetName(h)}, driver {pynvml.nvmlSystemGetDriverVersion()}" for h in handles]
    except Exception:  # noqa: BLE001 - NVML raises a class of its own for each code; all mean "none that can be read"
        return []
