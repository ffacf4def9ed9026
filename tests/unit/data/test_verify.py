from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import pytest

from shrinkserve.data import evaluation_batches, open_dataset
from shrinkserve.data.storage.names import read_class_list
from shrinkserve.data.storage.quarantine import read_quarantine
from shrinkserve.data.storage.tfrecord import Shard
from shrinkserve.data.usage import usage_rows
from shrinkserve.data.verify import verify_dataset
from shrinkserve.errors import DataError
from shrinkserve.preprocess import Preprocess

VALIDATION = "val_tfrecord/validation-00000-of-00001"
TRAIN = "train_tfrecord/train-00001-of-00002"


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 255
    path.write_bytes(raw)


def test_quarantine_works_on_a_damaged_record_without_labels_txt(packed: Path) -> None:
    offset = int(Shard.scan(packed / VALIDATION).offsets[2])
    flip(packed / VALIDATION, offset + 200)
    with pytest.raises(DataError, match=r"checksum.*data verify --quarantine"):
        open_dataset(packed, "validation")
    (report,) = [r for r in verify_dataset(packed, quarantine=True, workers=1) if r.split == "validation"]
    assert [(bad.path, bad.offset) for bad in report.new] == [(VALIDATION, offset)]
    assert read_quarantine(packed) == {VALIDATION: frozenset({offset})}
    dataset = open_dataset(packed, "validation")
    assert (len(dataset), dataset.usage().skipped) == (5, {"in quarantine": 1})
    assert dataset.classes == ["background", "a", "b", "c"]


def test_class_names_are_read_from_all_splits(classes: Path, tmp_path: Path) -> None:
    from shrinkserve.data.packing.pack import pack_dataset

    for path in (classes / "val" / "c").iterdir():
        path.unlink()
    (classes / "val" / "c").rmdir()
    pack_dataset(classes, tmp_path / "out", workers=1)
    (tmp_path / "out" / "labels.txt").unlink()
    reports = verify_dataset(tmp_path / "out", workers=1)
    assert [report.bad for report in reports] == [[], []]
    assert reports[1].usage.empty_classes == ["c"]
    assert open_dataset(tmp_path / "out", "train").classes == ["background", "a", "b", "c"]


def test_verify_counts_two_classes_of_one_name_separately(packed: Path) -> None:
    (packed / "labels.txt").write_text("background\ncrane\ncrane\nc\n")
    assert verify_dataset(packed, workers=1)[0].counts == {"crane (1)": 6, "crane (2)": 6, "c": 6}


def test_gzip_shards_are_named_and_never_quarantined(packed: Path) -> None:
    for path in packed.glob("*_tfrecord/*-of-*"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"compressed with gzip.*gunzip"):
        open_dataset(packed, "train")
    with pytest.raises(DataError, match=r"labels in the records|no good image"):
        verify_dataset(packed, quarantine=True, workers=1)
    (packed / "labels.txt").write_text("background\na\nb\nc\n")
    with pytest.raises(DataError, match=r"no good image.*gzip"):
        verify_dataset(packed, quarantine=True, workers=1)
    assert not (packed / "quarantine.tsv").exists()


def test_hint_for_a_gzip_shard_decompresses_it(packed: Path) -> None:
    shard = packed / VALIDATION
    before = shard.read_bytes()
    shard.write_bytes(gzip.compress(before))
    with pytest.raises(DataError) as info:
        open_dataset(packed, "validation")
    assert info.value.hint is not None
    subprocess.run(["bash", "-c", info.value.hint.partition(": ")[2]], check=True)
    assert shard.read_bytes() == before


def test_an_empty_shard_is_an_error_until_it_is_in_quarantine(packed: Path) -> None:
    open_dataset(packed, "train")
    (packed / TRAIN).write_bytes(b"")
    with pytest.raises(DataError, match=r"train-00001-of-00002: empty shard"):
        open_dataset(packed, "train")
    assert verify_dataset(packed, quarantine=True, workers=1)[0].new[0].reason == "empty shard"
    assert len(open_dataset(packed, "train")) == 9


def test_shards_of_other_names_are_refused_with_their_names(packed: Path) -> None:
    (packed / TRAIN).rename(packed / "train_tfrecord" / "train-00002-of-00002")
    with pytest.raises(DataError, match=r"beyond the count.*train-00002-of-00002"):
        open_dataset(packed, "train")
    for path in (packed / "train_tfrecord").glob("train-*"):
        path.rename(path.with_suffix(".tfrecord"))
    with pytest.raises(DataError, match=r"no shards.*found train-.*\.tfrecord"):
        open_dataset(packed, "train")


def test_usage_counts_other_files_in_the_folder_of_shards(packed: Path) -> None:
    (packed / "train_tfrecord" / "notes.txt").write_text("")
    usage = open_dataset(packed, "train").usage()
    assert usage_rows([usage])[0] == ("train", "18", "1", "1 file that is not a shard", "0")


def test_shard_fingerprint_changes_with_class_names_but_not_with_quarantine(packed: Path) -> None:
    before = open_dataset(packed, "train").fingerprint()
    shard = Shard.scan(packed / TRAIN)
    flip(packed / TRAIN, int(shard.offsets[1]) + 100)
    verify_dataset(packed, quarantine=True, workers=1)
    dataset = open_dataset(packed, "train")
    assert (len(dataset), dataset.fingerprint()) == (17, before)
    (packed / "labels.txt").write_text("background\nb\na\nc\n")
    assert open_dataset(packed, "train").fingerprint() != before


@pytest.mark.parametrize("text", ["background\r\na\r\nb\r\n", "\ufeffbackground\na\nb\n", "background\na\nb"])
def test_read_labels_accepts_crlf_and_a_byte_order_mark(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.txt").write_bytes(text.encode())
    assert read_class_list(tmp_path / "labels.txt") == ["background", "a", "b"]


@pytest.mark.parametrize("name", ["a\x85b", "a\u2028b", "a\x0bb", "\x1b[1m"])
def test_read_labels_refuses_names_with_control_characters(tmp_path: Path, name: str) -> None:
    (tmp_path / "labels.txt").write_text(f"background\n{name}\n", encoding="utf-8")
    with pytest.raises(DataError, match="class names"):
        read_class_list(tmp_path / "labels.txt")


def test_open_dataset_names_record_with_label_0(packed: Path) -> None:
    from shrinkserve.data.storage.example import encode_example
    from shrinkserve.data.storage.tfrecord import append_record

    size = (packed / TRAIN).stat().st_size
    with (packed / TRAIN).open("ab") as stream:
        append_record(stream, encode_example({"image/encoded": b"", "image/class/label": 0}))
    with pytest.raises(DataError, match=rf"train-00001-of-00002 at byte {size}: label: expected 1.*found 0"):
        open_dataset(packed, "train")
    verify_dataset(packed, quarantine=True, workers=1)
    assert len(open_dataset(packed, "train")) == 18


def test_evaluation_names_a_bad_image_and_how_to_skip_it(classes: Path) -> None:
    (classes / "val" / "a" / "001.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"001\.jpg: cannot decode.*data verify --quarantine"):
        list(evaluation_batches(open_dataset(classes, "validation"), Preprocess(8), 4, workers=0))
    verify_dataset(classes, quarantine=True, workers=1)
    assert sum(map(len, evaluation_batches(open_dataset(classes, "validation"), Preprocess(8), 4))) == 5


def test_an_unreadable_dataset_is_an_error(classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_dir(path: Path) -> bool:
        if path.name == "train_tfrecord":  # root may read everything, so the error of the system is simulated
            raise PermissionError(13, "Permission denied", str(path))
        return True

    monkeypatch.setattr(Path, "is_dir", is_dir)
    with pytest.raises(DataError, match="cannot be read"):
        open_dataset(classes, "train")
    with pytest.raises(DataError, match="cannot be read"):
        verify_dataset(classes)
