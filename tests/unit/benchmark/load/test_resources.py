"""NVML is replaced by a module that refuses one query, as not every machine has a GPU."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import pytest

from shrinkserve.benchmark.load.resources import Monitor, Resources, Usage
from shrinkserve.benchmark.plain import plain
from shrinkserve.benchmark.report.environment import environment


class NVMLError(Exception):
    """NVML's exception for a query that is not supported."""


def refuse(*_: object) -> None:
    raise NVMLError


def watch(seconds: float = 0.2) -> Resources:
    with Monitor(period=0.02) as monitor:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            sum(range(1000))
    return monitor.to_record()


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    module = SimpleNamespace(
        NVMLError=NVMLError,
        NVML_CLOCK_SM=1,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda *_: 0,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetName=lambda *_: "NVIDIA L4",
        nvmlSystemGetDriverVersion=lambda: "570.1",
        nvmlDeviceGetUtilizationRates=lambda *_: SimpleNamespace(gpu=87),
        nvmlDeviceGetMemoryInfo=lambda *_: SimpleNamespace(used=3 << 30),
        nvmlDeviceGetClockInfo=lambda *_: 1590,
        nvmlDeviceGetTemperature=refuse,
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def test_without_a_gpu_only_cpu_and_memory_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    found = watch()
    assert set(plain(found)) == {"own_cpu_cores", "machine_cpu_percent", "machine_memory_used_mib", "load_average"}
    assert 0 < found.own_cpu_cores < 2  # one thread was busy
    assert 0 < found.machine_memory_used_mib.mean <= found.machine_memory_used_mib.max
    assert environment().gpus == []


def test_gpu_figures_are_sampled_where_supported(nvml: SimpleNamespace) -> None:
    found = watch()
    assert found.gpu_sm_clock_mhz == Usage(1590.0, 1590.0)
    assert found.gpu_percent.max == 87.0
    assert found.gpu_memory_used_mib.max == 3072.0
    assert found.gpu_temperature_celsius is None
    assert environment().gpus == ["NVIDIA L4, driver 570.1"]


def test_gpu_figure_that_fails_once_is_sampled_later(nvml: SimpleNamespace) -> None:
    answers = iter([False, True] + 1000 * [True])
    nvml.nvmlDeviceGetTemperature = lambda *_: 61 if next(answers) else refuse()
    assert watch().gpu_temperature_celsius == Usage(61.0, 61.0)


@pytest.mark.parametrize(
    ("argv", "typed"),
    [
        (["/venv/bin/shrinkserve", "bench", "--out", "a b"], "shrinkserve bench --out 'a b'"),
        (["/venv/lib/shrinkserve/__main__.py", "bench"], "shrinkserve bench"),
        (["bench/loader.py", "--quick"], "python bench/loader.py --quick"),
        (["shrinkserve", "bench", "--url", "http://me:SECRET@h:1"], "shrinkserve bench --url 'http://***@h:1'"),
        (["shrinkserve", "bench", "--token", "SECRET"], "shrinkserve bench --token '***'"),
        (["shrinkserve", "bench", "--token=SECRET"], "shrinkserve bench '--token=***'"),
    ],
)
def test_environment_has_the_command_without_secrets(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], typed: str
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert environment().command == typed


def test_environment_has_the_machine_and_the_versions() -> None:
    found = environment("no-such-library", "jinja2")
    assert found.cpu
    assert found.cores_usable >= 1
    assert {"python", "torch", "numpy", "jinja2"} <= found.versions.keys()
    assert "no-such-library" not in found.versions
