"""An audit of this machine, of a repository and of a running server: what would fail or is exposed, and what to do."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata, util
from ipaddress import ip_address
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from shrinkserve.errors import RequestError, ShrinkServeError
from shrinkserve.serving import inventory, launch, pip_server

Level = Literal["ok", "note", "fault"]
SHM = "/dev/shm"  # noqa: S108 - measured, not written
SHARED_MEMORY = 64 << 20
"""What it should have free, in bytes: each instance of a Python-based backend takes 1 MiB and its tensors."""
OPEN_APIS = {
    "model control": ("POST", "/v2/repository/index"),
    "shared memory": ("GET", "/v2/systemsharedmemory/status"),
    "tracing": ("GET", "/v2/trace/setting"),
    "logging": ("GET", "/v2/logging"),
}
SECONDS = 5


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: ``"fault"`` is what will fail, ``"note"`` what may surprise.
        subject: what was looked at.
        what: what was found.
        do: what to do about it; empty when nothing is to be done.
    """

    level: Level
    subject: str
    what: str
    do: str = ""


def examine_machine() -> Iterator[Finding]:
    """Server, runtimes, GPU, shared memory and ports of this machine."""
    yield _server()
    yield from _runtimes()
    gpu = Path("/dev/nvidiactl").exists()
    yield Finding("ok", "GPU", "NVIDIA's driver is there" if gpu else "none: models run on the CPU")
    yield _shared_memory()
    for port, service in ((8000, "HTTP"), (8001, "gRPC"), (8002, "metrics")):
        yield _port(port, service)


def _server() -> Finding:
    program = launch.installed()
    if program is not None:
        return Finding("ok", "tritonserver", f"{program}, from PATH")
    try:
        pip_server.check_platform(Path("model_repository"))
        with tempfile.TemporaryDirectory() as folder:
            if pip_server.cached():
                launch.prepare(Path("model_repository"), Path(folder))
    except ShrinkServeError as fault:
        return Finding("fault", "tritonserver", str(fault.what), fault.do or "")
    version = pip_server.TRITON_VERSION
    state = "in the cache" if pip_server.cached() else "fetched by the first `shrinkserve serve` (55 MB)"
    return Finding(
        "note",
        "tritonserver",
        f"{version} from PyPI, {state}: an older one with known advisories",
        "keep it on loopback; publish NVIDIA's container",
    )


def _runtimes() -> Iterator[Finding]:
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    if len(both) == 2:
        yield Finding(
            "fault", "onnxruntime", "both onnxruntime and onnxruntime-gpu are installed", "uninstall both, install one"
        )
    elif both:
        import onnxruntime

        providers = ", ".join(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
        yield Finding("ok", both[0], f"{_version(both[0])}; runs on {providers}")
    else:
        do = "pip install shrinkserve[serve]"
        yield Finding("fault", "onnxruntime", "not installed: the server from PyPI cannot run ONNX models", do)
    for package, module, extra in (
        ("openvino", "openvino", "openvino"),
        ("nvidia-dali", "nvidia.dali", "dali"),
        ("tensorrt", "tensorrt", "tensorrt"),
    ):
        found = False
        with suppress(ModuleNotFoundError):
            found = util.find_spec(module) is not None
        what = "installed" if found else "not installed: models that need it do not load"
        yield Finding("ok" if found else "note", package, what, "" if found else f"pip install shrinkserve[{extra}]")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _shared_memory() -> Finding:
    try:
        free = shutil.disk_usage(SHM).free
    except OSError:
        return Finding("fault", SHM, "no shared memory: backends cannot talk to the server", "mount /dev/shm")
    what = f"{free >> 20} MiB free"
    if free < SHARED_MEMORY:
        return Finding("fault", SHM, what, "free some, or give a container --shm-size=256m")
    return Finding("ok", SHM, what)


def _port(port: int, service: str) -> Finding:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as fault:
            do = f"--{service.lower()}-port 0 lets another be chosen"
            return Finding("note", f"port {port}", f"{service}: {fault.strerror}", do)
    return Finding("ok", f"port {port}", f"free for {service}")


def examine_repository(root: Path, engine: str | None = None) -> Iterator[Finding]:
    """Which models of a repository would load."""
    try:
        found = inventory.take(root, engine, launch.missing_backends())
    except ShrinkServeError as fault:
        yield Finding("fault", str(root), str(fault.what), fault.do or "")
        return
    for name in found.whole:
        yield Finding("ok", f"model {name}", "whole")
    for name, lack in found.skipped.items():
        what, _, do = lack.partition("; ")
        yield Finding("fault", f"model {name}", what, do)
    if not found.whole and not found.skipped:
        yield Finding("fault", str(root), "no model in this repository", "make one with `shrinkserve export`")


def examine_server(url: str) -> Iterator[Finding]:
    """What runs at a URL, and what it lets anybody do.

    Args:
        url: ``http://HOST:PORT``.

    Raises:
        RequestError: not such a URL.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise RequestError(f"{url}: not an address that can be examined", expected="http://HOST:PORT")
    status, body = _ask(url, "GET", "/v2")
    if status != 200:
        yield Finding("fault", url, f"no Triton answers ({body})", "start one with `shrinkserve serve`")
        return
    version = str(json.loads(body).get("version", "unknown"))
    old = version == pip_server.TRITON_VERSION
    yield Finding(
        "note" if old else "ok",
        "server",
        f"Triton {version}" + ("; an older one with known advisories" if old else ""),
        "keep it on loopback; publish NVIDIA's container" if old else "",
    )
    ready, _ = _ask(url, "GET", "/v2/health/ready")
    if ready != 200:
        yield Finding("fault", "readiness", f"not ready (HTTP {ready})", "look at its log")
    local = _is_local(parts.hostname)
    for name, (method, path) in OPEN_APIS.items():
        status, _ = _ask(url, method, path)
        if status == 200:
            level: Level = "note" if local else "fault"
            yield Finding(level, name, "open to whoever reaches the port", "serve with a token: SHRINKSERVE_TOKEN")
        else:
            yield Finding("ok", name, f"guarded (HTTP {status})")
    if not local:
        yield Finding("note", "transport", "HTTP without TLS beyond this machine", "put a TLS proxy before it")


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _ask(url: str, method: str, path: str) -> tuple[int, str]:
    """Status and body of a call; status 0 and the reason when nobody answers."""
    request = urllib.request.Request(url.rstrip("/") + path, method=method)  # noqa: S310 - http only, checked
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:  # noqa: S310 - as above
            return int(reply.status), reply.read(1 << 20).decode(errors="replace")
    except urllib.error.HTTPError as fault:
        return fault.code, fault.read(1 << 16).decode(errors="replace")
    except (OSError, ValueError) as fault:
        return 0, str(getattr(fault, "reason", fault)) or os.strerror(0)
