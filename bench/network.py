"""Network of the comparisons: ShrinkCNN-A with random weights and activations as large as a trained network's."""

from __future__ import annotations

from dataclasses import dataclass

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
    """Size of the network in a comparison.

    Attributes:
        title: name in reports.
        source: argument of `shrinkserve.arch.load_network`.
        size: height and width of an image.
    """

    title: str
    source: str
    size: int

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess(size=self.size)

    @property
    def spec(self) -> Spec:
        return load_network(self.source, input_size=self.size)

    def images(self, count: int) -> Images:
        """Return synthetic images, uint8 [count, size, size, 3]."""
        return synthetic(self.size, count).images


FULL = Scale("ShrinkCNN-A at 224", "shrinkcnn-a", 224)
QUICK = Scale("two cells of ShrinkCNN at 32", "shrinkcnn-tiny", 32)
"""Network for figures, and a small one to test the programs in seconds."""


def calibrated(scale: Scale) -> nn.Module:
    """Return the network with random weights and calibrated batch norms; it is as fast as a trained one."""
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
