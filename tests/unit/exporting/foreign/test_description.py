from __future__ import annotations

import json
from pathlib import Path

import pytest

from shrinkserve.errors import ConfigError, DataError
from shrinkserve.exporting.foreign.description import read_labels, read_preprocess

CASES = Path(__file__).parents[3] / "cases" / "export"
COMPLETE = "size = 32\ncrop_fraction = 0.9\ninterpolation = 'bilinear'\nmean = [0.5, 0.5, 0.5]\nstd = [0.2, 0.2, 0.2]\n"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_read_preprocess_reads_all_keys(tmp_path: Path) -> None:
    found = read_preprocess(write(tmp_path / "p.toml", COMPLETE))
    assert (found.size, found.crop_fraction, found.interpolation) == (32, 0.9, "bilinear")
    assert (found.mean, found.std) == ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("mena = [1]", "mena"),
        ("size = 'a'", "size"),
        ("size =", "TOML"),
        ("std = [0.5, 0, 0.5]", "std"),
        ("crop_fraction = 1.5", "crop_fraction"),
        ("size = 0", "size"),
        ("mean = [inf, 0.5, 0.5]", "mean"),
        ("mean = [127.5, 127.5, 127.5]", "divide both by 255"),
        ("interpolation = 'best'", "interpolation"),
    ],
)
def test_read_preprocess_names_the_wrong_key(tmp_path: Path, change: str, part: str) -> None:
    key = change.split(" ", maxsplit=1)[0]
    kept = "".join(line for line in COMPLETE.splitlines(keepends=True) if not line.startswith(key))
    with pytest.raises(ConfigError, match=part):
        read_preprocess(write(tmp_path / "p.toml", f"{kept}{change}\n"))


@pytest.mark.parametrize("name", ["p_255.toml", "p_min.toml", "p_nan.toml"])
def test_read_preprocess_rejects_cases(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        read_preprocess(CASES / name)


@pytest.mark.parametrize("key", ["size", "crop_fraction", "interpolation", "mean", "std"])
def test_read_preprocess_requires_each_key(tmp_path: Path, key: str) -> None:
    kept = "".join(line for line in COMPLETE.splitlines(keepends=True) if not line.startswith(key))
    with pytest.raises(ConfigError, match="missing keys") as caught:
        read_preprocess(write(tmp_path / "p.toml", kept))
    assert caught.value.expected == key


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent"):
        read_preprocess(tmp_path / "absent")
    with pytest.raises(DataError, match="absent"):
        read_labels(tmp_path / "absent")


@pytest.mark.parametrize(
    "content", [b"cat\ndog\n", b"cat\ndog", b"cat\r\ndog\r\n", b"\xef\xbb\xbfcat\ndog\n", b"cat\ndog\n\n\n"]
)
def test_read_labels_ignores_mark_and_line_ends(tmp_path: Path, content: bytes) -> None:
    assert read_labels(write(tmp_path / "labels.txt", content)) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"", "no labels"), (b"cat\n\ndog\n", "line 2"), (b"cat\ndog\ncat\n", "lines 1 and 3"), (b"\xff\xfe", "UTF-8")],
)
def test_read_labels_names_the_problem(tmp_path: Path, content: bytes, part: str) -> None:
    with pytest.raises(DataError, match=part):
        read_labels(write(tmp_path / "labels.txt", content))


def test_mean_on_the_scale_of_bytes_is_rejected_in_json(tmp_path: Path) -> None:
    raw = {"size": 224, "image_mean": [123.7, 116.3, 103.5], "image_std": [58.4, 57.1, 57.4]}
    (tmp_path / "p.json").write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match="divide both by 255"):
        read_preprocess(tmp_path / "p.json")
    (tmp_path / "p.json").write_text(json.dumps({**raw, "do_rescale": False}))
    assert read_preprocess(tmp_path / "p.json").scale == 1
