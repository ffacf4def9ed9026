from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shrinkserve.cli import main
from shrinkserve.errors import ArtifactError
from shrinkserve.serving.repository.lock import locked
from shrinkserve.serving.repository.writer import Repository


def test_locked_calls_back_before_it_waits(tmp_path: Path) -> None:
    called, inside = threading.Event(), threading.Event()

    def second() -> None:
        with locked(tmp_path, waits=lambda _: called.set()):
            inside.set()

    with ThreadPoolExecutor() as pool:
        with locked(tmp_path, waits=lambda _: pytest.fail("the lock is free")):
            waiting = pool.submit(second)
            assert called.wait(60)
            assert not inside.is_set()
        waiting.result()
    assert inside.is_set()


def test_locked_rejects_a_file_as_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    def lock() -> None:
        with locked(tmp_path / "file"):
            pass

    with pytest.raises(ArtifactError, match="cannot be written"):
        lock()


def test_locked_gives_up_and_names_the_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/shrinkserve", "repo", "publish", "--token", "only-for-friends"])
    printed: list[str] = []
    refused = pytest.raises(ArtifactError, match=f"still at work after 0.1 s .pid {os.getpid()} on ")
    with locked(tmp_path), refused as caught, locked(tmp_path, waits=printed.append, seconds=0.1):
        pass
    assert len(str(caught.value).splitlines()) == 1
    (line,) = printed
    assert line.startswith(f"pid {os.getpid()} on {os.uname().nodename} since 2")
    assert line.endswith(": shrinkserve repo publish")


@pytest.mark.parametrize(("folder", "file"), [(0o755, 0o600), (0o775, 0o660)])
def test_lock_file_is_restricted_to_writers_of_the_folder(tmp_path: Path, folder: int, file: int) -> None:
    tmp_path.chmod(folder)
    (tmp_path / ".lock").write_text("")
    (tmp_path / ".lock").chmod(0o644)
    with locked(tmp_path):
        assert (tmp_path / ".lock").stat().st_mode & 0o777 == file


def test_locked_explains_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(_handle: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ArtifactError, match=r"\.lock: cannot be locked \(No locks available\)"), locked(tmp_path):
        pass


@pytest.mark.parametrize("command", [["rollback", "tiny"], ["gc"]])
def test_commands_print_that_they_wait(
    tiny_repository: Repository, tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(tiny_repository.root, tmp_path / "models"))
    with locked(root):
        assert main(["repo", *command, "--repository", str(root), "--wait", "0"]) == 2
    captured = capsys.readouterr()
    assert f"waiting: another publisher is at work in {root} (pid {os.getpid()}" in captured.out + captured.err
    assert captured.err.splitlines()[-1].startswith(f"error: {root}: another publisher is still at work after 0 s")
