"""Forward and backward pass as a captured CUDA graph: one launch instead of about two thousand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

WARM_UP = 3
"""Passes before the capture, as PyTorch's documentation asks for."""

Compute = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes images uint8 [N, S, S, 3] and labels [N], computes gradients, and returns loss and logits."""


@dataclass
class _Captured:
    graph: torch.cuda.CUDAGraph
    images: Tensor
    labels: Tensor
    loss: Tensor
    logits: Tensor


class GraphedPass:
    """A forward and backward pass that is captured at its first call and replayed later.

    Gradients stay in the same memory and are overwritten by each pass, so they must not be set to None.

    Args:
        compute: the pass.
        network: its buffers are restored after the warm-up passes.
    """

    def __init__(self, compute: Compute, network: nn.Module) -> None:
        self._compute, self._network = compute, network
        self._captured: _Captured | None = None

    def fits(self, images: Tensor) -> bool:
        """Return True if a batch has the captured shape; bad images make a batch smaller."""
        return self._captured is None or self._captured.images.shape == images.shape

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Run the pass; return loss and logits, which the next call overwrites."""
        if self._captured is None:
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
