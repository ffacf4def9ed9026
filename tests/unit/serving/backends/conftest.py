from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tritonclient.utils import InferenceServerException

Together = Callable[[Sequence[Callable[[], Any]]], list[Any]]


@pytest.fixture(scope="session")
def together() -> Together:
    """Start calls at one moment; what each returned, or the server's error."""

    def run_all(calls: Sequence[Callable[[], Any]]) -> list[Any]:
        gate = threading.Barrier(len(calls))

        def run(call: Callable[[], Any]) -> Any:
            gate.wait()
            try:
                return call()
            except InferenceServerException as exc:
                return exc

        with ThreadPoolExecutor(len(calls)) as pool:
            return list(pool.map(run, calls))

    return run_all
