"""An audit of this machine, of a repository and of a running server: what would fail or is exposed, and what to do."""

from __future__ import annotations

import http.client
import json
import platform
import re
import shutil
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from importlib import metadata
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from shrinkserve.errors import RequestError, ShrinkServeError
from shrinkserve.machine import usable_cores
from shrinkserve.serving import names as serving_names
from shrinkserve.serving.names import CANDIDATE
from shrinkserve.serving.repository import trust
from shrinkserve.serving.repository.reader import RepositoryReader
from shrinkserve.serving.server import launch, loadable, pip_server

Level = Literal["ok", "note", "fault"]
DRIVER = Path("/dev/nvidiactl")
"""There where NVIDIA's driver is."""
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
OLD = "an older one with known advisories and no limit on the size of a request"
KEEP = "keep it on loopback; publish NVIDIA's container"


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
    hint: str = ""


def examine_machine() -> Iterator[Finding]:
    """Server, runtimes, GPU, shared memory and ports of this machine."""
    here = f"shrinkserve {metadata.version('shrinkserve')}, Python {platform.python_version()}, {platform.platform()}"
    yield Finding("ok", "machine", f"{here}, {usable_cores()} processors")
    yield _server()
    gpus = _gpus()
    yield from _runtimes(gpus)
    yield Finding("ok", "GPU", "; ".join(gpus) or "none: models run on the CPU")
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
    except ShrinkServeError as exc:
        return Finding("fault", "tritonserver", str(exc.what), exc.hint or "")
    version = pip_server.TRITON_VERSION
    state = "in the cache" if pip_server.cached() else "fetched by the first `shrinkserve serve` (55 MB)"
    return Finding(
        "note",
        "tritonserver",
        f"{version} from PyPI, {state}: {OLD}",
        KEEP,
    )


def _gpus() -> list[str]:
    """Name, memory, driver and compute capability of each GPU; one text that says so where they cannot be asked."""
    if not DRIVER.exists():
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        asked = subprocess.run(query, capture_output=True, text=True, check=True, timeout=SECONDS)
    except (OSError, subprocess.SubprocessError) as exc:
        return [f"a driver is there, and nvidia-smi does not answer ({exc})"]
    return asked.stdout.strip().splitlines()


def _runtimes(gpus: Sequence[str]) -> Iterator[Finding]:
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    if len(both) == 2:
        yield Finding(
            "fault", "onnxruntime", "both onnxruntime and onnxruntime-gpu are installed", "uninstall both, install one"
        )
    elif both:
        import onnxruntime

        providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
        unused = bool(gpus) and "CUDA" not in providers
        what = f"{_version(both[0])}; its providers: {', '.join(providers)}"
        hint = "pip uninstall onnxruntime, then pip install 'shrinkserve[gpu]'"
        yield Finding(
            "note" if unused else "ok", both[0], what + ("; none for the GPU" if unused else ""), hint * unused
        )
    else:
        hint = "pip install 'shrinkserve[serve]'"
        yield Finding("fault", "onnxruntime", "not installed: the server from PyPI cannot run ONNX models", hint)
    for name, packages, without in (
        ("openvino", ("openvino",), "the engines of this name"),
        ("dali", ("nvidia-dali-cuda120", "nvidia-dali-cuda130"), "what takes JPEG"),
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
        except OSError as exc:
            hint = f"--{service.lower()}-port 0 lets another be chosen"
            return Finding("note", f"port {port}", f"{service}: {exc.strerror}", hint)
    return Finding("ok", f"port {port}", f"free for {service}")


def examine_repository(root: Path, engine: str | None = None) -> Iterator[Finding]:
    """Which models of a repository would load."""
    try:
        found = loadable.scan(root, engine, launch.missing_backends())
    except ShrinkServeError as exc:
        yield Finding("fault", "repository", str(exc.what), exc.hint or "")
        return
    held = RepositoryReader(root)
    for name in found.whole:
        engines = ", ".join(held.engines(name))
        yield Finding("ok", f"model {name}", "whole" + (f"; other engines (--config): {engines}" if engines else ""))
    for name in held.models():
        try:
            why = trust.runs_code(root / name)
        except ShrinkServeError as exc:
            yield Finding("fault", f"model {name}", str(exc.what), exc.hint or "")
            continue
        if why:
            ours = name in held.classifiers()  # what `export` writes never does
            hint = "remove it unless you trust who wrote it"
            yield Finding("fault" if ours else "note", f"code of {name}", f"runs code ({why})", hint)
    for name, lack in found.skipped.items():
        what, _, hint = lack.partition("; ")
        yield Finding("fault", f"model {name}", what, hint)
    if not found.whole and not found.skipped:
        yield Finding("fault", str(root), "no model in this repository", "make one with `shrinkserve export`")


def examine_server(url: str, grpc_url: str | None = None) -> Iterator[Finding]:
    """What runs at a URL, and what it lets anybody do.

    Args:
        url: ``http://HOST:PORT``.
        grpc_url: ``grpc://HOST:PORT`` of the same server, whose APIs are restricted by options of their own.

    Raises:
        RequestError: not such a URL.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise RequestError(f"{url}: not an address that can be examined", expected="http://HOST:PORT")
    status, body = _ask(url, "GET", "/v2")
    about = _parsed(body) if status == HTTPStatus.OK else {}
    if "version" not in about:
        why = body if status == 0 else f"HTTP {status}"
        yield Finding(
            "fault", url, f"no Triton answers ({why})", "start one with `shrinkserve serve`, or check the URL"
        )
        return
    version = str(about["version"])
    yield _release(version)
    ready, _ = _ask(url, "GET", "/v2/health/ready")
    if ready != HTTPStatus.OK:
        yield Finding("fault", "readiness", f"not ready (HTTP {ready})", "look at its log")
    yield from _models(url)
    local = _is_local(parts.hostname)
    for name, (method, path) in OPEN_APIS.items():
        status, why = _ask(url, method, path)
        is_open = {200: True, 403: False}.get(status)
        yield _guard(name, is_open, f"HTTP {status}" if status else why, local=local)
    if grpc_url is not None:
        yield from _grpc_guards(grpc_url)
    if not local:
        yield Finding("note", "transport", "HTTP without TLS beyond this machine", "put a TLS proxy before it")


def _guard(name: str, is_open: bool | None, found: str, *, local: bool) -> Finding:
    if is_open is None:
        return Finding("note", name, f"could not be asked ({found})", "ask again when the server is idle")
    if is_open:
        level: Level = "note" if local else "fault"
        return Finding(level, name, "open to whoever reaches the port", "serve with a token: SHRINKSERVE_TOKEN")
    return Finding("ok", name, f"guarded ({found})")


def _grpc_guards(url: str) -> Iterator[Finding]:
    """Ask the same APIs by gRPC.

    Raises:
        RequestError: not such a URL.
    """
    parts = urlsplit(url)
    if parts.scheme != "grpc" or not parts.hostname or not parts.port:
        raise RequestError(f"{url}: not an address that can be examined", expected="grpc://HOST:PORT")
    from tritonclient import grpc

    with grpc.InferenceServerClient(parts.netloc) as client:
        for name, call in (
            ("model control", client.get_model_repository_index),
            ("shared memory", client.get_system_shared_memory_status),
            ("tracing", client.get_trace_settings),
            ("logging", client.get_log_settings),
        ):
            is_open, found = None, "no answer"
            try:
                call(client_timeout=SECONDS)
                is_open = True
            except grpc.InferenceServerException as exc:
                found = str(exc.message())[:100]
                if "restricted" in found:
                    is_open, found = False, "gRPC"
            yield _guard(f"{name} by gRPC", is_open, found, local=_is_local(parts.hostname))


def _release(version: str) -> Finding:
    """Judge a server's version. That of the server from PyPI is known to be old and is served on loopback only."""
    if version == pip_server.TRITON_VERSION:
        return Finding("note", "server", f"Triton {version}; {OLD}", KEEP)
    number = re.match(r"(\d{1,4})\.(\d{1,4})", version)
    if number is None:
        return Finding(
            "note", "server", f"Triton {version[:40]!r}, whose release cannot be told", "check its bulletins"
        )
    if tuple(map(int, number.groups())) >= pip_server.FLOOR:
        return Finding("ok", "server", f"Triton {version}")
    floor = ".".join(map(str, pip_server.FLOOR))
    what = f"Triton {version} has known critical faults, fixed by {floor}: see {pip_server.BULLETINS}"
    return Finding("fault", "server", what, f"serve with {pip_server.CONTAINER} or a later one")


def _models(url: str) -> Iterator[Finding]:
    """What is loaded, by the statistics, which are open to all."""
    status, body = _ask(url, "GET", "/v2/models/stats")
    loaded = {one["name"] for one in _parsed(body).get("model_stats", [])} if status == HTTPStatus.OK else set()
    left = sorted(name for name in loaded if name.endswith(CANDIDATE))
    names = serving_names.public_names(loaded - set(left))
    shown = [
        f"{name} (takes JPEG)" if {name, serving_names.classifier_name(name)} <= loaded else name for name in names
    ]
    yield Finding("ok" if names else "fault", "models", ", ".join(shown) or "none is loaded")
    for name in left:
        what = "still loaded: a publisher was killed while it tried a version out"
        yield Finding("note", name, what, "the next `shrinkserve repo publish` unloads it")


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
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read(1 << 16).decode(errors="replace")
    except (OSError, ValueError, http.client.HTTPException) as exc:
        reason = getattr(exc, "reason", exc)
        return 0, getattr(reason, "strerror", None) or type(reason).__name__


def _parsed(body: str) -> dict[str, Any]:
    """A JSON object; empty when it is none."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
