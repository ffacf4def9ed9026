"""`shrinkserve data` from the command line."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shrinkserve.cli import main
from shrinkserve.data import evaluation_batches, open_dataset
from shrinkserve.data.storage.example import Features, encode_example
from shrinkserve.data.storage.tfrecord import Shard, append_record
from shrinkserve.preprocess import Preprocess

Command = Callable[..., None]


def hashes(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.suffix != ".idx")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def jpeg(seed: int, size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "folder"
    for split, count in (("train", 30), ("val", 6)):
        for number in range(count):
            path = root / split / ("b", "a")[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(number))
    return root


def refused(capsys: pytest.CaptureFixture[str], *argv: object, code: int = 2) -> str:
    capsys.readouterr()
    assert main([str(word) for word in argv]) == code
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_digits_equal_scikit_learns_with_the_same_bytes_every_time(
    digits: Path, tmp_path: Path, shrinkserve: Command
) -> None:
    from sklearn.datasets import load_digits

    shrinkserve("data", "digits", tmp_path / "again")
    assert hashes(tmp_path / "again") == hashes(digits)
    shrinkserve("data", "digits", tmp_path / "again")
    assert hashes(tmp_path / "again") == hashes(digits)

    names = {str(p.relative_to(digits)) for p in digits.rglob("*-of-*") if p.suffix != ".idx"}
    assert names == {f"train_tfrecord/train-0000{i}-of-00004" for i in range(4)} | {
        f"val_tfrecord/validation-0000{i}-of-00002" for i in range(2)
    }
    train, validation = (open_dataset(digits, split) for split in ("train", "validation"))
    labels = [np.bincount([d.record(i).label for i in range(len(d))], minlength=11) for d in (train, validation)]
    assert (labels[0] + labels[1]).tolist() == [0, *np.bincount(load_digits().target).tolist()]
    assert np.abs(labels[1][1:] / (labels[0] + labels[1])[1:] - 0.2).max() < 0.006
    assert train.classes == ["background", *"0123456789"]


def test_evaluation_crop_of_a_digit_is_the_8x8_image(digits: Path) -> None:
    from sklearn.datasets import load_digits

    shard = Shard.scan(digits / "val_tfrecord" / "validation-00000-of-00002")
    features = Features(shard.read(0))
    index = int(features.text("image/filename")[6:10])
    assert features.int("image/class/label") == load_digits().target[index] + 1
    assert (features.int("image/height"), features.int("image/width"), features.int("image/channels")) == (64, 64, 3)
    seen = Preprocess(8, interpolation="bilinear").evaluate_bytes(features.bytes("image/encoded"))
    errors = [np.abs(seen[..., 0] / 255 * 16 - image).mean() for image in load_digits().images]
    assert np.argmin(errors) == index  # the nearest of all digits


def test_data_commands_refuse_to_replace_other_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, folder: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("...")
    assert "thesis.tex" in refused(capsys, "data", "digits", tmp_path / "mine")
    assert "contains other files" in refused(capsys, "data", "pack", folder, tmp_path / "mine")
    assert "no such folder" in refused(capsys, "data", "pack", tmp_path / "none", tmp_path / "out")
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_pack_keeps_images_and_labels(folder: Path, tmp_path: Path, shrinkserve: Command) -> None:
    shrinkserve("data", "pack", folder, tmp_path / "a", "--train-shards", 4, "--workers", 2)
    shrinkserve("data", "pack", folder, tmp_path / "b", "--train-shards", 4, "--workers", 1)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    assert (tmp_path / "a" / "labels.txt").read_text().split() == ["background", "a", "b"]
    for split, count in (("train", 30), ("validation", 6)):
        before, after = open_dataset(folder, split), open_dataset(tmp_path / "a", split)
        assert len(before) == len(after) == count
        as_set = [{(d.record(i).encoded, d.classes[d.record(i).label]) for i in range(count)} for d in (before, after)]
        assert as_set[0] == as_set[1]
    labels = [r.label for r in map(open_dataset(tmp_path / "a", "train").record, range(30))]
    assert labels != sorted(labels)


def test_pack_continues_after_an_interruption(
    folder: Path, tmp_path: Path, shrinkserve: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    shrinkserve("data", "pack", folder, tmp_path / "whole", "--train-shards", 3)
    bad = folder / "train" / "a" / "17.jpg"
    good = bad.read_bytes()
    bad.write_bytes(bytes(len(good)))
    error = refused(capsys, "data", "pack", folder, tmp_path / "out", "--train-shards", 3, "--workers", 1)
    assert "17.jpg: cannot decode image" in error
    assert "shards are missing" in refused(capsys, "data", "info", tmp_path / "out")
    finished = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*-of-*")}
    assert not [p for p in finished if p.name.startswith(".")]

    bad.write_bytes(good)
    shrinkserve("data", "pack", folder, tmp_path / "out", "--train-shards", 3)
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")
    assert all(p.stat().st_mtime_ns == time for p, time in finished.items())


def test_pack_skip_bad_leaves_out_a_bad_image(
    folder: Path, tmp_path: Path, shrinkserve: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "train" / "a" / "17.jpg").write_text("no image")
    shrinkserve("data", "pack", folder, tmp_path / "out", "--skip-bad")
    shown = capsys.readouterr()
    assert "17.jpg" in shown.err
    assert "1 left out" in shown.out
    assert len(open_dataset(tmp_path / "out", "train")) == 29
    assert not list((tmp_path / "out").rglob(".*"))


def test_pack_reads_the_tars_of_ilsvrc(
    tmp_path: Path, shrinkserve: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))

    source = tmp_path / "tars"
    source.mkdir()
    images: dict[str, bytes] = {}
    with tarfile.open(source / "ILSVRC2012_img_train.tar", "w") as outer:
        for label, synset in enumerate(("n01440764", "n01443537")):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for number in range(5):
                    images[f"{synset}_{number}.JPEG"] = jpeg(10 * label + number)
                    add(tar, f"{synset}_{number}.JPEG", images[f"{synset}_{number}.JPEG"])
            add(outer, f"{synset}.tar", inner.getvalue())
    with tarfile.open(source / "ILSVRC2012_img_val.tar", "w") as tar:
        for number in (2, 1):
            add(tar, f"ILSVRC2012_val_0000000{number}.JPEG", jpeg(100 + number))
    (source / "imagenet_lsvrc_2015_synsets.txt").write_text("n01440764\nn01443537\n")
    (source / "imagenet_metadata.txt").write_text("n01440764\ttench, Tinca tinca\nn01443537\tgoldfish\n")
    lists = source / "imagenet_2012_validation_synset_labels.txt"
    lists.write_text("n01443537\n")
    assert "expected 2, found 1" in refused(capsys, "data", "pack", source, tmp_path / "out")
    lists.write_text("n01443537\nn01440764\n")
    shrinkserve("data", "pack", source, tmp_path / "out", "--train-shards", 2)

    validation = open_dataset(tmp_path / "out", "validation")
    assert validation.classes == ["background", "tench, Tinca tinca", "goldfish"]
    assert {(r.encoded, r.label) for r in map(validation.record, range(2))} == {(jpeg(101), 2), (jpeg(102), 1)}
    for path in (tmp_path / "out" / "train_tfrecord").glob("train-*"):
        shard = Shard.scan(path)
        for number in range(len(shard)):
            features = Features(shard.read(number))
            assert features.bytes("image/encoded") == images[features.text("image/filename")]
            assert features.text("image/filename").startswith(features.text("image/class/synset"))


def damage(root: Path) -> dict[str, int]:
    """Damage a copy of the digits in every way; return the offset of each bad record by kind."""
    path = root / "train_tfrecord" / "train-00001-of-00004"
    shard, raw = Shard.scan(path), bytearray(path.read_bytes())
    offsets = [int(shard.offsets[number]) for number in (3, 350)]
    raw[offsets[0] + 200] ^= 1  # data
    raw[offsets[1]] ^= 1  # a length: what follows is lost
    path.write_bytes(raw)

    path = root / "val_tfrecord" / "validation-00001-of-00002"
    with path.open("ab") as stream:
        for features in (
            {"image/encoded": jpeg(0), "image/class/label": 11},
            {"image/encoded": jpeg(0)[:200], "image/class/label": 1},
            {"image/encoded": jpeg(0)},
        ):
            offsets.append(stream.tell())
            append_record(stream, encode_example(features))
    return dict(zip(("checksum", "frame", "label", "truncated", "keys"), offsets, strict=True))


def test_verify_finds_all_damage_and_quarantines_it(
    digits: Path, tmp_path: Path, shrinkserve: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "digits"
    shutil.copytree(digits, root)
    assert main(["data", "verify", str(root)]) == 0
    offsets = damage(root)
    error = refused(capsys, "data", "verify", root, code=1)
    assert "5 bad images" in error
    assert f"train-00001-of-00004 at byte {offsets['frame']}" in refused(capsys, "data", "info", root)

    shrinkserve("data", "verify", root, "--quarantine", "--json")
    reports = json.loads(capsys.readouterr().out)
    bad = {(Path(b["path"]).name, b["offset"]): b["reason"] for r in reports for b in r["bad"]}
    assert sorted(offset for _, offset in bad) == sorted(offsets.values())
    reasons = {offset: reason for (_, offset), reason in bad.items()}
    assert "checksum" in reasons[offsets["checksum"]]
    assert "lost" in reasons[offsets["frame"]]
    assert "train-00001" not in reasons[offsets["frame"]]  # the entry already has its place
    assert "expected 1..10" in reasons[offsets["label"]]
    assert "cannot decode image" in reasons[offsets["truncated"]]
    assert "image/class/label" in reasons[offsets["keys"]]

    train, validation = (open_dataset(root, split) for split in ("train", "validation"))
    assert len(validation) == 364
    assert len(train) == 1433 - 1 - (len(open_dataset(digits, "train").shards[1]) - 350)  # type: ignore[attr-defined]
    for dataset in (train, validation):
        assert sum(len(b) for b in evaluation_batches(dataset, Preprocess(32), 64)) == len(dataset)
    shrinkserve("data", "info", root)
    assert "2 in quarantine" in capsys.readouterr().out
    shrinkserve("data", "verify", root)  # nothing new
    assert capsys.readouterr().out.count("in quarantine: ") == 5


def test_verify_quarantines_a_file_of_a_folder(
    folder: Path, shrinkserve: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "train" / "a" / "17.jpg").write_text("no image")
    shrinkserve("data", "verify", folder, "--quarantine")
    assert "bad: train/a/17.jpg" in capsys.readouterr().out
    assert len(open_dataset(folder, "train")) == 29
    (folder / "quarantine.tsv").write_text("nonsense\n")
    assert "line 1" in refused(capsys, "data", "info", folder)


def test_index_writes_dalis_format(
    digits: Path, tmp_path: Path, shrinkserve: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "digits"
    shutil.copytree(digits, root, ignore=shutil.ignore_patterns("index"))
    shrinkserve("data", "index", root)
    path = root / "train_tfrecord" / "index" / "train-00002-of-00004.idx"
    first, size = map(int, path.read_text().splitlines()[0].split())
    shard = Shard.scan(root / "train_tfrecord" / "train-00002-of-00004")
    assert (first, size) == (0, shard.offsets[1])
    assert "no shards to index" in refused(capsys, "data", "index", tmp_path)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (Path.stat, "an empty folder"),
        (lambda root: (root / "train").mkdir(), "no class folders"),
        (lambda root: (root / "train" / "a").mkdir(parents=True), "no image in its class folders"),
        (lambda root: (root / "train_tfrecord").mkdir(), "no shards"),
    ],
)
def test_info_refuses_a_folder_without_a_dataset(
    tmp_path: Path, prepare: Callable[[Path], None], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path)
    assert message in refused(capsys, "data", "info", tmp_path)
    assert "no such folder" in refused(capsys, "data", "info", tmp_path / "none")
    (tmp_path / "data.zip").write_bytes(b"PK")
    assert "unpack it" in refused(capsys, "data", "info", tmp_path / "data.zip")


def test_training_reports_bad_images_that_it_leaves_out(
    digits: Path, tmp_path: Path, shrinkserve: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "digits"
    shutil.copytree(digits, root)
    path = root / "train_tfrecord" / "train-00001-of-00004"
    raw = bytearray(path.read_bytes())
    raw[200] ^= 1
    path.write_bytes(raw)
    error = refused(capsys, "train", "smoke", "--data", root, "--out", tmp_path / "stopped")
    assert "train-00001-of-00004 at byte 0: checksum" in error
    assert error.count("--quarantine") == 1
    shrinkserve("train", "smoke", "--data", root, "--out", tmp_path / "run", "--set", "data.max_bad_fraction=0.01")
    assert "left out 1 bad images of epoch 1:\n  train_tfrecord/train-00001-of-00004" in capsys.readouterr().out
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {record["bad_images"] for record in records if record["kind"] == "data"} == {1}
