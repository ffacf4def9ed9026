"""OpenMP's helper threads, which torch's operators share."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

SOFT = 1
"""`omp_pause_soft`: threads end, settings such as their number stay."""


def release_helpers() -> None:
    """End the OpenMP helpers of the calling thread; they come back with its next operator.

    Each thread that calls torch gets helpers of its own. GNU's OpenMP counts those of the whole process: where they
    are more than the cores, they sleep after every operator, and to wake them takes longer than a small operator
    does. A network of 400 operators on 32x32 pixels took 20 ms in a second thread, and 5 ms once the first had let
    its helpers go.
    Does nothing where torch is built with another OpenMP that has no `omp_pause_resource_all` (OpenMP 5.0).
    """
    for library in (Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"):
        pause = getattr(ctypes.CDLL(str(library)), "omp_pause_resource_all", None)
        if pause is not None:
            pause(SOFT)
