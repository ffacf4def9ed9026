"""CPU, memory and GPU use of this machine during a load test."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from threading import Event, Thread

import numpy as np
import psutil

from shrinkserve.benchmark.plain import OPTIONAL


@dataclass(frozen=True)
class Usage:
    """Mean and maximum of a sampled figure."""

    mean: float
    max: float


@dataclass(frozen=True)
class Resources:
    """Use of the machine; `own_cpu_cores` is the CPU time of this process over the elapsed time."""

    own_cpu_cores: float
    machine_cpu_percent: Usage | None = field(default=None, metadata=OPTIONAL)
    machine_memory_used_mib: Usage | None = field(default=None, metadata=OPTIONAL)
    load_average: Usage | None = field(default=None, metadata=OPTIONAL)
    gpu_percent: Usage | None = field(default=None, metadata=OPTIONAL)
    gpu_memory_used_mib: Usage | None = field(default=None, metadata=OPTIONAL)
    gpu_sm_clock_mhz: Usage | None = field(default=None, metadata=OPTIONAL)
    gpu_temperature_celsius: Usage | None = field(default=None, metadata=OPTIONAL)


class Monitor:
    """Context manager that samples the machine.

    Args:
        period: seconds between two samples.

    Attributes:
        own_cores: CPU time of this process over the elapsed time: 1.0 is one busy core.
    """

    def __init__(self, period: float = 0.5) -> None:
        self.own_cores = 0.0
        self._period = period
        self._samples: list[dict[str, float]] = []
        self._stop = Event()
        self._thread = Thread(target=self._sample, name="monitor", daemon=True)

    def __enter__(self) -> Monitor:
        psutil.cpu_percent()  # the first call starts the interval
        self._started, self._cpu = time.perf_counter(), time.process_time()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.own_cores = (time.process_time() - self._cpu) / (time.perf_counter() - self._started)
        self._stop.set()
        self._thread.join()

    def to_record(self) -> Resources:
        """Return mean and maximum of every figure that could be read."""
        found = {}
        for figure in fields(Resources):
            if values := [sample[figure.name] for sample in self._samples if figure.name in sample]:
                found[figure.name] = Usage(float(np.mean(values)), max(values))
        return Resources(self.own_cores, **found)

    def _sample(self) -> None:
        gpu = _Gpu()
        while not self._stop.wait(self._period):
            memory = psutil.virtual_memory()
            self._samples.append(
                {
                    "machine_cpu_percent": psutil.cpu_percent(),
                    "machine_memory_used_mib": (memory.total - memory.available) / 2**20,
                    "load_average": os.getloadavg()[0],
                    **gpu.read(),
                }
            )


class _Gpu:
    """The first GPU, read through NVML; without an NVIDIA driver or `nvidia-ml-py` nothing is read."""

    def __init__(self) -> None:
        self._handle = None
        try:
            import pynvml

            self._nvml = pynvml
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        except Exception:  # noqa: BLE001 - NVML has an exception class for each code; all mean "not readable"
            return

    def read(self) -> dict[str, float]:
        if self._handle is None:
            return {}
        nvml, handle = self._nvml, self._handle
        figures: dict[str, Callable[[], float]] = {
            "gpu_percent": lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
            "gpu_memory_used_mib": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used / 2**20,
            "gpu_sm_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "gpu_temperature_celsius": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        }
        found = {}
        for name, figure in figures.items():
            try:
                found[name] = float(figure())
            except nvml.NVMLError:  # not every GPU supports every query
                continue
        return found
