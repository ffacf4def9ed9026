from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from shrinkserve import artifact
from shrinkserve.errors import ArtifactError


def make(folder: Path) -> artifact.Card:
    folder.mkdir(exist_ok=True)
    (folder / "model.bin").write_bytes(b"weights")
    card = artifact.Card(kind="onnx", name="m", files={"model.bin": artifact.sha256_file(folder / "model.bin")})
    card.write(folder)
    return card


def test_card_round_trip(tmp_path: Path) -> None:
    card = make(tmp_path / "a")
    assert artifact.read_card(tmp_path / "a", "onnx") == card


def test_sha256_file_equals_coreutils(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(os.urandom(3 << 20))
    expected = subprocess.run(["sha256sum", tmp_path / "f"], capture_output=True, text=True, check=True).stdout.split()
    assert artifact.sha256_file(tmp_path / "f") == expected[0]


def test_read_card_rejects_changed_missing_and_foreign_files(tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(ArtifactError, match="expected checkpoint, found onnx"):
        artifact.read_card(tmp_path / "a", "checkpoint")
    (tmp_path / "a/model.bin").write_bytes(b"Weights")
    with pytest.raises(ArtifactError, match="sha256 does not match"):
        artifact.read_card(tmp_path / "a")
    (tmp_path / "a/model.bin").unlink()
    with pytest.raises(ArtifactError, match="no such file"):
        artifact.read_card(tmp_path / "a")
    for place in (tmp_path, tmp_path / "a/card.json"):
        with pytest.raises(ArtifactError, match="no such card; name the folder"):
            artifact.read_card(place)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"kind": "onnx"}',
        '{"kind": "onnx", "name": "m", "what": 1}',
        '{"kind": "onnx", "name": 7}',
        '{"kind": "onnx", "name": "m", "files": ["model.onnx"]}',
        '{"kind": "onnx", "name": "m", "files": {"model.onnx": 1}}',
        '{"kind": "onnx", "name": "m", "classes": {"a": "b"}}',
        '{"kind": "onnx", "name": "m", "classes": [1]}',
        "[" * 100_000,
    ],
)
def test_read_card_rejects_invalid_content(tmp_path: Path, content: str) -> None:
    (tmp_path / "card.json").write_text(content)
    with pytest.raises(ArtifactError, match="not a readable card"):
        artifact.read_card(tmp_path)


def test_read_card_rejects_huge_file(tmp_path: Path) -> None:
    with (tmp_path / "card.json").open("wb") as stream:
        stream.truncate(1 << 40)  # a file of holes
    with pytest.raises(ArtifactError, match="more than 67108864 bytes"):
        artifact.read_card(tmp_path)


def test_read_card_rejects_link_out_of_folder(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "secret").write_bytes((tmp_path / "a/model.bin").read_bytes())
    (tmp_path / "a/model.bin").unlink()
    (tmp_path / "a/model.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(ArtifactError, match="names a file outside itself"):
        artifact.read_card(tmp_path / "a")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret"])
def test_read_card_rejects_file_outside_folder(tmp_path: Path, name: str) -> None:
    make(tmp_path / "a")
    raw = json.loads((tmp_path / "a/card.json").read_text())
    (tmp_path / "a/card.json").write_text(json.dumps({**raw, "files": {name: "0"}}))
    with pytest.raises(ArtifactError, match="outside itself"):
        artifact.read_card(tmp_path / "a")


def test_safe_join_rejects_link_out_of_folder(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "a/link").symlink_to("/etc")
    with pytest.raises(ArtifactError, match="outside itself"):
        artifact.safe_join(tmp_path / "a", "link/passwd")


def test_tensors_sha256_depends_on_names_values_types_and_shapes() -> None:
    base: dict[str, np.ndarray] = {"a": np.arange(6, dtype=np.float32), "b": np.ones(2)}
    same = {"b": np.ones(2), "a": np.arange(6, dtype=np.float32)}
    assert artifact.tensors_sha256(base) == artifact.tensors_sha256(same)
    others = [
        {"a": base["a"].reshape(2, 3), "b": base["b"]},
        {"a": base["a"].astype(np.float64), "b": base["b"]},
        {"a": base["a"] + 1, "b": base["b"]},
        {"c": base["a"], "b": base["b"]},
    ]
    assert len({artifact.tensors_sha256(x) for x in [base, *others]}) == 5


def test_versions_include_build_of_loaded_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch from PyPI is 2.13.0 to pip and 2.13.0+cu130 to itself."""
    plain = metadata.version("networkx")
    loaded = types.ModuleType("networkx")
    monkeypatch.setitem(sys.modules, "networkx", loaded)
    for own, expected in {f"{plain}+cu130": f"{plain}+cu130", "0.0": plain, plain: plain}.items():
        loaded.__version__ = own  # type: ignore[attr-defined]
        assert artifact.versions(["networkx", "no-such-package"]).get("networkx") == expected
    assert "no-such-package" not in artifact.versions(["no-such-package"])


def test_recorded_paths_hide_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    path = Path("/home/alice/data/x")
    assert artifact.recorded_path(path) == "~/data/x"
    assert artifact.open_recorded("~/data/x") == path
    assert artifact.recorded_path(Path("/home/alicette/x")) == "/home/alicette/x"
    assert artifact.recorded_path(Path("/mnt/home/alice/x")) == "/mnt/home/alice/x"
    command = artifact.recorded_command(["/home/alice/bin/shrinkserve", "--out=/home/alice/run", "--token", "T"])
    assert command == ["~/bin/shrinkserve", "--out=~/run", "--token", "***"]


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\ud800"])
def test_read_card_rejects_impossible_file_names(tmp_path: Path, name: str) -> None:
    card = make(tmp_path / "a")
    replace(card, files={name: "0" * 64}).write(tmp_path / "a")
    with pytest.raises(ArtifactError) as caught:
        artifact.read_card(tmp_path / "a")
    assert str(caught.value).isprintable()


def test_read_card_rejects_surrogate(tmp_path: Path) -> None:
    card = make(tmp_path / "a")
    replace(card, classes=["\ud800"]).write(tmp_path / "a")
    with pytest.raises(ArtifactError, match="not a readable card"):
        artifact.read_card(tmp_path / "a")


def test_read_card_names_both_versions_for_unknown_field(tmp_path: Path) -> None:
    make(tmp_path)
    raw = json.loads((tmp_path / "card.json").read_text())
    raw |= {"versions": {"shrinkserve": "9.9.9"}, "from_the_future": 1}
    (tmp_path / "card.json").write_text(json.dumps(raw))
    with pytest.raises(ArtifactError, match=r"from_the_future.*written by shrinkserve '9\.9\.9', this is"):
        artifact.read_card(tmp_path)


def test_card_rejects_values_that_are_not_finite(tmp_path: Path) -> None:
    card = make(tmp_path)
    with pytest.raises(ArtifactError, match="not finite"):
        replace(card, metrics={"top1": float("nan")}).write(tmp_path)
    (tmp_path / "card.json").write_text('{"kind": "onnx", "name": "m", "metrics": {"top1": NaN}}')
    with pytest.raises(ArtifactError, match="NaN is not a finite number"):
        artifact.read_card(tmp_path)


def test_copy_file_hashes_and_rejects_changed_source(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(3 << 20))
    target.write_bytes(b"old")
    os.link(target, tmp_path / "link")
    sha256 = artifact.sha256_file(source)
    assert artifact.copy_file(source, target, sha256) == sha256 == artifact.sha256_file(target)
    assert (tmp_path / "link").read_bytes() == b"old", "a hard link keeps its content"
    source.write_bytes(b"changed")
    with pytest.raises(ArtifactError, match="sha256 does not match"):
        artifact.copy_file(source, target, sha256)
