from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from shrinkserve.data import open_dataset
from shrinkserve.data.info import describe_dataset
from shrinkserve.data.packing.pack import pack_dataset
from shrinkserve.data.storage.quarantine import BadImage, write_quarantine
from shrinkserve.data.usage import usage_rows
from shrinkserve.errors import DataError


def test_usage_counts_skipped_files_and_names_empty_classes(classes: Path, tmp_path: Path) -> None:
    for path in (classes / "train" / "b").iterdir():
        path.rename(path.with_suffix(".jfif"))
    (tmp_path / "more").mkdir()
    for path in (classes / "train" / "c").iterdir():
        path.rename(tmp_path / "more" / path.name)
    (classes / "train" / "c" / "part1").symlink_to(tmp_path / "more")
    usage = open_dataset(classes, "train").usage()
    assert (usage.used, usage.skipped, usage.empty_classes) == (12, {"suffix .jfif": 6}, ["b"])
    rows = usage_rows([split.usage for split in describe_dataset(classes)])
    assert rows == [("train", "12", "6", "6 suffix .jfif", "1: b"), ("validation", "6", "0", "", "0")]


def test_usage_rows_report_a_missing_split(classes: Path) -> None:
    (classes / "val").rename(classes / "valid")
    assert usage_rows([split.usage for split in describe_dataset(classes)])[1][:2] == ("validation", "missing")


def test_folder_ignores_files_that_operating_systems_add(classes: Path) -> None:
    (classes / "train" / "a" / "._000.jpg").write_bytes(b"\0\5\26\7")
    (classes / "train" / "b" / ".ipynb_checkpoints").mkdir()
    copy = (classes / "train" / "b" / "000.jpg").read_bytes()
    (classes / "train" / "b" / ".ipynb_checkpoints" / "000-checkpoint.jpg").write_bytes(copy)
    for split in ("train", "val"):
        (classes / split / "__MACOSX").mkdir()
    dataset = open_dataset(classes, "train")
    assert (dataset.classes, len(dataset)) == (["a", "b", "c"], 18)
    assert sum(dataset.usage().skipped.values()) == 2


def test_folder_names_the_files_of_a_split_without_class_folders(classes: Path) -> None:
    flat = classes / "val"
    for folder in list(flat.iterdir()):
        for path in list(folder.iterdir()):
            path.rename(flat / f"{folder.name}-{path.name}")
        folder.rmdir()
    with pytest.raises(DataError, match=r"no class folders.*6 files, such as a-000\.jpg"):
        open_dataset(classes, "validation")


def test_folder_refuses_a_split_without_images(classes: Path) -> None:
    for path in classes.glob("val/*/*"):
        path.rename(path.with_suffix(".tif"))
    with pytest.raises(DataError, match=r"no image in its class folders.*6 suffix \.tif"):
        open_dataset(classes, "validation")


def test_folder_matches_composed_and_decomposed_names(classes: Path) -> None:
    (classes / "train" / "c").rename(classes / "train" / unicodedata.normalize("NFC", "café"))
    (classes / "val" / "c").rename(classes / "val" / unicodedata.normalize("NFD", "café"))
    dataset = open_dataset(classes, "validation")
    assert dataset.classes == ["a", "b", unicodedata.normalize("NFC", "café")]
    assert [dataset.record(index).label for index in range(6)] == [0, 0, 1, 1, 2, 2]
    (classes / "val" / unicodedata.normalize("NFC", "café")).mkdir()
    with pytest.raises(DataError, match="different Unicode forms"):
        open_dataset(classes, "validation")


def test_folder_refuses_a_class_name_that_is_not_utf8(classes: Path) -> None:
    for split in ("train", "val"):
        os.rename(classes / split / "b", os.fsencode(classes / split) + b"/caf\xe9")
    with pytest.raises(DataError, match=r"class names.*caf\\udce9"):
        open_dataset(classes, "train")
    with pytest.raises(DataError, match="class names"):
        pack_dataset(classes, classes.parent / "out", workers=1)
    assert not (classes.parent / "out").exists()


def test_pack_takes_a_file_name_that_is_not_utf8(classes: Path, tmp_path: Path) -> None:
    path = classes / "train" / "b" / "000.jpg"
    os.rename(path, os.fsencode(path.parent) + b"/caf\xe9.jpg")
    assert pack_dataset(classes, tmp_path / "out", workers=1).images == {"train": 18, "validation": 6}


def test_record_reports_a_file_that_was_removed(classes: Path) -> None:
    dataset = open_dataset(classes, "train")
    (classes / "train" / "a" / "000.jpg").unlink()
    with pytest.raises(DataError, match=r"000\.jpg: file not found"):
        dataset.record(0)


def test_folder_refuses_a_broken_link(classes: Path) -> None:
    (classes / "train" / "a" / "x.jpg").symlink_to("gone")
    with pytest.raises(DataError, match=r"x\.jpg: broken link"):
        open_dataset(classes, "train")


def test_fingerprint_changes_with_names_and_labels_but_not_with_quarantine(classes: Path) -> None:
    before = open_dataset(classes, "train").fingerprint()
    write_quarantine(classes, [BadImage("train/a/000.jpg", 0, "bad")])
    dataset = open_dataset(classes, "train")
    assert (len(dataset), dataset.fingerprint()) == (17, before)
    assert dataset.usage().skipped == {"in quarantine": 1}
    for old, new in (("a", "x"), ("b", "a"), ("x", "b")):
        (classes / "train" / old).rename(classes / "train" / new)
    (classes / "train" / "b" / "000.jpg").rename(classes / "train" / "a" / "006.jpg")
    assert open_dataset(classes, "train").fingerprint() != before
