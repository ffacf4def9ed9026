from __future__ import annotations

import os
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

from shrinkserve.errors import ServerError
from shrinkserve.serving.server import launch, pip_server


def test_prepare_uses_the_tritonserver_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "tritonserver"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = launch.prepare_launch(Path("models"), tmp_path / "folder")
    assert (found.executable, found.from_pip) == (program, False)
    assert found.arguments == ["--backend-config=python,shm-region-prefix-name=triton_folder_"]
    assert found.environment == {**os.environ, "TMPDIR": str(tmp_path / "folder")}


def test_backends_import_from_the_paths_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "elsewhere" / "found_only_through_sys_path.py"
    module.parent.mkdir()
    module.touch()
    monkeypatch.syspath_prepend(str(module.parent))
    folder = tmp_path / "folder"
    found = launch.prepare_launch(Path("models"), folder)
    assert found.from_pip
    assert found.executable.name == "tritonserver"
    python = folder / "backends/python"
    assert {path.name for path in python.iterdir()} >= {"libtriton_python.so", pip_server.STUB}
    shim = (folder / "backends/onnxruntime/model.py").read_text().replace("from shrinkserve", "# from shrinkserve")
    check = f"{shim}\nimport found_only_through_sys_path, sys\nprint(sys.prefix)"
    environment = {key: value for key, value in found.environment.items() if not key.startswith("PYTHON")}
    first = subprocess.run(["python3", "-I", "-c", check], env=environment, capture_output=True, text=True, check=True)
    assert first.stdout.strip() == sys.prefix


def test_prepare_refuses_a_python_without_a_stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    for version in ("3.8", "3.9"):
        stub = home / pip_server.STUBS / version / pip_server.STUB
        stub.parent.mkdir(parents=True)
        stub.touch()
    monkeypatch.setattr(pip_server, "fetch", lambda _repository: home)
    with pytest.raises(ServerError, match=r"expected 3\.8, 3\.9, found 3.*docker run"):
        launch.prepare_launch(Path("models"), tmp_path / "folder")


def test_prepare_offers_an_unusual_python_as_python3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "bin" / "python-mine"
    other.parent.mkdir()
    other.symlink_to(Path(sys.executable).resolve())
    monkeypatch.setattr(sys, "executable", str(other))
    folder = tmp_path / "folder"
    path = launch.prepare_launch(Path("models"), folder).environment["PATH"]
    assert (Path(path.split(os.pathsep)[0]) / "python3").samefile(other)


def test_has_option_asks_the_program(tmp_path: Path) -> None:
    program = tmp_path / "tritonserver"
    program.write_text("#!/bin/sh\necho '  --http-max-input-size <integer>' >&2; exit 1\n")
    program.chmod(0o755)
    assert launch.has_option(launch.LaunchSpec(program, from_pip=False), "--http-max-input-size")
    assert not launch.has_option(launch.LaunchSpec(program, from_pip=False), "--another")
    assert not launch.has_option(launch.LaunchSpec(program, from_pip=True), "--http-max-input-size")


def test_how_to_get_names_package_or_container(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch.importable("numpy.linalg")
    assert not launch.importable("no_such_package.part")
    monkeypatch.setattr(launch, "importable", lambda module: module != "nvidia.dali")
    assert launch.how_to_get("onnxruntime") is None
    assert launch.how_to_get("dali") == "pip install 'shrinkserve[dali]'"
    assert "container" in str(launch.how_to_get(""))
    for other in ("tensorrt", "pytorch", "a-backend-of-tomorrow"):
        assert "NVIDIA's container" in str(launch.how_to_get(other))


def test_modules_of_the_working_directory_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here/onnxruntime").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    (tmp_path / "folder").mkdir()
    assert str(tmp_path / "here") not in launch._import_paths(tmp_path / "folder")


@pytest.mark.parametrize("name", ["v\u00fc", "v e n"])
def test_python_in_a_folder_with_special_characters_gets_plain_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    environment = tmp_path / name
    venv.create(environment, symlinks=True)
    (environment / "lib/own").mkdir()
    (environment / "lib/own/a_module.py").touch()
    for attribute, value in {"executable": str(environment / "bin/python3"), "prefix": str(environment)}.items():
        monkeypatch.setattr(sys, attribute, value)
    monkeypatch.syspath_prepend(str(environment / "lib/own"))
    (tmp_path / "folder").mkdir()
    path = launch.prepare_launch(Path("models"), tmp_path / "folder").environment["PATH"].split(os.pathsep)[0]
    shim = (tmp_path / "folder/backends/onnxruntime/model.py").read_text().splitlines()[2]
    check = f"import sys; {shim}; import a_module; print(sys.prefix, *sys.path)"
    command = [f"{path}/python3", "-I", "-c", check]
    printed = subprocess.run(command, capture_output=True, check=True).stdout
    assert name.encode() not in printed
    assert printed.decode("ascii")


def test_prepare_does_not_write_the_stub(tmp_path: Path) -> None:
    """Linux does not run a file that any process, such as one forked meanwhile, has open for writing (ETXTBSY)."""
    pip_server.fetch(Path("models"))
    begun = time.time_ns()
    launch.prepare_launch(Path("models"), tmp_path)
    stub = tmp_path / "backends/python" / pip_server.STUB
    assert os.access(stub, os.X_OK)
    assert stub.stat().st_mtime_ns < begun
