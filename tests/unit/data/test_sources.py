from __future__ import annotations

import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from shrinkserve.data.names import class_folders
from shrinkserve.data.pack import pack, plan_shards
from shrinkserve.data.quarantine import BadImage, read_quarantine, write_quarantine
from shrinkserve.data.sources import (
    SYNSETS,
    TRAIN_TAR,
    VALIDATION_SYNSETS,
    VALIDATION_TAR,
    Collection,
    SourceImage,
    _source,
    find_sources,
)
from shrinkserve.errors import DataError


@pytest.mark.parametrize("name", ["a\nb", "a\u2028b", "a\x85b", "\x1b[1m", "\u202eabc"])
def test_class_folders_rejects_names_with_control_characters(tmp_path: Path, name: str) -> None:
    for folder in (name, "zz"):
        (tmp_path / folder).mkdir()
    with pytest.raises(DataError, match="class names: expected one line each"):
        class_folders(tmp_path)


def test_pack_rejects_class_names_before_it_writes(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg")
    size = (tmp_path / "x.jpg").stat().st_size
    images = [SourceImage(str(tmp_path / "x.jpg"), 0, size, label, "x.jpg") for label in (1, 2)]
    collection = Collection(["n1", "n2"], ["a\nb", "zz"], {"train": images})
    shards = plan_shards(collection, tmp_path / "out", {"train": 1, "validation": 1})
    with pytest.raises(DataError, match="class names: expected one line each"):
        pack(collection, shards, tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", ["a\tb.jpg", "a\nb.jpg", "a\u2028b.jpg", '"quoted".jpg', "plain ü.jpg", "\udcff.jpg"])
def test_quarantine_keeps_any_path(tmp_path: Path, path: str) -> None:
    write_quarantine(tmp_path, [BadImage(path, 0, f"{path}: bad\x1b")])
    assert read_quarantine(tmp_path) == {path: frozenset({0})}


def tar(path: Path, *members: tarfile.TarInfo) -> None:
    with tarfile.open(path, "w") as stream:
        for member in members:
            stream.addfile(member)


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.SYMTYPE])
def test_find_sources_ignores_folders_and_links_named_tar(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("x.tar")
    member.type, member.linkname = kind, "elsewhere"
    tar(tmp_path / TRAIN_TAR, member, tarfile.TarInfo("n1_1.JPEG"))
    (tmp_path / SYNSETS).write_text("n1\n")
    assert [source.filename for source in find_sources(tmp_path).images["train"]] == ["n1_1.JPEG"]


def test_find_sources_rejects_unknown_validation_synsets(tmp_path: Path) -> None:
    tar(tmp_path / VALIDATION_TAR, tarfile.TarInfo("1.JPEG"))
    (tmp_path / SYNSETS).write_text("n1\n")
    (tmp_path / VALIDATION_SYNSETS).write_text("nX\n")
    with pytest.raises(DataError, match=r"not a synset of .*found nX"):
        find_sources(tmp_path)


def test_find_sources_rejects_negative_sizes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="size: expected 0 or more bytes, found -512"):
        _source(tmp_path, 0, SimpleNamespace(name="x.jpg", size=-512, offset_data=0))  # type: ignore[arg-type]
