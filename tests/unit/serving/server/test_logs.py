from __future__ import annotations

import os
from pathlib import Path

import pytest

from shrinkserve.errors import ServerError
from shrinkserve.serving.server import logs

# As tritonserver 2.51 wrote them.
NO_MODULE = """\
I1125 01:43:10.068248 7798 server.cc:345] "Timeout 5: Found 0 live models and 0 in-flight non-inference requests"
error: creating server: Invalid argument - load failed for model 'tiny': version 1 is at UNAVAILABLE state: \
Internal: ModuleNotFoundError: No module named 'onnxruntime'

At:
  /tmp/backends/onnxruntime/model.py(2): <module>
  <frozen importlib._bootstrap>(241): _call_with_frames_removed
;
"""
NO_VERSION = """\
error: creating server: Invalid argument - load failed for model 'tiny': version 9 is at UNAVAILABLE state: \
Not found: model not found;
"""
TAKEN = """\
E1125 02:05:45.655755 21004 main.cc:245] "failed to start GRPC service: Unavailable - Socket '127.0.0.1:8001' \
already in use "
"""
ALL_FAILED = (
    "E1125 08:38:16.938200 5980 model_lifecycle.cc:642] \"failed to load 'tiny' version 1: Internal: Protobuf parsing "
    'failed.\\n\\nAt:\\n  /srv/session.py(753): _create\\n"\n'
    "error: creating server: Internal - failed to load all models\n"
)
NOT_POLLED = (
    "E1125 08:38:16.938200 5980 model_repository_manager.cc:1335] \"Poll failed for model directory 'tiny': unexpected "
    "name 'other' for model\"\nerror: creating server: Internal - failed to load all models\n"
)
ABORT = (
    "terminate called after throwing an instance of 'triton::backend::python::PythonBackendException'\n"
    "  what():  Failed to create temporary directory for Python environments.\n"
)
OTHER = "error: creating server: Internal - failed to load all models\n"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            NO_MODULE,
            "model 'tiny' cannot be loaded: Internal: ModuleNotFoundError: No module named 'onnxruntime'",
        ),
        (NO_VERSION, "model 'tiny' cannot be loaded: Not found: model not found"),
        (TAKEN, "tritonserver cannot start its GRPC service: Unavailable - Socket '127.0.0.1:8001' already in use"),
        (ALL_FAILED, "model 'tiny' cannot be loaded: Internal: Protobuf parsing failed."),
        (NOT_POLLED, "model 'tiny' cannot be loaded: unexpected name 'other' for model"),
        (OTHER, "tritonserver: creating server: Internal - failed to load all models"),
        (ABORT, "tritonserver: Failed to create temporary directory for Python environments."),
        ("I1125 all is well\n", None),
    ],
)
def test_reason_is_taken_from_the_log(lines: str, reason: str | None) -> None:
    assert logs.explain(lines.splitlines(keepends=True)) == reason


def test_log_rotates_and_keeps_every_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 1000)
    path = tmp_path / "folder" / "triton.log"
    lines = [f"line {number} " + "x" * 90 for number in range(60)]
    with logs.rotating_log(path) as log:
        for line in lines:
            log.info("%s", line)
    files = sorted(path.parent.iterdir(), reverse=True)
    assert [file.name for file in files] == ["triton.log.3", "triton.log.2", "triton.log.1", "triton.log"]
    assert all(file.stat().st_size <= 1000 for file in files)
    kept = "".join(file.read_text() for file in files).splitlines()
    assert kept == lines[-len(kept) :]


def test_rotating_log_reports_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServerError, match="log cannot be written"), logs.rotating_log(tmp_path / "file" / "log"):
        pass


def test_rotating_log_rejects_pipe_without_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ServerError, match="log cannot be written"), logs.rotating_log(tmp_path / "pipe"):
        pass


def test_full_disk_is_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    with logs.rotating_log(tmp_path / "log") as log:
        for _ in range(3):
            log.info("a line")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path / 'log'}: the log cannot be written (")
    assert "No space left on device" in line
