from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from shrinkserve.errors import ArtifactError, ConfigError, DataError
from shrinkserve.exporting.exporter import ExportOptions, export_foreign
from shrinkserve.exporting.foreign import check_interface, read_labels, read_preprocess
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.onnx import OnnxModel

PREPROCESS = Preprocess(size=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
CLASSES = ["a", "b", "c", "d"]


class Foreign(nn.Module):
    def __init__(self, *, softmax: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.dense, self.softmax = nn.Linear(5, 4), softmax

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.dense(torch.relu(self.norm(self.conv(x))).mean((2, 3))) * 20
        return torch.softmax(logits, 1) if self.softmax else logits


def write(folder: Path, *, softmax: bool = False, batch: bool = True) -> tuple[Path, Foreign]:
    network, path = Foreign(softmax=softmax).eval(), folder / "foreign.onnx"
    shapes = ({0: torch.export.Dim("n")},) if batch else None
    program = torch.onnx.export(
        network, (torch.zeros(2, 3, 16, 16),), dynamo=True, dynamic_shapes=shapes, optimize=False, verbose=False
    )
    assert program is not None
    program.save(path)
    return path, network


@pytest.mark.parametrize("softmax", [False, True])
def test_a_foreign_classifier_keeps_its_answers(tmp_path: Path, softmax: bool) -> None:
    path, network = write(tmp_path, softmax=softmax)
    (out := tmp_path / "out").mkdir()
    card = export_foreign(path, PREPROCESS, CLASSES, out, ExportOptions(max_batch=3), name="foreign")
    images = np.random.default_rng(1).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (PREPROCESS.mean, PREPROCESS.std))
    with torch.inference_mode():
        expected = network((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std)
        expected = expected if softmax else torch.softmax(expected, 1)
    found = OnnxModel(out / "model.onnx").infer(images)["probabilities"]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    assert [record["step"] for record in card.details["steps"]] == ["adapt", "passes"]
    operators = {node.op_type for node in onnx.load(out / "model.onnx").graph.node}
    assert "BatchNormalization" not in operators


def test_layers_without_a_name_get_one(tmp_path: Path) -> None:
    """ONNX does not ask for names; int8 tells layers apart by them."""
    path, _ = write(tmp_path)
    model = onnx.load(path)
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, path)
    (out := tmp_path / "out").mkdir()
    export_foreign(path, PREPROCESS, CLASSES, out, ExportOptions(max_batch=3), name="foreign")
    made = onnx.load(out / "model.onnx").graph.node
    assert "" not in (names := [node.name for node in made])
    assert len(set(names)) == len(names)
    assert {node.name.rpartition("_")[0] or node.name for node in made if node.op_type == "Conv"} <= {"Conv"}


def test_another_interface_is_refused(tmp_path: Path) -> None:
    path, _ = write(tmp_path)
    with pytest.raises(ArtifactError, match=r"expected one input float32 \[N, 3, 32, 32\]"):
        check_interface(path, Preprocess(size=32), CLASSES)
    with pytest.raises(ArtifactError, match=r"one output float32 \[N, 3\]"):
        check_interface(path, PREPROCESS, CLASSES[:3])
    fixed, _ = write(tmp_path, batch=False)
    with pytest.raises(ArtifactError, match="a fixed batch"):
        check_interface(fixed, PREPROCESS, CLASSES)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("size = 224\nmena = [1]", "unknown keys.*found mena"),
        ("size = 'a'", "size: "),
        ("size =", "not a readable"),
        ("std = [0.5, 0, 0.5]", r"out of range.*std.*three numbers above 0, found \(0.5, 0.0, 0.5\)"),
        ("crop_fraction = 1.5", "out of range"),
        ("size = 0", "out of range"),
        ("mean = [inf, 0.5, 0.5]", "out of range"),
    ],
)
def test_faults_of_a_preprocessing_file(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "spec.toml").write_text(text)
    with pytest.raises(ConfigError, match=error):
        read_preprocess(tmp_path / "spec.toml")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent: cannot be read \(No such file or directory\); check --preprocess"):
        read_preprocess(tmp_path / "absent")
    with pytest.raises(DataError, match=r"absent: cannot be read \(No such file or directory\); check --labels"):
        read_labels(tmp_path / "absent")


def test_labels(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    assert read_labels(tmp_path / "labels.txt") == ["cat", "dog"]
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match="no labels"):
        read_labels(tmp_path / "empty.txt")
