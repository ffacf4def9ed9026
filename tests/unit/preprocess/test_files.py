from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from shrinkserve.errors import DataError
from shrinkserve.preprocess import find_images, list_images


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_find_images_takes_files_and_the_images_of_folders(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a.png", "notes.txt", "sub/c.webp")
    assert [p.name for p in find_images([tmp_path])] == ["a.png", "b.JPG", "c.webp"]
    assert find_images([tmp_path / "notes.txt"]) == [tmp_path / "notes.txt"]


def test_find_images_refuses_missing_and_empty_paths(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image in this folder"):
        find_images([tmp_path / "empty"])
    with pytest.raises(DataError, match="no such file"):
        find_images([tmp_path / "gone"])


def test_list_images_counts_what_it_skips(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jfif", "c.tif", "d.tif", "e", "._a.jpg", ".DS_Store")
    touch(tmp_path, ".ipynb_checkpoints/a.jpg", "__MACOSX/x/a.jpg")
    found = list_images(tmp_path)
    assert found.images == [tmp_path / "a.jpg"]
    assert found.skipped == Counter(
        {
            "hidden file": 2,
            "suffix .tif": 2,
            "suffix .jfif": 1,
            "no suffix": 1,
            "hidden folder .ipynb_checkpoints": 1,
            "hidden folder __MACOSX": 1,
        }
    )


def test_list_images_follows_links_once(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/a.jpg", "photos/b.jpg")
    (tmp_path / "photos" / "part1").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "loop").symlink_to(tmp_path / "photos")
    assert sorted(p.name for p in list_images(tmp_path / "photos").images) == ["a.jpg", "b.jpg"]


def test_list_images_refuses_a_broken_link(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"a\.jpg: broken link"):
        list_images(tmp_path)


def test_list_images_refuses_an_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "sub/a.jpg")
    if os.geteuid() == 0:  # root may list everything
        real = os.scandir

        def scandir(path: str) -> object:
            if Path(path).name == "sub":
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)
    else:
        (tmp_path / "sub").chmod(0)
    with pytest.raises(DataError, match="cannot list folder"):
        list_images(tmp_path)
