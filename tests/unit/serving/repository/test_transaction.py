from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shrinkserve.errors import ArtifactError
from shrinkserve.serving.repository import transaction
from shrinkserve.serving.repository.transaction import changing, scratch_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with the folders `a` and `b`, a file in each."""
    for name in ("a", "b"):
        (tmp_path / "root" / name).mkdir(parents=True)
        (tmp_path / "root" / name / "file").write_text(f"old {name}")
    return tmp_path / "root"


def contents(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def replace_file(copy: Path, text: str) -> None:
    (copy / "file").unlink()
    (copy / "file").write_text(text)


def test_commit_puts_copies_in_place(root: Path) -> None:
    with changing(root) as change:
        replace_file(change.copy("a"), "new a")
        replace_file(change.copy("b"), "new b")
        (change.copy("c") / "file").write_text("new c")
        assert contents(root) == {"a/file": "old a", "b/file": "old b"}
        change.commit(hidden=("a",))
    assert contents(root) == {"a/file": "new a", "b/file": "new b", "c/file": "new c"}
    assert [path.name for path in root.parent.iterdir()] == ["root"]


def test_commit_syncs_every_new_file_and_then_the_repository(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut a version that was reported as published is there."""
    synced: list[int] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_ino), sync(handle)))
    with changing(root) as change:
        replace_file(change.copy("a"), "new a")
        (change.copy("c") / "file").write_text("new c")
        change.commit()
    new = {(root / name).stat().st_ino for name in ("a", "a/file", "c", "c/file")}
    assert new <= set(synced[:-1])
    assert synced[-1] == root.stat().st_ino


@pytest.mark.parametrize("hidden", [(), ("a",), ("c",), ("a", "c")])
@pytest.mark.parametrize("committed", [False, True])
def test_failed_block_leaves_the_old_folders(root: Path, hidden: tuple[str, ...], committed: bool) -> None:
    def fail() -> None:
        with changing(root) as change:
            replace_file(change.copy("a"), "new a")
            (change.copy("c") / "file").write_text("new c")
            if committed:
                change.commit(hidden=hidden)
                assert contents(root)["c/file"] == "new c"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert contents(root) == {"a/file": "old a", "b/file": "old b"}
    assert [path.name for path in root.parent.iterdir()] == ["root"]


def test_hidden_folder_is_absent_while_the_others_change(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    exchange = transaction.exchange

    def spy(new: Path, target: Path) -> None:
        seen.append((target.name, (root / "a").exists()))
        exchange(new, target)

    monkeypatch.setattr(transaction, "exchange", spy)
    with changing(root) as change:
        for name in ("a", "b"):
            change.copy(name)
        change.commit(hidden=("a",))
    assert seen == [("b", False), ("a", False)]


def test_error_in_commit_restores_what_was_exchanged(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = transaction.exchange

    def fail_for_b(new: Path, target: Path) -> None:
        if target.name == "b" and new.joinpath("file").read_text() == "new b":
            raise OSError(28, "No space left on device")
        exchange(new, target)

    monkeypatch.setattr(transaction, "exchange", fail_for_b)

    def change_both() -> None:
        with changing(root) as change:
            replace_file(change.copy("a"), "new a")
            replace_file(change.copy("b"), "new b")
            change.commit()

    with pytest.raises(ArtifactError, match="No space left"):
        change_both()
    assert contents(root) == {"a/file": "old a", "b/file": "old b"}


def test_failed_revert_becomes_a_note_and_keeps_the_old_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change_a() -> None:
        with changing(root) as change:
            replace_file(change.copy("a"), "new a")
            change.commit()
            monkeypatch.setattr(transaction, "exchange", lambda *_: os.rename("/nonexistent", "/nonexistent"))
            raise RuntimeError("the server refuses")

    with pytest.raises(RuntimeError, match="the server refuses") as caught:
        change_a()
    (note,) = getattr(caught.value, "__notes__")  # noqa: B009 - Python 3.10 does not declare it
    assert "could not be undone" in note
    (kept,) = root.parent.glob(".root.kept-*")
    assert str(kept) in note
    assert (kept / "a/file").read_text() == "old a"
    monkeypatch.undo()
    with changing(root):
        pass
    assert kept.exists(), "the next change sweeps only its own leftovers"


def test_reader_always_finds_the_folder(root: Path) -> None:
    done, missing = threading.Event(), []

    def read() -> None:
        while not done.is_set():
            try:
                (root / "a/file").read_text()
            except FileNotFoundError as exc:
                missing.append(exc)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(50):
        with changing(root) as change:
            change.copy("a")
            change.commit()
    done.set()
    reader.join()
    assert not missing


def test_unchanged_files_are_linked_not_copied(root: Path) -> None:
    inode = (root / "a/file").stat().st_ino
    with changing(root) as change:
        change.copy("a")
        change.commit()
    assert (root / "a/file").stat().st_ino == inode


@pytest.mark.parametrize("kind", ["staging", "scratch"])
def test_sweep_leaves_other_repositories_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    use = changing if kind == "staging" else scratch_folder
    (tmp_path / "m*").mkdir()
    (tmp_path / "here").mkdir()
    others = [tmp_path / name for name in (f".models.{kind}-1", f"..{kind}-1")]
    own = [tmp_path / name for name in (f".m*.{kind}-1", f".here.{kind}-1")]
    for folder in [*others, *own]:
        folder.mkdir()
    with use(tmp_path / "m*"):
        pass
    monkeypatch.chdir(tmp_path / "here")
    with use(Path()):
        pass
    assert all(folder.exists() for folder in others)
    assert not any(folder.exists() for folder in own)


def test_scratch_folder_of_killed_process_is_removed_by_the_next(root: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from shrinkserve.serving.repository.transaction import scratch_folder\n"
        "with scratch_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'copy').write_text('of a model'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(root)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = root.parent.glob(".root.scratch-*")
    with scratch_folder(root) as folder:
        assert not left.exists()
        assert folder.parent == root.parent
