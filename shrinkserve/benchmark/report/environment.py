"""Machine, software and command of a measurement."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from shrinkserve.artifact import recorded_command, utc_now, versions
from shrinkserve.machine import cpu_name, usable_cores

LIBRARIES = ("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tritonclient", "numpy", "pillow")


@dataclass(frozen=True)
class Environment:
    """Place and time of a measurement; None where the system does not provide a figure.

    Attributes:
        date: time in UTC.
        command: command line, without secrets.
        cpu: name of the processor.
        cores_usable: cores that this process may use.
        cores_physical: physical cores of the machine.
        cpu_mhz_max: maximum clock of the processor.
        memory_gib: memory of the machine.
        load_average_at_start: load average over one minute.
        gpus: names and drivers of the GPUs.
        threads: thread settings in the environment.
        versions: version of each library.
    """

    date: str
    command: str
    cpu: str
    cores_usable: int
    cores_physical: int | None
    cpu_mhz_max: float | None
    memory_gib: float
    load_average_at_start: float | None
    gpus: list[str]
    threads: dict[str, str]
    versions: dict[str, str]


def environment(*libraries: str) -> Environment:
    """Describe this machine.

    Args:
        libraries: packages to list in addition to `LIBRARIES`; those that are not installed are left out.
    """
    frequency = psutil.cpu_freq()
    return Environment(
        date=utc_now(),
        command=command(),
        cpu=cpu_name(),
        cores_usable=usable_cores(),
        cores_physical=psutil.cpu_count(logical=False),
        cpu_mhz_max=(frequency.max or frequency.current) if frequency else None,
        memory_gib=psutil.virtual_memory().total / 2**30,
        load_average_at_start=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        gpus=_gpu_names(),
        threads={name: value for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if (value := os.environ.get(name))},
        versions=versions((*LIBRARIES, *libraries)),
    )


def command() -> str:
    """Return the command line, e.g. ``shrinkserve bench ...`` or ``python bench/loader.py ...``, without secrets."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":  # python -m shrinkserve
        words = [program.parent.name]
    elif program.suffix == ".py":
        words = ["python", sys.argv[0]]
    else:
        words = [program.name]
    return shlex.join(recorded_command([*words, *sys.argv[1:]]))


def _gpu_names() -> list[str]:
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(pynvml.nvmlDeviceGetCount())]
        return [f"{pynvml.nvmlDeviceGetName(h)}, driver {pynvml.nvmlSystemGetDriverVersion()}" for h in handles]
    except Exception:  # noqa: BLE001 - NVML has an exception class for each code; all mean "no readable GPU"
        return []
