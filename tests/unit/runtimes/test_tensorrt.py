from __future__ import annotations

import types
from pathlib import Path

import pytest

from shrinkserve.artifact import Card, sha256_file
from shrinkserve.errors import ArtifactError
from shrinkserve.runtimes import tensorrt
from shrinkserve.runtimes.tensorrt import TensorRtModel, check_fit, gpu

BUILT = {
    "library": "tensorrt",
    "version": "10.13.0",
    "gpu": "NVIDIA L4",
    "compute_capability": "8.9",
    "hardware_compatibility": "none",
    "batches": [1, 8, 32],
}
HERE = {"gpu": "NVIDIA L4", "compute_capability": "8.9"}


def test_check_fit_accepts_matching_plan():
    check_fit(Path("model.plan"), BUILT, "10.13.0", HERE, "rebuild")


@pytest.mark.parametrize(
    "change",
    [
        {"version": "11.0.0"},
        {"version": None},
        {"gpu": "NVIDIA H100", "compute_capability": "9.0"},
        {"gpu": None, "compute_capability": None},
    ],
)
def test_check_fit_names_both_sides_and_command(change: dict[str, str | None]):
    here, version = {**HERE, **change}, change.get("version", "10.13.0")
    with pytest.raises(ArtifactError) as caught:
        check_fit(Path("model.plan"), BUILT, version, here, "shrinkserve export RUN --to tensorrt")
    message = str(caught.value)
    assert "tensorrt 10.13.0, NVIDIA L4 (compute capability 8.9)" in message
    assert str(change.get("version", change.get("gpu")) or "no") in message
    assert "build it here: shrinkserve export RUN --to tensorrt" in message


@pytest.mark.parametrize(("capability", "fits"), [("9.0", True), ("8.0", True), ("7.5", False)])
def test_ampere_plus_plans_run_on_later_gpus(capability: str, fits: bool):
    built = {**BUILT, "hardware_compatibility": "ampere+", "compute_capability": "8.0"}
    here = {**HERE, "gpu": "another", "compute_capability": capability}
    if fits:
        check_fit(Path("model.plan"), built, "10.13.0", here, "rebuild")
    else:
        with pytest.raises(ArtifactError, match="does not fit"):
            check_fit(Path("model.plan"), built, "10.13.0", here, "rebuild")


def test_tensorrt_model_rejects_missing_plan(tmp_path: Path):
    with pytest.raises(ArtifactError, match="no such file"):
        TensorRtModel(tmp_path / "model.plan", BUILT)


@pytest.mark.skipif(gpu()["gpu"] is not None, reason="a GPU is here")
def test_tensorrt_model_names_missing_gpu(tmp_path: Path):
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"plan")
    with pytest.raises(ArtifactError, match="no GPU"):
        TensorRtModel(plan, BUILT)


def test_tensorrt_model_rejects_changed_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"as exported")
    Card(kind="onnx", name="m", files={plan.name: sha256_file(plan)}).write(tmp_path)
    plan.write_bytes(b"changed")
    monkeypatch.setattr(tensorrt, "_library", lambda _: types.SimpleNamespace())
    monkeypatch.setattr(tensorrt, "check_fit", lambda *_: None)
    with pytest.raises(ArtifactError, match="sha256 does not match"):
        TensorRtModel(plan, BUILT)
