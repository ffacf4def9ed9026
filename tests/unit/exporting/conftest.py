from __future__ import annotations

from pathlib import Path

import networkx as nx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from shrinkserve.arch.builder import Builder
from shrinkserve.arch.module import compile_spec
from shrinkserve.arch.serialise import to_dict
from shrinkserve.artifact import Card, sha256_file, tensors_sha256
from shrinkserve.exporting.samples import synthetic
from shrinkserve.exporting.to_onnx import OnnxFromCheckpoint
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.checkpoint import Checkpoint, weights

CLASSES = [f"class {index}" for index in range(10)]


def tiny_network(size: int, activation: str) -> nx.DiGraph:
    """Stem, a pooled cell, a cell with an identity shortcut, head: ShrinkCNN with a fifth of its convolutions."""
    net = Builder(activation, batch_norm_decay=0.999)
    x = net.add("images", "input", channels=3, size=size)
    x = net.convolution("stem", x, 8, kernel=3, stride=2, activation=activation)
    for number, pooled in ((1, True), (2, False)):
        x = _cell(net, f"stage1.cell{number}", x, pooled=pooled)
    x = net.add("head.pool", "global_avg_pool", net.convolution("head", x, 32, 1, activation=activation))
    net.add("head.logits", "dense", x, units=len(CLASSES), bias=True)
    return net.spec


def _cell(net: Builder, name: str, r: str, f: int = 12, *, pooled: bool) -> str:
    x = net.add(f"{name}.pool", "max_pool", r, kernel=2, stride=2) if pooled else r
    sides = [net.separable(f"{name}.wiring_{side}", x, f, activation=net.activation) for side in ("left", "right")]
    left, right = (net.add(f"{name}.concat_{n}", "concat", x, side) for n, side in enumerate(sides))
    left, right = net.separable(f"{name}.left", left, f), net.convolution(f"{name}.right", right, f, 1)
    joined = net.add(f"{name}.concat", "concat", left, right)
    return net.add(f"{name}.add", "add", net.shortcut(f"{name}.shortcut", r, joined), joined)


def randomise(module: nn.Module) -> None:
    """Weights of unit gain, batch norms that change their input, and logits that tell classes apart."""
    torch.manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.0)
            nn.init.normal_(part.bias, std=0.2)
            nn.init.normal_(part.running_mean, std=0.2)
            nn.init.uniform_(part.running_var, 0.5, 2)
        elif isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.3)
            nn.init.normal_(part.bias, std=0.3)


def write_run(folder: Path, preprocess: Preprocess, activation: str) -> Path:
    """A run folder with random weights; the EMA weights and the raw ones differ."""
    spec = tiny_network(preprocess.size, activation)
    module = compile_spec(spec)
    randomise(module)
    folder.mkdir(parents=True)
    ema = weights(module)
    save_file(ema, folder / "ema.safetensors")
    save_file({name: value * 1.1 for name, value in ema.items()}, folder / "raw.safetensors")
    Card(
        kind="checkpoint",
        name="tiny",
        weights_sha256=tensors_sha256({name: value.numpy() for name, value in ema.items()}),
        files={name: sha256_file(folder / name) for name in ("ema.safetensors", "raw.safetensors")},
        preprocess=preprocess.to_dict(),
        classes=CLASSES,
        spec=to_dict(spec),
    ).write(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    preprocess = Preprocess(size=32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return write_run(tmp_path_factory.mktemp("runs") / "tiny", preprocess, "silu")


@pytest.fixture(scope="session")
def tiny_onnx(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run as a float32 graph; read only."""
    path = tmp_path_factory.mktemp("graphs") / "tiny.onnx"
    OnnxFromCheckpoint(Checkpoint(tiny_run)).run(tiny_run, path, synthetic(32, 4))
    return path
