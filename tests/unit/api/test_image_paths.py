from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkserve.api.image_paths import expand_images
from shrinkserve.errors import DataError, ShrinkServeError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("photos/b.jpg", "photos/a.png", "photos/inner/c.JPEG", "photos/notes.txt", "photos/._x.jpg", "d.gif"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def names(*words: str, stdin: bytes = b"") -> list[str]:
    return [str(path) for path in expand_images(words, io.BufferedReader(io.BytesIO(stdin))).paths]


def test_expand_images_takes_files_folders_and_patterns() -> None:
    assert names("d.gif", "photos", "photos/*.jpg") == [
        "d.gif",
        *("photos/a.png", "photos/b.jpg", "photos/inner/c.JPEG"),
        "photos/b.jpg",
    ]


def test_skipped_files_of_folders_are_counted() -> None:
    found = expand_images(["photos"])
    assert dict(found.skipped) == {"suffix .txt": 1, "hidden file": 1}


def test_linked_folders_are_searched(folder: Path) -> None:
    (folder / "photos" / "link").symlink_to(folder / "elsewhere")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "e.png").write_bytes(b"")
    assert "photos/link/e.png" in names("photos")


def test_expand_images_takes_file_whose_name_looks_like_a_pattern(folder: Path) -> None:
    (folder / "a[1].jpg").write_bytes(b"")
    assert names("a[1].jpg") == ["a[1].jpg"]


def test_named_pipe_is_a_file(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert names("pipe") == ["pipe"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a.jpg\nb c.jpg\n", ["a.jpg", "b c.jpg"]),
        (b"a.jpg\r\n\r\n  \r\nb.jpg", ["a.jpg", "b.jpg"]),
        (b"\xef\xbb\xbfa.jpg\n", ["a.jpg"]),
        (b"a.jpg\0b\nc.jpg\0", ["a.jpg", "b\nc.jpg"]),
        (b"caf\xe9.jpg\n", ["caf\udce9.jpg"]),
        (b"", []),
        (b"\n\n", []),
    ],
)
def test_expand_images_reads_list_on_standard_input(text: bytes, expected: list[str]) -> None:
    assert names("-", stdin=text) == expected


@pytest.mark.parametrize("text", ["a.jpg\n".encode("utf-16"), b"x" * 10_000_000])
def test_input_that_is_no_list_is_one_error(text: bytes) -> None:
    with pytest.raises(DataError, match="list of images"):
        names("-", stdin=text)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_list_or_an_error(text: bytes) -> None:
    try:
        found = names("-", stdin=text)
    except ShrinkServeError:
        return
    assert all(found)


@pytest.mark.parametrize("word", ["absent.jpg", "*.nothing", "x" * 300, "a\0b", "photos/notes.txt/a.jpg"])
def test_paths_that_cannot_be_read_are_one_error(word: str) -> None:
    with pytest.raises(DataError) as caught:
        names("photos", word)
    assert len(str(caught.value)) < 800


def test_folder_without_images_is_an_error(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        names("empty")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_folder_that_cannot_be_listed_is_an_error(folder: Path) -> None:
    (folder / "photos" / "closed").mkdir(mode=0)
    with pytest.raises(DataError, match="closed"):
        names("photos")
