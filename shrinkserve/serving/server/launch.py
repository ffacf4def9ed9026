"""Choose the tritonserver to run, and prepare its backends and its environment."""

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

from shrinkserve import containers
from shrinkserve.errors import ServerError
from shrinkserve.serving.server import pip_server
from shrinkserve.serving.server.supervisor import region_prefix
from shrinkserve.serving.server.workspace import PLAIN, linked

BACKENDS = {"onnxruntime": "onnxruntime", "openvino": "openvino", "dali": "nvidia.dali"}
"""Our Python-based backends for the server from PyPI (modules of `shrinkserve.serving.backends`), and the package that
each needs."""
EXTRAS = {"onnxruntime": "serve", "openvino": "openvino", "dali": "dali"}
"""The extra of this package that installs it."""


@dataclass(frozen=True)
class LaunchSpec:
    """A tritonserver that is ready to run.

    Attributes:
        executable: the program.
        from_pip: True for the server from PyPI with our Python-based backends.
        arguments: what the program needs besides the caller's arguments.
        environment: all environment variables of the process.
    """

    executable: Path
    from_pip: bool
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


def installed() -> Path | None:
    """Return the tritonserver on PATH."""
    found = shutil.which("tritonserver")
    return Path(found) if found else None


def how_to_get(backend: str) -> str | None:
    """Return what to do to get a backend that the server of this machine lacks; None if it has the backend.

    A tritonserver on PATH is expected to have every backend: which ones it has shows when it loads a model.
    """
    if installed() is not None or backend == "python":
        return None
    if not backend:
        return "name it; NVIDIA's container can derive it from the model's file"
    if backend not in BACKENDS:
        return f"serve it with NVIDIA's container, {containers.IMAGE}; the server from PyPI has no such backend"
    return None if importable(BACKENDS[backend]) else f"pip install 'shrinkserve[{EXTRAS[backend]}]'"


def importable(module: str) -> bool:
    """Return True if a module is installed. It is not imported."""
    try:
        return util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


def prepare_launch(repository: Path, folder: Path) -> LaunchSpec:
    """Find a tritonserver, or fetch one and write its backend directory.

    Args:
        repository: the model repository; named in messages.
        folder: a folder for this server alone, by `workspace.temporary_folder`.

    Raises:
        ServerError: no tritonserver runs on this machine.
    """
    program = installed()
    if program is not None:
        environment = {**os.environ, "TMPDIR": str(folder)}
        return LaunchSpec(program, from_pip=False, arguments=[_regions("python", folder)], environment=environment)
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
    try:
        _write_backends(folder, home, stub)
        python = _python_folder(folder)
    except OSError as exc:  # shutil.Error has no number, but a list of what failed
        reason = exc.strerror or "; ".join(str(one[2]) for one in exc.args[0])
        raise ServerError(f"{folder}: cannot be written ({reason})", hint="free some space, or set TMPDIR") from exc
    environment = {
        **os.environ,
        "TMPDIR": str(folder),  # a Triton that is killed leaves its temporary folders behind
        # The stub embeds Python and derives its prefix, hence the virtual environment, from the first python3 on PATH.
        "PATH": os.pathsep.join([str(python), os.environ.get("PATH", os.defpath)]),
        "LD_LIBRARY_PATH": os.pathsep.join([*libraries, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]),
    }
    # Our backends complete no config; asking each of them costs a process start a model.
    arguments = [f"--backend-directory={folder / 'backends'}", "--disable-auto-complete-config"]
    arguments += [_regions(backend, folder) for backend in ("python", *BACKENDS)]
    if not pip_server.GPU_DEVICE.exists():
        arguments += ["--pinned-memory-pool-byte-size=0", "--allow-gpu-metrics=false"]  # else it warns at each start
    return LaunchSpec(home / pip_server.EXECUTABLE, from_pip=True, arguments=arguments, environment=environment)


def _regions(backend: str, folder: Path) -> str:
    """Return the argument that names the shared memory of a Python-based backend, so that it can be removed."""
    return f"--backend-config={backend},shm-region-prefix-name={region_prefix(folder)}"


def has_option(server: LaunchSpec, option: str) -> bool:
    """Return True if a tritonserver has an option. One that does not have it refuses to start with it."""
    if server.from_pip:
        return False  # every option asked for came after its release
    try:
        asked = subprocess.run([server.executable, "--help"], capture_output=True, text=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        return False
    return option in asked.stdout + asked.stderr


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _write_backends(folder: Path, home: Path, stub: Path) -> None:
    """Write the backend directory: Triton's Python backend, and a folder for each of our backends that it runs.

    The library is a copy, since Triton refuses one that a link leads out of its directory. The stub is a link: a
    program that was just written cannot run (ETXTBSY) while any process, such as one forked meanwhile, has it open.
    """
    python = folder / "backends/python"
    shutil.copytree(home / pip_server.SERVER / "backends/python", python)
    (python / pip_server.STUB).symlink_to(stub)
    paths = _import_paths(folder)
    for backend in BACKENDS:
        model = folder / "backends" / backend / "model.py"
        model.parent.mkdir()
        # The stub ignores PYTHONPATH and the user's site-packages, so it gets the paths of this process.
        model.write_text(
            f"import sys\n\nsys.path += [path for path in {paths!r} if path not in sys.path]\n"
            f"from shrinkserve.serving.backends.{backend} import TritonPythonModel  # noqa: E402, F401\n"
        )


def _import_paths(folder: Path) -> list[str]:
    """Return this process's import paths, by links where they are not plain.

    The working directory is left out, since its modules may have the names of modules that a backend needs, unless this
    package is imported from it.
    """
    links = folder / "paths"
    links.mkdir()
    here = {Path.cwd()} - {Path(__file__).parents[3]}
    paths = [Path(path).absolute() for path in sys.path if path]
    return [str(linked(path, links, str(number))) for number, path in enumerate(paths) if path not in here]


def _python_folder(folder: Path) -> Path:
    """Return a folder whose `python3` is this process's Python, with plain paths of its prefix and standard library."""
    sibling = Path(sys.executable).with_name("python3")
    if sibling.exists() and sibling.samefile(sys.executable):
        if all(PLAIN.fullmatch(path) for path in (str(sibling), sys.prefix, sys.base_prefix)):
            return sibling.parent
        base = linked(Path(sys.base_prefix), folder, "base") / "bin"
        environment = folder / "environment"
        (environment / "bin").mkdir(parents=True)
        (environment / "bin/python3").symlink_to(sys.executable)
        (environment / "pyvenv.cfg").write_text(f"home = {base}\n")
        return environment / "bin"
    alone = folder / "python"
    alone.mkdir()
    (alone / "python3").symlink_to(sys.executable)
    return alone


def _libpython() -> list[str]:
    """Return the folder of libpython, which the stub links to, unless the loader finds it by itself.

    Raises:
        ServerError: this Python has no shared library.
    """
    if sys.version_info >= (3, 13):
        return []  # the wheel contains the one that its stub links to
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
