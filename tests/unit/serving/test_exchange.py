from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shrinkserve.errors import ArtifactError
from shrinkserve.serving import exchange
from shrinkserve.serving.exchange import changed_folder, locked


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
            except FileNotFoundError as fault:
                missing.append(fault)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(50):
        with changed_folder(target):
            pass
    done.set()
    reader.join()
    assert not missing


def test_without_one_step_exchange_two_renames_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_exchange_in_one_step", lambda *_: False)
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "file").write_text(folder.name)
    exchange.exchange(new, old)
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
        with locked(tmp_path, waits=told.set):
            inside.set()

    with ThreadPoolExecutor() as pool:
        with locked(tmp_path, waits=lambda: pytest.fail("nobody is at work")):
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
