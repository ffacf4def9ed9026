"""Check this machine: server, runtimes, GPU, shared memory and ports."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from shrinkserve import __version__
from shrinkserve.errors import ShrinkServeError
from shrinkserve.machine import usable_cores
from shrinkserve.serving.doctor.finding import Finding
from shrinkserve.serving.server import launch, pip_server
from shrinkserve.serving.server.workspace import temporary_folder

SHM = "/dev/shm"  # noqa: S108 - measured, not written
SHARED_MEMORY = 64 << 20
"""Bytes that it should have free: each instance of a Python-based backend takes 1 MiB and its tensors."""
SECONDS = 5
OLD = "an older release with known advisories and no limit on the size of a request"
KEEP = "keep it on loopback; in production use NVIDIA's container"


def check_machine() -> Iterator[Finding]:
    """Check the server, the runtimes, the GPU, shared memory and the ports of this machine."""
    here = f"shrinkserve {__version__}, Python {platform.python_version()}, {platform.platform()}"
    yield Finding("ok", "machine", f"{here}, {usable_cores()} cores")
    yield _server()
    gpus = _gpus()
    yield _onnxruntime(gpus)
    yield from _other_runtimes()
    yield Finding("ok", "GPU", "; ".join(gpus) or "none: models run on the CPU")
    yield _shared_memory()
    for port, service in ((8000, "HTTP"), (8001, "gRPC"), (8002, "metrics")):
        yield _port(port, service)


def _server() -> Finding:
    program = launch.installed()
    if program is not None:
        return Finding("ok", "tritonserver", f"{program}, from PATH")
    repository = Path("model_repository")
    try:
        pip_server.check_platform(repository)
        with temporary_folder() as folder:
            if pip_server.cached():
                launch.prepare_launch(repository, Path(folder))
            else:
                pip_server.check_cache()
    except ShrinkServeError as exc:
        return Finding("error", "tritonserver", exc.what, exc.hint or "")
    version = pip_server.TRITON_VERSION
    state = "in the cache" if pip_server.cached() else "will be fetched by the first `shrinkserve serve` (55 MB)"
    return Finding("note", "tritonserver", f"{version} from PyPI, {state}: {OLD}", KEEP)


def _gpus() -> list[str]:
    """Return name, memory, driver and compute capability of each GPU, or one text that they cannot be queried."""
    if not pip_server.GPU_DEVICE.exists():
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        asked = subprocess.run(query, capture_output=True, text=True, check=True, timeout=SECONDS)
    except (OSError, subprocess.SubprocessError) as exc:
        return [f"the driver is loaded, but nvidia-smi fails ({exc})"]
    return asked.stdout.strip().splitlines()


def _onnxruntime(gpus: Sequence[str]) -> Finding:
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    if not installed:
        hint = "pip install 'shrinkserve[serve]'"
        return Finding("error", "onnxruntime", "not installed: the server from PyPI cannot run ONNX models", hint)
    if len(installed) == 2:  # they overwrite each other's files
        what, hint = "both onnxruntime and onnxruntime-gpu are installed", "uninstall both, install one"
        return Finding("error", "onnxruntime", what, hint)
    import onnxruntime

    (name,) = installed
    providers = [one.removesuffix("ExecutionProvider") for one in onnxruntime.get_available_providers()]
    what = f"{_version(name)}; its providers: {', '.join(providers)}"
    if gpus and "CUDA" not in providers:
        return Finding("note", name, f"{what}; none for the GPU", "serve on the GPU with NVIDIA's container")
    return Finding("ok", name, what)


def _other_runtimes() -> Iterator[Finding]:
    for name, packages, without in (
        ("openvino", ("openvino",), "OpenVINO engines"),
        ("dali", ("nvidia-dali-cuda120", "nvidia-dali-cuda130"), "models that take JPEG"),
        ("tensorrt", ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"), "TensorRT engines, which need a GPU,"),
    ):
        found = [f"{package} {version}" for package in packages if (version := _version(package))]
        what = ", ".join(found) or f"not installed: {without} cannot be made or run here"
        yield Finding("ok" if found else "note", name, what, "" if found else f"pip install 'shrinkserve[{name}]'")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _shared_memory() -> Finding:
    try:
        free = shutil.disk_usage(SHM).free
    except OSError:
        return Finding("error", SHM, "no shared memory: backends cannot talk to the server", "mount /dev/shm")
    what = f"{free >> 20} MiB free"
    if not os.access(SHM, os.W_OK):
        return Finding("error", SHM, "cannot be written: backends cannot talk to the server", "mount /dev/shm writable")
    if free < SHARED_MEMORY:
        return Finding("error", SHM, what, "free some, or start the container with --shm-size=256m")
    return Finding("ok", SHM, what)


def _port(port: int, service: str) -> Finding:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as exc:
            hint = f"--{service.lower()}-port 0 chooses another"
            return Finding("note", f"port {port}", f"{service}: {exc.strerror}", hint)
    return Finding("ok", f"port {port}", f"free for {service}")
