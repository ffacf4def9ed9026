"""Forward and backward pass as a captured CUDA graph: one launch instead of about two thousand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shrinkserve.arch.code import CodeNetwork, Description
from shrinkserve.arch.module import Concat
from shrinkserve.config import Recipe
from shrinkserve.errors import ConfigError
from shrinkserve.training.processes.distributed import DistContext

WARM_UP = 3
"""Passes before the capture, as PyTorch's documentation asks for."""

ForwardBackward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes images uint8 [N, S, S, 3] and labels [N], computes gradients, and returns loss and logits."""


def captures(recipe: Recipe, ranks: DistContext, network: Description) -> bool:
    """Return True if the updates of a run are captured.

    With ``train.cuda_graph = "auto"`` they are where that works. Networks from Python code are left out, because their
    code may read from the GPU.

    Raises:
        ConfigError: ``train.cuda_graph = true``, and the updates cannot be captured.
    """
    train, augment = recipe.train, recipe.augment
    can = {
        "one process with a GPU": ranks.world == 1 and ranks.on_gpu,
        "train.accumulate=1": train.accumulate == 1,
        "train.compile=false or default": train.compile in {False, True, "default"},  # others capture by themselves
        "no mixup and cutmix": not augment.mixup and not augment.cutmix,
    }
    if train.cuda_graph is True and not all(can.values()):
        missing = next(condition for condition, met in can.items() if not met)
        raise ConfigError("train.cuda_graph=true", expected=missing, hint="remove the key")
    return (
        bool(train.cuda_graph)
        and all(can.values())
        and (train.cuda_graph is True or not isinstance(network, CodeNetwork))
    )


@dataclass
class _Captured:
    graph: torch.cuda.CUDAGraph
    images: Tensor
    labels: Tensor
    loss: Tensor
    logits: Tensor


class GraphedPass:
    """A forward and backward pass that is captured at its first call, and at the first call with another image size.

    Gradients stay in the same memory and are overwritten by each pass, so they must not be set to None.

    Args:
        compute: the pass.
        network: its buffers are restored after the warm-up passes.
        batch_size: images of a whole batch.
    """

    def __init__(self, compute: ForwardBackward, network: nn.Module, batch_size: int) -> None:
        self._compute, self._network, self._batch_size = compute, network, batch_size
        for module in network.modules():
            if isinstance(module, Concat):
                module.copies_gradients = True
        self._captured: _Captured | None = None

    def fits(self, images: Tensor) -> bool:
        """Return True for a whole batch. Bad images make a batch smaller, and a capture would not pay for it."""
        return len(images) == self._batch_size

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Run the pass; return loss and logits, which the next call overwrites."""
        if self._captured is None or self._captured.images.shape != images.shape:
            self._captured = None  # frees its memory
            self._network.zero_grad(set_to_none=True)
            self._captured = self._capture(images, labels)
        captured = self._captured
        captured.images.copy_(images)
        captured.labels.copy_(labels)
        captured.graph.replay()
        return captured.loss, captured.logits

    def _capture(self, images: Tensor, labels: Tensor) -> _Captured:
        images, labels = images.clone(), labels.clone()
        buffers = [buffer.clone() for buffer in self._network.buffers()]
        random = torch.cuda.get_rng_state(images.device)
        side = torch.cuda.Stream(images.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(images.device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._compute(images, labels)
                self._network.zero_grad(set_to_none=True)
        torch.cuda.current_stream(images.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # The thread that copies the next batch may allocate memory meanwhile, which only its own captures forbid.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            loss, logits = self._compute(images, labels)
        with torch.no_grad():
            for buffer, value in zip(self._network.buffers(), buffers, strict=True):
                buffer.copy_(value)
        torch.cuda.set_rng_state(random, images.device)
        return _Captured(graph, images, labels, loss.detach(), logits.detach())
