from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from shrinkserve.errors import ArtifactError
from shrinkserve.training import checkpoints
from shrinkserve.training.checkpoints import Snapshot


def snapshot(step: int) -> Snapshot:
    tensors = {"model.a": torch.full((3, 2), float(step)), "random.0": torch.arange(5, dtype=torch.uint8)}
    return Snapshot(tensors, {"position": {"step": step}, "name": "a"})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = checkpoints.write(tmp_path, 12, snapshot(12))
    found = checkpoints.read(path)
    assert path.name == "step-00000012.safetensors"
    assert found.state == {"position": {"step": 12}, "name": "a"}
    assert found.tensors["model.a"].tolist() == [[12.0, 12.0]] * 3
    assert found.tensors["random.0"].dtype == torch.uint8


def test_sha256sum_checks_it(tmp_path: Path) -> None:
    path = checkpoints.write(tmp_path, 3, snapshot(3))
    command = ["sha256sum", "--check", path.with_suffix(".sha256").name]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("damage", ["byte", "truncated", "empty", "unfinished", "hash"])
def test_a_damaged_newest_one_falls_back_and_says_so(tmp_path: Path, damage: str) -> None:
    for step in (10, 20):
        newest = checkpoints.write(tmp_path, step, snapshot(step))
    content = bytearray(newest.read_bytes())
    content[-3] ^= 1
    if damage == "byte":
        newest.write_bytes(content)
    elif damage == "truncated":
        newest.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        newest.write_bytes(b"")
    elif damage == "hash":
        newest.with_suffix(".sha256").write_bytes(b"")
    else:
        newest.with_suffix(".sha256").unlink()
    heard: list[str] = []
    found = checkpoints.newest(tmp_path, heard.append)
    assert found is not None
    assert found[1].state["position"]["step"] == 10
    if damage == "unfinished":
        assert heard == []
    else:
        assert len(heard) == 1
        assert newest.name in heard[0]
        assert "falling back" in heard[0]


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path / "absent", lambda _: None) is None


def test_prune_keeps_the_last_and_the_best(tmp_path: Path) -> None:
    for step in range(1, 7):
        checkpoints.write(tmp_path, step, snapshot(step))
    checkpoints.prune(tmp_path, keep=2, best=3)
    assert [path.stem[-1] for path in checkpoints.listed(tmp_path)] == ["3", "5", "6"]
    assert len(list(tmp_path.iterdir())) == 6


def test_other_files_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "x.safetensors"
    other.write_bytes(b"not tensors")
    with pytest.raises(ArtifactError, match=r"x\.safetensors: no such checkpoint; name a step-"):
        checkpoints.read(other)
    other.with_suffix(".sha256").write_text("0" * 64)
    with pytest.raises(ArtifactError, match="damaged"):
        checkpoints.read(other)
    with pytest.raises(ArtifactError, match="no such checkpoint"):
        checkpoints.read(tmp_path / "absent.safetensors")
