"""Fetch a small wheel in place of the real one. pip is real, and needs no network for it."""

from __future__ import annotations

import platform
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import platformdirs
import pytest

from shrinkserve.artifact import sha256_file
from shrinkserve.errors import ServerError
from shrinkserve.serving.server import pip_server

METADATA = "Metadata-Version: 2.1\nName: nvidia-pytriton\nVersion: 0.7.0\nRequires-Dist: numpy<2\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
FILES = {
    str(pip_server.EXECUTABLE): "server",
    str(pip_server.STUBS / "3.11" / pip_server.STUB): "stub",
    str(pip_server.LIBRARIES / "libone.so"): "library",
    str(pip_server.LICENCES / "LICENSE"): "licence",
    "pytriton/__init__.py": "not wanted",
    "nvidia_pytriton-0.7.0.dist-info/METADATA": METADATA,
    "nvidia_pytriton-0.7.0.dist-info/WHEEL": WHEEL,
    "nvidia_pytriton-0.7.0.dist-info/RECORD": "",
}


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only wheel that pip finds, and the one that is expected."""
    index = tmp_path / "index"
    index.mkdir()
    path = index / "nvidia_pytriton-0.7.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(pip_server, "WHEEL_SHA256", sha256_file(path))
    return path


def content_of_cache() -> list[str]:
    cache = platformdirs.user_cache_path("shrinkserve")
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


def test_fetch_unpacks_needed_files_and_makes_programs_executable(wheel: Path) -> None:
    home = pip_server.fetch(Path("models"))
    found = {str(path.relative_to(home)): path.read_text() for path in home.rglob("*") if path.is_file()}
    unwanted = {"pytriton/__init__.py", *(name for name in FILES if Path(name).parent.suffix == ".dist-info")}
    assert found == {name: content for name, content in FILES.items() if name not in unwanted}
    assert (home / pip_server.EXECUTABLE).stat().st_mode & 0o111
    assert (home / pip_server.STUBS / "3.11" / pip_server.STUB).stat().st_mode & 0o111


def test_fetch_downloads_once_for_simultaneous_calls(wheel: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(4) as pool:
        homes = set(pool.map(pip_server.fetch, [Path("models")] * 4))
    wheel.unlink()
    assert homes == {pip_server.fetch(Path("models"))}
    assert capfd.readouterr().err.count("fetching") == 1
    assert content_of_cache() == ["tritonserver-2.51.0", "tritonserver.lock"]


def test_fetched_server_is_used_from_a_read_only_cache(wheel: Path) -> None:
    """A folder in the place of the lock file shows, to root as well, that nothing is opened for writing."""
    home = pip_server.fetch(Path("models"))
    lock = home.parent / "tritonserver.lock"
    lock.unlink()
    lock.mkdir()
    assert pip_server.fetch(Path("models")) == home
    pip_server.check_cache()


def test_another_wheel_is_refused(wheel: Path) -> None:
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("pytriton/more.py", "")
    with pytest.raises(ServerError, match=r"cannot be fetched .*PIP_FIND_LINKS"):
        pip_server.fetch(Path("models"))
    assert content_of_cache() == ["tritonserver.lock"]


def test_fetch_reports_missing_wheel(wheel: Path) -> None:
    wheel.unlink()
    with pytest.raises(ServerError, match="No matching distribution found"):
        pip_server.fetch(Path("models"))
    assert content_of_cache() == ["tritonserver.lock"]


def test_fetch_rejects_archive_with_wrong_crc(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = wheel.read_bytes()
    wheel.write_bytes(body.replace(b"library", b"librarx"))
    monkeypatch.setattr(pip_server, "WHEEL_SHA256", sha256_file(wheel))
    with pytest.raises(ServerError, match=r"tritonserver-2\.51\.0: cannot write tritonserver there .*CRC"):
        pip_server.fetch(Path("models"))
    assert content_of_cache() == ["tritonserver.lock"]


def test_fetch_rejects_cache_that_cannot_be_written(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(ServerError, match="cannot write tritonserver there"):
        pip_server.fetch(Path("models"))


@pytest.mark.parametrize(
    ("function", "answer", "found"),
    [
        ("system", "Darwin", "expected Linux x86_64, found Darwin"),
        ("machine", "aarch64", "expected Linux x86_64, found Linux aarch64"),
        ("libc_ver", ("glibc", "2.31"), r"expected glibc 2\.35 or later, found glibc 2\.31"),
        ("libc_ver", ("", ""), r"expected glibc 2\.35 or later, found another libc"),
    ],
)
def test_other_machines_are_shown_the_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, function: str, answer: object, found: str
) -> None:
    monkeypatch.setattr(platform, function, lambda: answer)
    with pytest.raises(ServerError, match=found) as caught:
        pip_server.fetch(tmp_path)
    command = str(caught.value).split("container: ")[1]
    assert command.startswith("docker run --rm ")
    assert all(word in command for word in (" -p 127.0.0.1:8000:8000 ", " --user 1000:1000 ", " --shm-size="))
    assert f"-v {tmp_path}:/models:ro nvcr.io/nvidia/tritonserver:" in command


@pytest.mark.parametrize("there", [True, False])
def test_container_gets_the_gpus_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: bool) -> None:
    device = tmp_path / "nvidiactl"
    if there:
        device.touch()
    monkeypatch.setattr(pip_server, "GPU_DEVICE", device)
    assert ("--gpus all" in pip_server.container_command(tmp_path)) is there
