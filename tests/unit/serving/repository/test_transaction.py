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
from shrinkserve.serving.repository import transaction
from shrinkserve.serving.repository.transaction import changed_folder, locked
from shrinkserve.serving.repository.writer import Repository


def test_change_replaces_the_folder_and_failure_does_not(tmp_path: Path) -> None:
    target = tmp_path / "root" / "model"
    target.mkdir(parents=True)
    (target / "kept").write_text("kept")
    with changed_folder(target) as copy:
        (copy / "new").write_text("new")
        assert not (target / "new").exists()
    assert sorted(p.name for p in target.iterdir()) == ["kept", "new"]

    def fail() -> None:
        with changed_folder(target) as copy:
            (copy / "kept").unlink()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert sorted(p.name for p in target.iterdir()) == ["kept", "new"]
    assert [p.name for p in tmp_path.iterdir()] == ["root"]


def test_a_reader_always_finds_the_folder(tmp_path: Path) -> None:
    target = tmp_path / "root" / "model"
    target.mkdir(parents=True)
    (target / "file").write_text("x")
    done, missing = threading.Event(), []

    def read() -> None:
        while not done.is_set():
            try:
                (target / "file").read_text()
            except FileNotFoundError as exc:
                missing.append(exc)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(50):
        with changed_folder(target):
            pass
    done.set()
    reader.join()
    assert not missing


def test_without_one_step_exchange_two_renames_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "_exchange_in_one_step", lambda *_: False)
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "file").write_text(folder.name)
    transaction.exchange(new, old)
    assert ((old / "file").read_text(), (new / "file").read_text()) == ("new", "old")


def test_unchanged_files_are_links_not_copies(tmp_path: Path) -> None:
    target = tmp_path / "root" / "model"
    target.mkdir(parents=True)
    (target / "big").write_bytes(b"x" * 1000)
    inode = (target / "big").stat().st_ino
    with changed_folder(target):
        pass
    assert (target / "big").stat().st_ino == inode


def test_who_has_to_wait_is_told(tmp_path: Path) -> None:
    told, inside = threading.Event(), threading.Event()

    def second() -> None:
        with locked(tmp_path, waits=lambda _: told.set()):
            inside.set()

    with ThreadPoolExecutor() as pool:
        with locked(tmp_path, waits=lambda _: pytest.fail("nobody is at work")):
            waiting = pool.submit(second)
            assert told.wait(60)
            assert not inside.is_set()
        waiting.result()
    assert inside.is_set()


def test_lock_of_an_impossible_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    def lock() -> None:
        with locked(tmp_path / "file"):
            pass

    with pytest.raises(ArtifactError, match="cannot be written"):
        lock()


def test_wait_for_the_lock_ends_and_names_the_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/shrinkserve", "repo", "publish", "--token", "only-for-friends"])
    told: list[str] = []
    refused = pytest.raises(ArtifactError, match=f"still at work after 0.1 s .pid {os.getpid()} on ")
    with locked(tmp_path), refused as caught, locked(tmp_path, waits=told.append, seconds=0.1):
        pass
    assert len(str(caught.value).splitlines()) == 1
    (line,) = told
    assert line.startswith(f"pid {os.getpid()} on {os.uname().nodename} since 2")
    assert line.endswith(": shrinkserve repo publish")


@pytest.mark.parametrize(("folder", "file"), [(0o755, 0o600), (0o775, 0o660)])
def test_lock_is_open_to_those_only_who_may_write_the_folder(tmp_path: Path, folder: int, file: int) -> None:
    tmp_path.chmod(folder)
    (tmp_path / ".lock").write_text("")
    (tmp_path / ".lock").chmod(0o644)
    with locked(tmp_path):
        assert (tmp_path / ".lock").stat().st_mode & 0o777 == file


def test_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(_handle: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ArtifactError, match=r"\.lock: cannot be locked \(No locks available\)"), locked(tmp_path):
        pass


@pytest.mark.parametrize("command", [["rollback", "tiny"], ["gc"]])
def test_commands_say_that_they_wait(
    tiny_repository: Repository, tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(tiny_repository.root, tmp_path / "models"))
    with locked(root):
        assert main(["repo", *command, "--repository", str(root), "--wait", "0"]) == 2
    captured = capsys.readouterr()
    assert f"waiting: another publisher is at work in {root} (pid {os.getpid()}" in captured.out + captured.err
    assert captured.err.splitlines()[-1].startswith(f"error: {root}: another publisher is still at work after 0 s")


def test_sweep_leaves_other_repositories_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m*").mkdir()
    (tmp_path / "here").mkdir()
    others = [tmp_path / name for name in (".models.staging-1", "..staging-1")]
    own = [tmp_path / name for name in (".m*.staging-1", ".here.staging-1")]
    for folder in [*others, *own]:
        folder.mkdir()
    with changed_folder(tmp_path / "m*" / "model"):
        pass
    monkeypatch.chdir(tmp_path / "here")
    with changed_folder(Path("model")):
        pass
    assert all(folder.exists() for folder in others)
    assert not any(folder.exists() for folder in own)
