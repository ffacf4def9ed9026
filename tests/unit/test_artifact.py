from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from shrinkserve import artifact, atomic
from shrinkserve.errors import ArtifactError


def make(folder: Path) -> artifact.Card:
    folder.mkdir()
    (folder / "model.bin").write_bytes(b"weights")
    card = artifact.Card(kind="onnx", name="m", files={"model.bin": artifact.sha256_file(folder / "model.bin")})
    card.write(folder)
    return card


def test_card_round_trip(tmp_path: Path) -> None:
    card = make(tmp_path / "a")
    assert artifact.read_card(tmp_path / "a", "onnx") == card


def test_sha256_is_that_of_coreutils(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(os.urandom(3 << 20))
    expected = subprocess.run(["sha256sum", tmp_path / "f"], capture_output=True, text=True, check=True).stdout.split()
    assert artifact.sha256_file(tmp_path / "f") == expected[0]


def test_changed_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
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
def test_what_is_not_a_card_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "card.json").write_text(content)
    with pytest.raises(ArtifactError, match="not a readable card"):
        artifact.read_card(tmp_path)


def test_a_huge_card_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "card.json").open("wb") as stream:
        stream.truncate(1 << 40)  # a file of holes
    with pytest.raises(ArtifactError, match="more than 67108864 bytes"):
        artifact.read_card(tmp_path)


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "secret").write_bytes((tmp_path / "a/model.bin").read_bytes())
    (tmp_path / "a/model.bin").unlink()
    (tmp_path / "a/model.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(ArtifactError, match="names a file outside itself"):
        artifact.read_card(tmp_path / "a")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret"])
def test_a_card_cannot_name_files_outside_its_folder(tmp_path: Path, name: str) -> None:
    make(tmp_path / "a")
    raw = json.loads((tmp_path / "a/card.json").read_text())
    (tmp_path / "a/card.json").write_text(json.dumps({**raw, "files": {name: "0"}}))
    with pytest.raises(ArtifactError, match="outside itself"):
        artifact.read_card(tmp_path / "a")


def test_a_link_out_of_the_folder_is_outside(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "a/link").symlink_to("/etc")
    with pytest.raises(ArtifactError, match="outside itself"):
        artifact.safe_join(tmp_path / "a", "link/passwd")


def test_staged_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "run"

    def fail_half_way() -> None:
        with atomic.staged_folder(target) as folder:
            (folder / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert list(target.parent.iterdir()) == []
    for content in ("one", "two"):
        with atomic.staged_folder(target) as folder:
            (folder / content).write_text(content)
        assert [p.name for p in target.iterdir()] == [content]
    assert [p.name for p in target.parent.iterdir()] == ["run"]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    atomic.write_atomic(path, b"old")
    script = (
        "import os, signal, pathlib; from shrinkserve import atomic\n"
        "os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"atomic.write_atomic(pathlib.Path({str(path)!r}), b'new')"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert path.read_bytes() == b"old"


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refusal = r"file/below: cannot be written \(\S+/file is a file\); choose another place"
    with pytest.raises(ArtifactError, match=refusal):
        atomic.write_atomic(tmp_path / "file" / "below", b"")
    with pytest.raises(ArtifactError, match=refusal), atomic.staged_folder(tmp_path / "file" / "below"):
        pass


def test_a_place_is_looked_at_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    atomic.check_writable(tmp_path / "new" / "below")
    assert not (tmp_path / "new").exists()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ArtifactError, match=r"/file is a file\)"):
            atomic.check_writable(place)
    with pytest.raises(ArtifactError, match="/proc/x: cannot be written"):  # where permissions do not hold root back
        atomic.check_writable(Path("/proc/x"))


def test_tensor_hash_sees_names_values_types_and_shapes() -> None:
    base = {"a": np.arange(6, dtype=np.float32), "b": np.ones(2)}
    same = {"b": np.ones(2), "a": np.arange(6, dtype=np.float32)}
    assert artifact.tensors_sha256(base) == artifact.tensors_sha256(same)
    others = [
        {"a": base["a"].reshape(2, 3), "b": base["b"]},
        {"a": base["a"].astype(np.float64), "b": base["b"]},
        {"a": base["a"] + 1, "b": base["b"]},
        {"c": base["a"], "b": base["b"]},
    ]
    assert len({artifact.tensors_sha256(x) for x in [base, *others]}) == 5


def test_the_build_of_a_loaded_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch from PyPI is 2.13.0 to pip and 2.13.0+cu130 to itself."""
    plain = metadata.version("networkx")
    loaded = types.ModuleType("networkx")
    monkeypatch.setitem(sys.modules, "networkx", loaded)
    for own, told in {f"{plain}+cu130": f"{plain}+cu130", "0.0": plain, plain: plain}.items():
        loaded.__version__ = own  # type: ignore[attr-defined]
        assert artifact.versions(["networkx", "no-such-package"]).get("networkx") == told
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


def test_shutil_error_is_explained(tmp_path: Path) -> None:
    with (
        pytest.raises(ArtifactError, match=r"cannot be written \(No space left\)"),
        atomic.unwritable(tmp_path / "x"),
    ):
        raise shutil.Error([("a", "b", "No space left")])


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\ud800"])
def test_card_with_impossible_file_names_is_refused(tmp_path: Path, name: str) -> None:
    card = make(tmp_path / "a")
    replace(card, files={name: "0" * 64}).write(tmp_path / "a")
    with pytest.raises(ArtifactError) as caught:
        artifact.read_card(tmp_path / "a")
    assert str(caught.value).isprintable()


def test_card_with_a_surrogate_is_refused(tmp_path: Path) -> None:
    card = make(tmp_path / "a")
    replace(card, classes=["\ud800"]).write(tmp_path / "a")
    with pytest.raises(ArtifactError, match="not a readable card"):
        artifact.read_card(tmp_path / "a")
