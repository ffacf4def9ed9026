"""Which tritonserver runs, and what it needs around it: its backends and its environment."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path

from shrinkserve.errors import ServerError
from shrinkserve.serving.server import pip_server

BACKENDS = {"onnxruntime": "onnxruntime", "openvino": "openvino", "dali": "nvidia.dali"}
"""The Python-based backends that we bring for the pip server, modules of `shrinkserve.serving.backends`, and what each
needs."""
EXTRAS = {"onnxruntime": "serve", "openvino": "openvino", "dali": "dali"}
"""The extra of this package that brings it."""


@dataclass(frozen=True)
class LaunchSpec:
    """A tritonserver that is ready to run.

    Attributes:
        executable: the program.
        from_pip: whether it is the pip server, with our Python-based backends.
        arguments: what the program needs besides the caller's arguments.
        environment: the whole environment of the process.
    """

    executable: Path
    from_pip: bool
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


def installed() -> Path | None:
    """The tritonserver on PATH."""
    found = shutil.which("tritonserver")
    return Path(found) if found else None


def missing_backends() -> dict[str, str]:
    """Backends that the server which would run does not have -> the command that brings them."""
    if installed() is not None:
        return {}
    missing = [name for name, module in BACKENDS.items() if not importable(module)]
    others = {"tensorrt": f"the server from PyPI has none, serve it with NVIDIA's container, {pip_server.CONTAINER}"}
    return others | {name: f"pip install 'shrinkserve[{EXTRAS[name]}]'" for name in missing}


def importable(module: str) -> bool:
    """Whether a module is installed; it is not imported."""
    try:
        return util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it would be in
        return False


def prepare(repository: Path, folder: Path) -> LaunchSpec:
    """Find a tritonserver, or fetch one and compose its backends.

    Args:
        repository: what is to be served.
        folder: an empty folder that lives as long as the server.

    Raises:
        ServerError: no tritonserver can be had on this machine.
    """
    program = installed()
    if program is not None:
        return LaunchSpec(program, from_pip=False, environment={**os.environ, "TMPDIR": str(folder)})
    home = pip_server.fetch(repository)
    stub = home / pip_server.STUBS / f"{sys.version_info.major}.{sys.version_info.minor}" / pip_server.STUB
    if not stub.is_file():
        raise ServerError(
            f"tritonserver {pip_server.TRITON_VERSION} from PyPI has no backend for this Python",
            expected=", ".join(sorted((path.name for path in stub.parents[1].iterdir()), key=_version)),
            found=sys.version.split()[0],
            hint=f"use another Python, or NVIDIA's container: {pip_server.container_command(repository)}",
        )
    libraries = [str(home / pip_server.LIBRARIES), *_libpython()]
    _compose(folder, home, stub)
    environment = {
        **os.environ,
        "TMPDIR": str(folder),  # a Triton that is killed leaves its temporary folders behind
        # The stub embeds Python and takes its prefix, hence the virtual environment, from the first python3 on PATH.
        "PATH": os.pathsep.join([str(_python_folder(folder)), os.environ.get("PATH", os.defpath)]),
        "LD_LIBRARY_PATH": os.pathsep.join([*libraries, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]),
    }
    # Our backends complete no config; asking each of them costs a process start a model.
    arguments = [f"--backend-directory={folder / 'backends'}", "--disable-auto-complete-config"]
    if not Path("/dev/nvidiactl").exists():
        arguments += ["--pinned-memory-pool-byte-size=0", "--allow-gpu-metrics=false"]  # else it warns at each start
    return LaunchSpec(home / pip_server.EXECUTABLE, from_pip=True, arguments=arguments, environment=environment)


def understands(server: LaunchSpec, option: str) -> bool:
    """Whether a tritonserver knows an option that not all have; one that does not refuses to start with it."""
    if server.from_pip:
        return False  # whatever came after its release
    asked = subprocess.run([server.executable, "--help"], capture_output=True, text=True, check=False, timeout=60)
    return option in asked.stdout + asked.stderr


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _compose(folder: Path, home: Path, stub: Path) -> None:
    """Write the backend directory: Triton's Python backend, and a folder a backend of ours that it runs.

    The library is a copy, since Triton refuses one that a link leads out of its directory. The stub is a link: a
    program that was written a moment ago may not run (ETXTBSY) while anything still holds it open, a process that
    this one forked meanwhile above all, and Triton would wait for it.
    """
    python = folder / "backends/python"
    shutil.copytree(home / pip_server.SERVER / "backends/python", python)
    (python / pip_server.STUB).symlink_to(stub)
    for backend in BACKENDS:
        model = folder / "backends" / backend / "model.py"
        model.parent.mkdir()
        # The stub ignores PYTHONPATH and the user's site-packages: it shall find what this process finds.
        model.write_text(
            f"import sys\n\nsys.path += [path for path in {sys.path!r} if path and path not in sys.path]\n"
            f"from shrinkserve.serving.backends.{backend} import TritonPythonModel  # noqa: E402, F401\n"
        )


def _python_folder(folder: Path) -> Path:
    """A folder whose `python3` is this process's Python."""
    beside = Path(sys.executable).with_name("python3")
    if beside.exists() and beside.samefile(sys.executable):
        return beside.parent
    alone = folder / "python"
    alone.mkdir()
    (alone / "python3").symlink_to(sys.executable)
    return alone


def _libpython() -> list[str]:
    """Where libpython is, when the loader does not know by itself; the stub links to it.

    Raises:
        ServerError: this Python has no shared library.
    """
    if sys.version_info >= (3, 13):
        return []  # the wheel brings the one its stub links to
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    for folder in (sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib"):
        if folder and (Path(folder) / name).is_file():
            return [str(folder)]
    try:
        ctypes.CDLL(name)
    except OSError:
        raise ServerError(
            f"this Python ({sys.base_prefix}) has no {name}, which the server from PyPI needs",
            hint=f"install it (Debian: {name.partition('.so')[0]}), or use a Python built with --enable-shared",
        ) from None
    return []
