"""The public functions of the data commands, as a notebook uses them."""

from __future__ import annotations

from pathlib import Path

import pytest

import shrinkserve as ss


def test_functions_pack_index_verify_and_describe(classes: Path, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    report = ss.pack_dataset(
        classes, tmp_path / "packed", train_shards=2, workers=1, progress=lambda *p: progress.append(p)
    )
    assert (report.images, report.shards, report.classes, report.bad) == ({"train": 18, "validation": 6}, 3, 3, [])
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert [(index.shards, index.records) for index in ss.index_dataset(tmp_path / "packed")] == [(2, 18), (1, 6)]
    assert [sum(split.counts.values()) for split in ss.verify_dataset(tmp_path / "packed")] == [18, 6]
    train, validation = ss.describe_dataset(str(tmp_path / "packed"))
    assert (train.images, train.classes, train.layout, validation.median_size) == (18, 4, "TFRecord", (48, 48))
    assert len(ss.open_dataset(tmp_path / "packed", "train")) == 18


def test_write_digits_returns_the_counts(tmp_path: Path) -> None:
    assert ss.write_digits(tmp_path / "digits") == {"train": 1433, "validation": 364}


@pytest.mark.parametrize("function", [ss.describe_dataset, ss.verify_dataset, ss.index_dataset])
def test_functions_refuse_a_missing_folder(function: object, tmp_path: Path) -> None:
    with pytest.raises(ss.errors.DataError, match=r"no such folder|no shards"):
        function(tmp_path / "none")  # type: ignore[operator]
