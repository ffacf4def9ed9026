from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from shrinkserve.errors import ArtifactError
from shrinkserve.training.run_folder import checkpoints
from shrinkserve.training.run_folder.checkpoints import TrainingSnapshot


def snapshot(step: int) -> TrainingSnapshot:
    tensors = {"model.a": torch.full((3, 2), float(step)), "random.0": torch.arange(5, dtype=torch.uint8)}
    return TrainingSnapshot(tensors, {"position": {"step": step}, "name": "a"})


def test_write_and_read_round_trip(tmp_path: Path) -> None:
    path = checkpoints.write(tmp_path, 12, snapshot(12))
    found = checkpoints.read(path)
    assert path.name == "step-00000012.safetensors"
    assert found.state == {"position": {"step": 12}, "name": "a"}
    assert found.tensors["model.a"].tolist() == [[12.0, 12.0]] * 3
    assert found.tensors["random.0"].dtype == torch.uint8


def damaged(content: bytes) -> list[bytes]:
    """Return copies with one bit flipped, in the header and in the tensors, and truncated copies."""
    turned = [bytearray(content) for _ in range(40)]
    for number, copy in enumerate(turned):
        copy[number * (len(content) - 1) // 39] ^= 1 << (number % 8)
    return [*map(bytes, turned), content[: len(content) // 2], content[:-1], b""]


def test_newest_skips_damaged_checkpoints_and_reports_them(tmp_path: Path) -> None:
    for step in (10, 20):
        newest = checkpoints.write(tmp_path, step, snapshot(step))
    content = newest.read_bytes()
    for changed in damaged(content):
        newest.write_bytes(changed)
        heard: list[str] = []
        found = checkpoints.newest(tmp_path, heard.append)
        assert found is not None
        assert found[1].state["position"]["step"] == 10
        assert len(heard) == 1
        assert newest.name in heard[0]
        assert "falling back" in heard[0]


def test_write_that_is_interrupted_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of the step is the one before, or none."""
    checkpoints.write(tmp_path, 10, snapshot(10))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    for step in (10, 20):
        with pytest.raises(KeyboardInterrupt):
            checkpoints.write(tmp_path, step, snapshot(99))
    found = checkpoints.newest(tmp_path, pytest.fail)
    assert found is not None
    assert found[1].tensors["model.a"][0, 0] == 10


def test_newest_without_checkpoints(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path / "absent", lambda _: None) is None


def test_prune_keeps_last_and_best(tmp_path: Path) -> None:
    for step in range(1, 7):
        checkpoints.write(tmp_path, step, snapshot(step))
    checkpoints.prune(tmp_path, keep=2, best=3)
    assert [path.stem[-1] for path in checkpoints.listed(tmp_path)] == ["3", "5", "6"]
    assert len(list(tmp_path.iterdir())) == 3


def test_read_rejects_other_files(tmp_path: Path) -> None:
    other = tmp_path / "x.safetensors"
    other.write_bytes(b"not tensors")
    with pytest.raises(ArtifactError, match=r"x\.safetensors: not a readable checkpoint"):
        checkpoints.read(other)
    other.write_bytes(save({"a": torch.zeros(1)}))
    with pytest.raises(ArtifactError, match=r"x\.safetensors: not a readable checkpoint"):
        checkpoints.read(other)
    with pytest.raises(ArtifactError, match=r"no such checkpoint; name a step-"):
        checkpoints.read(tmp_path / "absent.safetensors")
