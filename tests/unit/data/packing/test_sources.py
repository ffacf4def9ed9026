from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import resource
import signal
import tarfile
import tempfile
import threading
import time
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shrinkserve.data.packing.pack import pack_dataset, plan_shards
from shrinkserve.data.packing.pack_shards import write_shards
from shrinkserve.data.packing.sources import (
    SYNSETS,
    TRAIN_TAR,
    VALIDATION_SYNSETS,
    VALIDATION_TAR,
    Collection,
    SourceImage,
    _source,
    find_sources,
)
from shrinkserve.data.storage.example import Features
from shrinkserve.data.storage.names import class_folders
from shrinkserve.data.storage.quarantine import BadImage, read_quarantine, write_quarantine
from shrinkserve.errors import ArtifactError, ConfigError, DataError


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
        write_shards(collection, shards, tmp_path / "out", workers=1)
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


def test_pack_ends_when_a_process_is_killed_and_continues_later(classes: Path, tmp_path: Path) -> None:
    def kill() -> None:
        while not (children := multiprocessing.active_children()):
            time.sleep(0.01)
        os.kill(children[0].pid or 0, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(DataError, match=r"packing process was killed.*fewer --workers"):
        pack_dataset(classes, tmp_path / "out", train_shards=6, workers=2)
    thread.join()
    assert pack_dataset(classes, tmp_path / "out", train_shards=6, workers=2).images == {"train": 18, "validation": 6}


def test_pack_ends_when_a_process_is_killed_while_another_starts(
    classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = SpawnProcess.start

    def kill_others_and_start(process: SpawnProcess) -> None:
        for other in multiprocessing.active_children():
            os.kill(other.pid or 0, signal.SIGKILL)
            wait([other.sentinel])
        time.sleep(delay)
        start(process)

    monkeypatch.setattr(SpawnProcess, "start", kill_others_and_start)
    for delay in (0.0, 0.001, 0.003, 0.01, 0.3):  # before, while and after the executor notices it
        with pytest.raises(DataError, match=r"packing process was killed"):
            pack_dataset(classes, tmp_path / str(delay), train_shards=6, workers=2)
        assert not multiprocessing.active_children()


def test_pack_shrinks_large_images_only(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "train" / "a"
    folder.mkdir(parents=True)
    gradient = Image.linear_gradient("L").resize((200, 100)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    gradient.save(folder / "large.jpg", quality=95, exif=exif)
    gradient.resize((64, 48)).save(folder / "small.jpg")
    gradient.save(folder / "picture.png")
    report = pack_dataset(tmp_path / "photos", tmp_path / "out", train_shards=1, max_side=50, workers=1)
    assert report.images == {"train": 3}
    packed = {
        features.text("image/filename"): features.bytes("image/encoded") for features in examples(tmp_path / "out")
    }
    assert packed["small.jpg"] == (folder / "small.jpg").read_bytes()
    for name in ("large.jpg", "picture.png"):
        image = Image.open(io.BytesIO(packed[name]))
        assert (image.format, image.size) == ("JPEG", (100, 50))
        expected = np.asarray(gradient.reduce(2), np.float32)  # means of 2x2 pixels
        assert np.abs(np.asarray(image, np.float32) - expected).mean() < 1.5
    assert dict(Image.open(io.BytesIO(packed["large.jpg"])).getexif()) == {0x0112: 6}


def examples(root: Path) -> list[Features]:
    """Return the examples of all shards."""
    (shard,) = root.rglob("train-*-of-*")
    content, found = shard.read_bytes(), []
    while content:  # length, checksum of it, data, checksum of it
        length = int.from_bytes(content[:8], "little")
        found.append(Features(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def test_pack_of_another_size_does_not_continue(classes: Path, tmp_path: Path) -> None:
    next((classes / "val").rglob("*.jpg")).write_text("no image")
    with pytest.raises(DataError):
        pack_dataset(classes, tmp_path / "out", workers=1, max_side=20)
    with pytest.raises(DataError, match="unfinished packing of other images or sizes"):
        pack_dataset(classes, tmp_path / "out", workers=1, max_side=30)
    assert pack_dataset(classes, tmp_path / "out", workers=1, max_side=20, skip_bad=True).bad


@pytest.mark.parametrize("change", [{"max_side": 0}, {"max_side": 5, "quality": 0}])
def test_pack_rejects_sizes_out_of_range(classes: Path, tmp_path: Path, change: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        pack_dataset(classes, tmp_path / "out", workers=1, **change)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_pack_names_the_shard_that_cannot_be_written(classes: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ArtifactError, match=r"train-00000-of-00001.*File too large"):
            pack_dataset(classes, tmp_path / "out", workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_pack_refuses_a_shard_without_a_good_image(classes: Path, tmp_path: Path) -> None:
    for path in (classes / "train").rglob("*.jpg"):
        path.write_text("no image")
    with pytest.raises(DataError, match="every image is bad"):
        pack_dataset(classes, tmp_path / "out", skip_bad=True, workers=1)


def test_quarantine_has_a_longest_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too many"):
        write_quarantine(tmp_path, [BadImage("a", 0, "x" * (17 << 20))])
    with (tmp_path / "quarantine.tsv").open("wb") as stream:
        stream.truncate(8 << 30)
    with pytest.raises(DataError, match="cannot be read"):
        read_quarantine(tmp_path)


@given(st.text(max_size=60) | st.binary(max_size=60))
def test_read_quarantine_raises_only_data_error(text: str | bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        raw = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
        (Path(folder) / "quarantine.tsv").write_bytes(raw)
        with contextlib.suppress(DataError):
            read_quarantine(Path(folder))


@given(st.lists(st.tuples(st.text(min_size=1, max_size=20), st.integers(0, 2**40), st.text(max_size=30)), max_size=5))
def test_quarantine_round_trip(entries: list[tuple[str, int, str]]) -> None:
    bad = [BadImage(*entry) for entry in entries]
    with tempfile.TemporaryDirectory() as folder:
        write_quarantine(Path(folder), bad)
        found = read_quarantine(Path(folder))
    assert {(path, offset) for path, offsets in found.items() for offset in offsets} == {
        (b.path, b.offset) for b in bad
    }
