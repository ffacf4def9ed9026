"""What the comparisons time: ShrinkCNN-A, with random weights whose activations are as large as a trained network's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from shrinkserve.arch import load_network
from shrinkserve.arch.module import compile_spec
from shrinkserve.arch.spec import Spec
from shrinkserve.exporting.samples import synthetic
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.checkpoint import normalise
from shrinkserve.runtimes.predictor import Images


@dataclass(frozen=True)
class Scale:
    """How large a network a comparison runs.

    Attributes:
        title: its name in reports.
        source: what `shrinkserve.arch.load` takes.
        size: height and width of an image.
    """

    title: str
    source: str | Path
    size: int

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess(size=self.size)

    @property
    def spec(self) -> Spec:
        return load_network(self.source, input_size=self.size)

    def images(self, count: int) -> Images:
        """Synthetic ones, uint8 [count, size, size, 3]."""
        return synthetic(self.size, count).images


FULL = Scale("ShrinkCNN-A at 224", "shrinkcnn-a", 224)
QUICK = Scale("two cells of ShrinkCNN at 32", Path(__file__).with_name("quick.prototxt"), 32)
"""What figures are told of; and what shows in seconds that the programs work."""


def calibrated(scale: Scale) -> nn.Module:
    """Random weights, and batch norms that know the activations: as fast as trained ones."""
    torch.manual_seed(0)
    network = compile_spec(scale.spec)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.1)
    with torch.no_grad():
        network.train()(normalise(torch.from_numpy(scale.images(16)), scale.preprocess))
    return network.eval()
