from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shrinkserve import atomic
from shrinkserve.errors import ArtifactError


def test_staged_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "run"

    def fail_half_way() -> None:
        with atomic.staged_folder(target) as folder:
            (folder / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert list(target.parent.iterdir()) == []
    for content in ("one", "two"):
        with atomic.staged_folder(target) as folder:
            (folder / content).write_text(content)
        assert [p.name for p in target.iterdir()] == [content]
    assert [p.name for p in target.parent.iterdir()] == ["run"]


def test_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    atomic.write_atomic(path, b"old")
    script = (
        "import os, signal, pathlib; from shrinkserve import atomic\n"
        "os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"atomic.write_atomic(pathlib.Path({str(path)!r}), b'new')"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_unwritable_place_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refusal = r"file/below: cannot be written \(\S+/file is a file\)"
    with pytest.raises(ArtifactError, match=refusal):
        atomic.write_atomic(tmp_path / "file" / "below", b"")
    with pytest.raises(ArtifactError, match=refusal), atomic.staged_folder(tmp_path / "file" / "below"):
        pass


def test_check_writable_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    atomic.check_writable(tmp_path / "new" / "below")
    assert not (tmp_path / "new").exists()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ArtifactError, match=r"/file is a file\)"):
            atomic.check_writable(place)
    with pytest.raises(ArtifactError, match="/proc/x: cannot be written"):  # permissions do not stop root
        atomic.check_writable(Path("/proc/x"))


def test_shutil_error_is_explained(tmp_path: Path) -> None:
    with (
        pytest.raises(ArtifactError, match=r"cannot be written \(No space left\)"),
        atomic.unwritable(tmp_path / "x"),
    ):
        raise shutil.Error([("a", "b", "No space left")])


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o077, 0o600, 0o700), (0o022, 0o644, 0o755)])
def test_new_files_and_folders_follow_the_umask(tmp_path: Path, umask: int, file: int, folder: int) -> None:
    old = os.umask(umask)
    try:
        with atomic.staged_folder(tmp_path / "run") as staged:
            atomic.write_atomic(staged / "card.json", b"{}")
    finally:
        os.umask(old)
    assert (tmp_path / "run").stat().st_mode & 0o777 == folder
    assert (tmp_path / "run/card.json").stat().st_mode & 0o777 == file


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_file_system_that_cannot_sync_folders_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "fsync", _failing(code))
    atomic.write_atomic(tmp_path / "f", b"content")
    assert (tmp_path / "f").read_bytes() == b"content"


def test_error_of_the_disk_is_not_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", _failing(errno.EIO))
    with pytest.raises(ArtifactError, match="Input/output error"):
        atomic.write_atomic(tmp_path / "f", b"content")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[int | str]:
    """Record what is done on the disk, in order: the inode of each sync, and "rename"."""
    events: list[int | str] = []
    sync, rename, replace = os.fsync, os.rename, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append(os.fstat(handle).st_ino), sync(handle)))
    monkeypatch.setattr(os, "rename", lambda *paths: (events.append("rename"), rename(*paths)))
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("rename"), replace(*paths)))
    return events


def test_write_atomic_syncs_the_file_before_the_rename_and_its_folder_after(
    tmp_path: Path, disk: list[int | str]
) -> None:
    """After a power cut the old or the new file is there, and a file that was reported as written stays."""
    atomic.write_atomic(tmp_path / "f", b"content")
    assert disk == [(tmp_path / "f").stat().st_ino, "rename", tmp_path.stat().st_ino]


def test_staged_folder_syncs_its_content_before_the_rename_and_its_parent_after(
    tmp_path: Path, disk: list[int | str]
) -> None:
    with atomic.staged_folder(tmp_path / "d") as aside:
        (aside / "f").write_text("content")
    file, folder = ((tmp_path / name).stat().st_ino for name in ("d/f", "d"))
    assert disk == [file, folder, "rename", tmp_path.stat().st_ino]


def _failing(code: int) -> Callable[[object], None]:
    def fail(_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def tree(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def read(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("way", ["one step", "two renames", "overlay"])
def test_exchange_swaps_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    old = tree(tmp_path / "old", config="1", v1__model="a", v1__gone="x", v0__model="z")
    new = tree(tmp_path / "new", config="2", v1__model="b", v2__model="c")
    before, after = read(old), read(new)
    rename = os.rename

    def rename_on_overlay(source: Path, target: Path) -> None:
        if Path(source) == old:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target)

    if way != "one step":
        monkeypatch.setattr(atomic, "_exchange_in_one_step", lambda *_: False)
    if way == "overlay":
        monkeypatch.setattr(os, "rename", rename_on_overlay)
    atomic.exchange(new, old)
    assert (read(old), read(new)) == (after, before)
    atomic.exchange(new, old)
    assert (read(old), read(new)) == (before, after)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_overlay_exchange_replaces_config_after_adding_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tree(tmp_path / "old", config="1", v1__model="a")
    new = tree(tmp_path / "new", config="2", v1__model="a", v2__model="b")
    replace, order = os.replace, []

    def spy(source: Path, target: Path) -> None:
        order.append(Path(target).relative_to(old).as_posix())
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    atomic._overwrite_tree(new, old)
    assert order[0] == "v2/model"
    assert "config" in order[1:]


def test_linked_copy_works_without_hard_links_and_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tree(tmp_path / "source", a="1", b__c="2")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    for name in ("link", "chmod"):
        monkeypatch.setattr(os, name, refuse)
    atomic.linked_copy(source, tmp_path / "target")
    assert read(tmp_path / "target") == {"a": "1", "b/c": "2"}
