"""What this machine was doing during a load test: CPU, memory, and the GPU where it can be read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import numpy as np
import psutil


class Monitor:
    """Samples the machine while the block runs.

    Args:
        period: seconds between two samples.

    Attributes:
        own_cores: CPU seconds a second of this process: 1.0 is one core busy all the time.
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

    def to_dict(self) -> dict[str, Any]:
        """Mean and maximum of every figure; the unit is in the name."""
        record: dict[str, Any] = {"own_cpu_cores": self.own_cores}
        for key in dict.fromkeys(key for sample in self._samples for key in sample):
            values = [sample[key] for sample in self._samples if key in sample]
            record[key] = {"mean": float(np.mean(values)), "max": max(values)}
        return record

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
    """The first GPU through NVML; nothing where there is no NVIDIA driver or no `nvidia-ml-py`."""

    def __init__(self) -> None:
        self._handle = None
        try:
            import pynvml

            self._nvml = pynvml
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        except Exception:  # noqa: BLE001 - NVML raises a class of its own for each code; all mean "not readable"
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
            except nvml.NVMLError:  # not every GPU tells everything
                continue
        return found
