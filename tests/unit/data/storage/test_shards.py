from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from shrinkserve.data import open_dataset
from shrinkserve.data.storage.index import index_path, open_shard
from shrinkserve.errors import ConfigError, DataError


@pytest.fixture
def copy(digits: Path, tmp_path: Path) -> Path:
    root = tmp_path / "digits"
    shutil.copytree(digits, root, ignore=shutil.ignore_patterns("index"))
    return root


def test_open_shard_writes_and_uses_an_index(copy: Path) -> None:
    path = copy / "train_tfrecord" / "train-00000-of-00004"
    scanned = open_shard(path)
    assert index_path(path).exists()
    assert open_shard(path).offsets.tolist() == scanned.offsets.tolist()


@pytest.mark.parametrize("spoil", ["older", "garbage", "other", "half"])
def test_open_shard_replaces_an_index_that_does_not_fit(copy: Path, spoil: str) -> None:
    path = copy / "train_tfrecord" / "train-00000-of-00004"
    offsets = open_shard(path).offsets.tolist()
    index = index_path(path)
    text = index.read_text()
    if spoil == "older":
        index.write_text(text.replace(" ", " 1"))
        os.utime(index, ns=(0, 0))
    else:
        index.write_text({"garbage": "x y\n", "other": "0 100\n100 200\n", "half": text[: len(text) // 2]}[spoil])
    assert open_shard(path).offsets.tolist() == offsets


def test_open_dataset_works_on_a_read_only_disk(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / "train_tfrecord" / "index").write_text("in the way: nothing can be written here, not even by root")
    (copy / "labels.txt").unlink()
    assert len(open_dataset(copy, "train")) == 1433


def test_open_dataset_reads_class_names_from_records_without_labels_txt(copy: Path) -> None:
    (copy / "labels.txt").unlink()
    assert open_dataset(copy, "train").classes == ["background", *"0123456789"]
    assert (copy / "labels.txt").read_text().split() == ["background", *"0123456789"]


def test_record_refuses_a_label_that_labels_txt_lacks(copy: Path) -> None:
    (copy / "labels.txt").write_text("background\n0\n1\n")
    dataset = open_dataset(copy, "train")
    with pytest.raises(DataError, match=r"train-00000-of-00004 at byte 0: label: expected 1..2 .* found 3"):
        dataset.record(0)
    (copy / "labels.txt").write_text("one\n")
    with pytest.raises(DataError, match="not a list of class names"):
        open_dataset(copy, "train")


def test_open_dataset_refuses_another_split(digits: Path) -> None:
    with pytest.raises(ConfigError, match="train or validation"):
        open_dataset(digits, "val")  # type: ignore[arg-type]


def test_open_dataset_refuses_missing_shards_and_two_sets(copy: Path) -> None:
    folder = copy / "train_tfrecord"
    (folder / "train-00002-of-00004").rename(folder / "aside")
    with pytest.raises(DataError, match="1 of 4 shards are missing: found train-00002-of-00004"):
        open_dataset(copy, "train")
    (folder / "aside").rename(folder / "train-00002-of-00005")
    with pytest.raises(DataError, match="shards of several sets"):
        open_dataset(copy, "train")


def test_record_refuses_an_index_beyond_the_end(digits: Path) -> None:
    with pytest.raises(IndexError):
        open_dataset(digits, "train").record(1433)


def test_open_dataset_refuses_a_class_without_training_images(photo_folder: Path, tmp_path: Path) -> None:
    assert open_dataset(photo_folder, "validation").classes == ["cat", "cup"]
    shutil.copytree(photo_folder, tmp_path / "photos")
    (tmp_path / "photos" / "val" / "cup").rename(tmp_path / "photos" / "val" / "dog")
    with pytest.raises(DataError, match=r"classes without training images.*found dog"):
        open_dataset(tmp_path / "photos", "validation")
