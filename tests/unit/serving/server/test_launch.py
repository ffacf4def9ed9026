from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shrinkserve.errors import ServerError
from shrinkserve.serving.server import launch, pip_server


def test_a_tritonserver_on_path_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "tritonserver"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = launch.prepare(Path("models"), tmp_path / "folder")
    assert (found.executable, found.from_pip, found.arguments) == (program, False, [])
    assert found.environment == {**os.environ, "TMPDIR": str(tmp_path / "folder")}


def test_the_server_from_pip_gets_backends_that_find_what_this_python_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "elsewhere" / "found_only_through_sys_path.py"
    module.parent.mkdir()
    module.touch()
    monkeypatch.syspath_prepend(str(module.parent))
    folder = tmp_path / "folder"
    found = launch.prepare(Path("models"), folder)
    assert found.from_pip
    assert found.executable.name == "tritonserver"
    python = folder / "backends/python"
    assert {path.name for path in python.iterdir()} >= {"libtriton_python.so", pip_server.STUB}
    shim = (folder / "backends/onnxruntime/model.py").read_text().replace("from shrinkserve", "# from shrinkserve")
    check = f"{shim}\nimport found_only_through_sys_path, sys\nprint(sys.prefix)"
    environment = {key: value for key, value in found.environment.items() if not key.startswith("PYTHON")}
    first = subprocess.run(["python3", "-I", "-c", check], env=environment, capture_output=True, text=True, check=True)
    assert first.stdout.strip() == sys.prefix


def test_python_without_a_stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    for version in ("3.8", "3.9"):
        stub = home / pip_server.STUBS / version / pip_server.STUB
        stub.parent.mkdir(parents=True)
        stub.touch()
    monkeypatch.setattr(pip_server, "fetch", lambda _repository: home)
    with pytest.raises(ServerError, match=r"expected 3\.8, 3\.9, found 3.*docker run"):
        launch.prepare(Path("models"), tmp_path / "folder")


def test_python_under_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "bin" / "python-mine"
    other.parent.mkdir()
    other.symlink_to(Path(sys.executable).resolve())
    monkeypatch.setattr(sys, "executable", str(other))
    folder = tmp_path / "folder"
    path = launch.prepare(Path("models"), folder).environment["PATH"]
    assert (Path(path.split(os.pathsep)[0]) / "python3").samefile(other)


def test_options_that_not_every_tritonserver_has(tmp_path: Path) -> None:
    program = tmp_path / "tritonserver"
    program.write_text("#!/bin/sh\necho '  --http-max-input-size <integer>' >&2; exit 1\n")
    program.chmod(0o755)
    assert launch.understands(launch.LaunchSpec(program, from_pip=False), "--http-max-input-size")
    assert not launch.understands(launch.LaunchSpec(program, from_pip=False), "--another")
    assert not launch.understands(launch.LaunchSpec(program, from_pip=True), "--http-max-input-size")


def test_backends_that_this_environment_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch.importable("numpy.linalg")
    assert not launch.importable("no_such_package.part")
    monkeypatch.setattr(launch, "importable", lambda module: module != "nvidia.dali")
    missing = launch.missing_backends()
    assert missing.keys() == {"dali", "tensorrt"}
    assert missing["dali"] == "pip install 'shrinkserve[dali]'"
    assert "NVIDIA's container" in missing["tensorrt"]


def test_the_stub_was_written_long_before_it_runs(tmp_path: Path) -> None:
    """Linux refuses to run what is open for writing anywhere (ETXTBSY), as in a process that was forked meanwhile."""
    pip_server.fetch(Path("models"))
    begun = time.time_ns()
    launch.prepare(Path("models"), tmp_path)
    stub = tmp_path / "backends/python" / pip_server.STUB
    assert os.access(stub, os.X_OK)
    assert stub.stat().st_mtime_ns < begun
