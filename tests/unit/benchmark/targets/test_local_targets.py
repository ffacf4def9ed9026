"""Targets of an exported version, and engines that this machine cannot run."""

from __future__ import annotations

from pathlib import Path

import pytest

from shrinkserve.artifact import Card, sha256_file
from shrinkserve.benchmark.targets.local_targets import engine_targets, find_version
from shrinkserve.engines import Engine
from shrinkserve.errors import ArtifactError

BUILT = {
    "library": "tensorrt_rtx", "version": "0.1", "compute_capability": "8.9", "gpu": None,
    "hardware_compatibility": "none", "batches": [1, 8, 32],
}  # fmt: skip


def write_version(folder: Path, weights: str = "w" * 64, *engines: Engine, kind: str = "onnx") -> Path:
    folder.mkdir(parents=True)
    names = ["model.onnx", *(engine.file for engine in engines)]
    for name in names:
        (folder / name).write_text(name)
    details = {"precision": "float32", "engines": {engine.name: engine.to_dict() for engine in engines}}
    files = {name: sha256_file(folder / name) for name in names}
    Card(kind, "digits", weights_sha256=weights, files=files, details=details).write(folder)
    return folder


def test_find_version_returns_the_served_or_the_newest_version(tmp_path: Path) -> None:
    for number, weights in ((1, "a"), (2, "a"), (10, "b")):
        write_version(tmp_path / "digits_classifier" / str(number), weights * 64)
    for name in ("digits", "digits_classifier"):  # what people call it, and what the server does
        assert find_version(tmp_path, name, "a" * 64, None) == tmp_path / "digits_classifier" / "2"
        assert find_version(tmp_path, name, "a" * 64, 1) == tmp_path / "digits_classifier" / "1"
    assert find_version(tmp_path, "digits", "a" * 64, 10) is None  # served, and made of other weights
    assert find_version(tmp_path, "digits", "c" * 64, None) is None
    assert find_version(tmp_path, "absent", "a" * 64, None) is None
    assert find_version(tmp_path / "absent", "digits", "a" * 64, None) is None


def test_engine_for_another_gpu_is_left_out_with_the_reason(tmp_path: Path) -> None:
    plan = Engine("tensorrt-float16", "tensorrt", "a.plan", "float16", record={"built": {"a.plan": BUILT}})
    foreign = Engine("other", "pytorch", "a.pt")
    with pytest.raises(ArtifactError, match="engine 'other': backend: expected one of"):
        engine_targets(write_version(tmp_path / "2", "w" * 64, plan, foreign))
    stages, (tensorrt,) = engine_targets(write_version(tmp_path / "1", "w" * 64, plan))
    assert stages == []
    assert tensorrt.startswith("tensorrt-float16: ")
    assert "the plan does not fit this machine: expected tensorrt_rtx 0.1, compute capability 8.9" in tensorrt


def test_changed_file_is_refused(tmp_path: Path) -> None:
    folder = write_version(tmp_path / "1")
    (folder / "model.onnx").write_text("changed")
    with pytest.raises(ArtifactError, match="sha256 does not match"):
        engine_targets(folder)
