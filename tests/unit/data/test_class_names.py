from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from shrinkserve.data.folder import class_names
from shrinkserve.data.pack import pack, plan
from shrinkserve.data.sources import Collection, Source
from shrinkserve.errors import DataError


@pytest.mark.parametrize("name", ["a\nb", "a\u2028b", "a\x85b", "\x1b[1m", "\u202eabc"])
def test_class_names_rejects_names_that_no_list_can_hold(tmp_path: Path, name: str) -> None:
    for folder in (name, "zz"):
        (tmp_path / folder).mkdir()
    with pytest.raises(DataError, match="class names: expected one line each"):
        class_names(tmp_path)


def test_pack_rejects_class_names_before_it_writes(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg")
    size = (tmp_path / "x.jpg").stat().st_size
    images = [Source(str(tmp_path / "x.jpg"), 0, size, label, "x.jpg") for label in (1, 2)]
    collection = Collection(["n1", "n2"], ["a\nb", "zz"], {"train": images})
    shards = plan(collection, tmp_path / "out", {"train": 1, "validation": 1})
    with pytest.raises(DataError, match="class names: expected one line each"):
        pack(collection, shards, tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()
