from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from shrinkserve.artifact import Card
from shrinkserve.exporting.exporter import ExportOptions
from shrinkserve.exporting.foreign.export import export_foreign
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


def export(path: Path, folder: Path) -> tuple[Path, Card]:
    (out := folder / "out").mkdir()
    made = export_foreign(path, PREPROCESS, CLASSES, out, ExportOptions(max_batch=3))
    return out, made.card


@pytest.mark.parametrize("softmax", [False, True])
def test_export_foreign_keeps_predictions(tmp_path: Path, softmax: bool) -> None:
    path, network = write(tmp_path, softmax=softmax)
    out, card = export(path, tmp_path)
    images = np.random.default_rng(1).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (PREPROCESS.mean, PREPROCESS.std))
    with torch.inference_mode():
        expected = network((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std)
        expected = expected if softmax else torch.softmax(expected, 1)
    found = OnnxModel(out / "model.onnx").infer(images)["probabilities"]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    assert [record["step"] for record in card.details["steps"]] == ["adapt", "passes"]


def test_export_foreign_names_nodes_without_name(tmp_path: Path) -> None:
    """ONNX does not require names; int8 identifies layers by them."""
    path, _ = write(tmp_path)
    model = onnx.load(path)
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, path)
    out, _ = export(path, tmp_path)
    made = onnx.load(out / "model.onnx").graph.node
    assert "" not in (names := [node.name for node in made])
    assert len(set(names)) == len(names)
    assert {node.name.rpartition("_")[0] or node.name for node in made if node.op_type == "Conv"} <= {"Conv"}
