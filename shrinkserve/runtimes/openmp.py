"""OpenMP helper threads of torch's operators."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

SOFT = 1
"""`omp_pause_soft`: ends the threads and keeps settings such as their number."""


def release_helpers() -> None:
    """End the OpenMP helper threads of the calling thread; its next torch operator starts them again.

    Each thread that calls torch gets its own helpers. GNU OpenMP counts the helpers of the whole process: if there are
    more than cores, they sleep after every operator, and waking them takes longer than a small operator. A network of
    400 operators on 32x32 pixels took 20 ms in a second thread, and 5 ms after the first one had released its helpers.

    Does nothing if torch uses an OpenMP without `omp_pause_resource_all` (OpenMP 5.0).
    """
    for library in (Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"):
        pause = getattr(ctypes.CDLL(str(library)), "omp_pause_resource_all", None)
        if pause is not None:
            pause(SOFT)
