from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from shrinkserve.artifact import Card, read_card, sha256_file
from shrinkserve.errors import ArtifactError, ParityError
from shrinkserve.exporting import run_export
from shrinkserve.exporting.exporter import ExportOptions
from shrinkserve.exporting.run_export import export_run
from shrinkserve.exporting.to_onnx import OnnxFromCheckpoint
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.checkpoint import Checkpoint
from shrinkserve.runtimes.onnx import OnnxModel


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path) -> tuple[Path, Card]:
    folder = tmp_path_factory.mktemp("exported")
    return folder, export_run(Checkpoint(tiny_run), folder, ExportOptions(max_batch=7)).card


def test_export_predicts_like_checkpoint(exported: tuple[Path, Card], tiny_run: Path) -> None:
    images = np.random.default_rng(5).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    model, checkpoint = OnnxModel(exported[0] / "model.onnx"), Checkpoint(tiny_run)
    outputs = model.infer(images)
    np.testing.assert_allclose(outputs["logits"], checkpoint.predict(images), atol=1e-4)
    expected = torch.softmax(torch.from_numpy(checkpoint.predict(images)), 1).numpy()
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-5)
    assert model.classes == checkpoint.classes


def test_exported_graph_normalises_like_torchvision(exported: tuple[Path, Card], tiny_run: Path) -> None:
    """Against torchvision's description: (x / 255 - mean) / std a channel."""
    image = np.random.default_rng(6).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    pixels = torch.from_numpy((image / np.float32(255) - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = Checkpoint(tiny_run).module(pixels).numpy()
    np.testing.assert_allclose(OnnxModel(exported[0] / "model.onnx").predict(image), expected, atol=1e-4)


def test_exported_graph_is_one_file_with_names_of_spec(exported: tuple[Path, Card]) -> None:
    model = onnx.load(exported[0] / "model.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert [entry.version for entry in model.opset_import] == [20]
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert {"stem.conv", "stage1.cell1.wiring_left.depthwise", "head.logits"} <= set(names)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_card_names_weights_and_parents(exported: tuple[Path, Card], tiny_run: Path) -> None:
    folder, card = exported
    assert read_card(folder, "onnx") == card
    assert card.weights == "ema"
    assert card.weights_sha256 == read_card(tiny_run).weights_sha256
    assert card.parents == {str(tiny_run / "ema.safetensors"): sha256_file(tiny_run / "ema.safetensors")}
    properties = {p.key: p.value for p in onnx.load(folder / "model.onnx").metadata_props}
    assert properties["shrinkserve.weights_sha256"] == card.weights_sha256
    assert properties["shrinkserve.contract"] == Preprocess.from_dict(card.preprocess).fingerprint


def test_card_records_every_check(exported: tuple[Path, Card]) -> None:
    checks = {check["check"]: check for check in exported[1].checks}
    assert list(checks["parity"]["batches"]) == ["1", "2", "5", "7"]
    assert 0 < checks["parity"]["worst"] < 1e-4
    assert checks["parity"]["source"] == "64 synthetic images, seed 0"
    assert all(check["passed"] for check in checks.values())
    assert {"parity", "onnx", "probabilities", "unoptimised"} == set(checks)
    record = exported[1].details["steps"][-1]
    assert record["input_sha256"] != record["output_sha256"] == exported[1].files["model.onnx"]


def test_export_of_raw_weights_names_them(tmp_path: Path, tiny_run: Path) -> None:
    card = export_run(Checkpoint(tiny_run, "raw"), tmp_path, ExportOptions(max_batch=2)).card
    assert card.weights == "raw"
    assert card.weights_sha256 != read_card(tiny_run).weights_sha256


def test_export_writes_nothing_when_outputs_differ(
    tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(OnnxFromCheckpoint):
        def run(self, source, target, samples, /):  # type: ignore[no-untyped-def]
            details = super().run(source, target, samples)
            model = onnx.load(target)
            bias = next(t for t in model.graph.initializer if t.name == "head.logits.bias")
            bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.01), bias.name))
            onnx.save(model, target)
            return details

    monkeypatch.setattr(run_export, "OnnxFromCheckpoint", Wrong)
    with pytest.raises(ParityError, match=r"step onnx: .*batch 1 differ by 0\.01"):
        export_run(Checkpoint(tiny_run), tmp_path, ExportOptions(max_batch=2))
    assert not {"model.onnx", "card.json"} & {path.name for path in tmp_path.iterdir()}


def test_export_rejects_damaged_run(tmp_path: Path, tiny_run: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    with (run / "ema.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\xff")
    with pytest.raises(ArtifactError, match="sha256 does not match"):
        Checkpoint(run)
